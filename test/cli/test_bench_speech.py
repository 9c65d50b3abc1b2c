# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench speech` on one short clip."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from edge_nodes.cli import main, node_memory, peers, session
from edge_nodes.cli.bench import speech as bench
from edge_nodes.cli.figures import DataError
from edge_nodes.speech.exits import Reading


def test_figures_of_the_demos_commands(tmp_path, monkeypatch):
    # Here, not in processes of their own: what is patched stays so.
    monkeypatch.setattr(bench, "in_process", lambda work, *args: work(*args))
    monkeypatch.setattr(bench.os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(node_memory, "find_spec", lambda _: None)
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as end:
        main(["bench", "speech", "--quick", "--json", str(tmp_path / "x.json")])
    assert end.value.code == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert set(found) >= {"name", "machine", "config", "results", "targets"}
    results = found["results"]
    factors = [e["real_time_factor"] for e in results["exits"].values()]
    assert factors[0] < factors[-1]
    final = results["latency_ms"]["end of speech to final text"]
    # The silence after which the text is given is part of it.
    assert 200 < final["p50"] <= final["max"]
    assert results["memory_mb"] > 50
    assert len(found["targets"]) == 7


def test_whole_clips_leave_at_the_models_own_thresholds(monkeypatch):
    monkeypatch.setattr(bench.os, "sched_setaffinity", lambda *_: None)
    _, recognizer, leave = bench._prepared(0, [], "speech/splitformer")
    known = recognizer.model.calibration
    assert known.words < 1.0
    assert leave(known.earliest, Reading("", known.words))
    assert not leave(known.earliest, Reading("", known.words - 0.01))


def test_whisper_is_a_target_where_it_is():
    latency = {
        "end of speech to final text": {"p95": 450.0},
        "between partial texts": {"p95": 310.0},
        "work on a whole clip": {"p50": 20.0},
    }
    results = {
        "exits": {"exit 1": {"real_time_factor": 0.01}, "exit 2": {"real_time_factor": 0.02}},
        "latency_ms": latency,
        "streams": {"flicker_percent": 3.0},
        "parallel_layers": {"time_percent_beside": 4.0},
        "memory_mb": 300.0,
        "others": {"faster-whisper": {"times_faster": 10.0}},
    }
    found = {t["name"]: t for t in bench.targets(results)}
    assert found["times faster than Whisper tiny.en from the end of speech to text"]["value"] == 10.0
    assert sum(t["met"] for t in found.values()) == 5


def test_clips_of_another_rate_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(8000, np.float32), 8000)
    with pytest.raises(DataError, match="8000 Hz"):
        bench.read_clips([tmp_path / "a.flac"])


def test_without_the_demos_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "demo_bag", lambda: tmp_path / "demo.mcap")
    with pytest.raises(DataError, match="are missing"):
        bench.bench(bench.Console(), model="speech/splitformer", whisper="", quick=True)
