# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes eval speech` from packs to figures."""

from __future__ import annotations

import json
import shutil

from clip_packs import clip_pack

from edge_nodes.cli import peers
from edge_nodes.models import SHIPPED
from edge_nodes.speech import SpeechModel


def test_clips_and_noise(run, tmp_path, monkeypatch, capsys):
    from edge_nodes.cli.eval import speech as eval_speech

    monkeypatch.setattr(eval_speech, "NOISE_S", 4)
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    stem = clip_pack(tmp_path / "mixed", ["turn left", "stop", None])
    assert run("eval", "speech", "--data", stem, "--json", tmp_path / "x.json") == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert set(found) >= {"name", "machine", "config", "results", "targets"}
    results = found["results"]
    assert results["packs"]["mixed"]["not trained on"]["clips"] == 2
    assert "not installed" in results["others"]["pocketsphinx"]["absent"]
    noise = results["noise"]["mixed"]
    assert (noise["false_accepts"], noise["recorded_minutes"]) == (0, 0.02)
    assert 4 <= 60 * noise["minutes"] <= 6
    assert {t["name"] for t in found["targets"]} >= {"encoder operations the shipped policy saves, %"}
    assert "WER %" in capsys.readouterr().out


def test_calibrates_a_model_beside_its_weights(run, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    model = tmp_path / "model"
    shutil.copytree(SHIPPED / "speech" / "splitformer", model)
    (model / "calibration.json").unlink()
    stem = clip_pack(tmp_path / "a", ["turn left", "stop"])
    words = ["eval", "speech", "--calibrate", "--data", stem, "--model", model, "--json", tmp_path / "x.json"]
    assert run(*words) == 0
    stored = json.loads((model / "calibration.json").read_text())
    found = json.loads((tmp_path / "x.json").read_text())["results"]["calibration"]
    assert stored["weights_sha256"] == json.loads((model / "manifest.json").read_text())["sha256"]
    assert {name: stored[name] for name in ("words", "confidence", "entropy", "earliest")}.items() <= found.items()
    assert stored["found_on"]["clips"] == {"a": 2}
    assert SpeechModel(str(model)).calibration.earliest == stored["earliest"]


def test_nothing_to_calibrate_with_is_one_line(run, tmp_path, capsys):
    stem = clip_pack(tmp_path / "noise", [None])
    assert run("eval", "speech", "--calibrate", "--data", stem) == 1
    assert "nothing to calibrate with" in capsys.readouterr().err


def test_peers_are_compared_with(run, tmp_path, monkeypatch):
    from edge_nodes.cli.eval import speech as eval_speech

    monkeypatch.setattr(eval_speech, "peers", lambda _: [("pocketsphinx", lambda _: "stop"), ("faster-whisper", "no")])
    stem = clip_pack(tmp_path / "a", ["stop"])
    assert run("eval", "speech", "--quick", "--data", stem, "--json", tmp_path / "x.json") == 0
    others = json.loads((tmp_path / "x.json").read_text())["results"]["others"]
    assert others["pocketsphinx"]["wer"] == 0.0
    assert others["pocketsphinx"]["clips"] == 1
    assert others["pocketsphinx"]["ours_wer"] is not None
    assert others["faster-whisper"] == {"absent": "no"}


def test_bad_data_is_one_line(run, tmp_path, capsys):
    assert run("eval", "speech", "--data", tmp_path / "none") == 1
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ")
    assert "\n" not in printed


def test_the_comparison_beside_the_weights_is_shown(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    model = tmp_path / "model"
    shutil.copytree(SHIPPED / "speech" / "splitformer", model)
    both = {"with": [90.0, 50.0, 9.0, 6.0], "without": [92.0, 50.5, 8.0, 6.0]}
    found = {"steps": 7} | {k: {"parameters": 1, "wer": {"a": v}} for k, v in both.items()}
    found |= {"better": [2.0, 0.5, -1.0, 0.0], "better_within": [0.25, 0.25, 0.25, 0.25]}
    (model / "comparison.json").write_text(json.dumps(found))
    stem = clip_pack(tmp_path / "a", ["stop"])
    assert run("eval", "speech", "--quick", "--data", stem, "--model", model, "--json", tmp_path / "x.json") == 0
    targets = {t["name"]: (t["value"], t["met"]) for t in json.loads((tmp_path / "x.json").read_text())["targets"]}
    assert targets["exits that may be worse than a same-size early-exit Conformer's, trained alike"] == (2.0, False)
    assert targets["points of WER better than it at the two lowest exits, at least"] == (0.25, False)
    printed = capsys.readouterr().out
    assert "for 7 steps" in printed
    assert "0.25" in printed
