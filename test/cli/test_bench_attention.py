# SPDX-License-Identifier: Apache-2.0
"""The figures of `edge-nodes bench attention` and `eval delta`."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_nodes.cli.app import app
from edge_nodes.cli.bench import attention as bench_attention
from edge_nodes.cli.bench import attention_keys
from edge_nodes.cli.eval import delta as eval_delta
from edge_nodes.language.delta import reference
from edge_nodes.language.synthetic import Shape, write_model

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")


def test_the_figures_are_complete(tmp_path, monkeypatch):
    shape = bench_attention.Shape("small", 2, 2, 32, 4, 2)
    monkeypatch.setattr(bench_attention, "SHAPES", (shape,))
    monkeypatch.setattr(bench_attention, "CONTEXTS", (128, 4096))
    monkeypatch.setattr(bench_attention, "ROUNDS", 1)
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(app, ["bench", "attention", "--json", str(file)])
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    rows = {(row["kind"], row["context"]): row for row in found["results"]["attention"]}
    assert set(rows) == {(kind, n) for kind in bench_attention.KINDS for n in (128, 4096)}
    assert rows["delta", 4096]["zeros"] == pytest.approx(0.6, abs=0.02)
    assert rows["delta", 4096]["key_ratio"] < 0.5 < rows["i8", 4096]["key_ratio"]
    assert [t["target"] for t in found["targets"]] == [0.5, 1.3, 0.95] * 2
    for row in rows.values():
        assert min(row["decode_ms"], row["bound_ms"], row["prefill_ms"], row["speedup"]) > 0


def test_keys_of_a_model_on_a_text_are_attended_over(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_attention, "SHAPES", ())
    monkeypatch.setattr(bench_attention, "CONTEXTS", (128,))
    monkeypatch.setattr(bench_attention, "ROUNDS", 1)
    monkeypatch.setattr(bench_attention, "DENSE_BELOW", 0)
    text, file, model = (tmp_path / name for name in ("text.txt", "figures.json", "model.gguf"))
    write_model(model, Shape("llama", 2, 256, 256, 4, 2, 64, 512, 2048, 1e4), kind="Q8_0", head="Q8_0")
    text.write_text("the robot turns left at the door and stops before the wall. " * 40)
    done = CliRunner().invoke(
        app, ["bench", "attention", "--text", str(text), "--model", str(model), "--json", str(file)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    (name,) = found["config"]["keys"]
    assert "on text.txt, theta 1" in found["config"]["keys"][name]
    row = next(row for row in found["results"]["attention"] if row["kind"] == "delta")
    keys = attention_keys.ModelKeys(str(model), text, 192)
    rows = keys.rows(0, 192).keys
    zeros = [
        np.mean(reference.coded_rows(rows[layer, :, head], 1.0) == 0)
        for layer, head in np.ndindex(rows.shape[0], rows.shape[2])
    ]
    assert row["zeros"] == pytest.approx(np.mean(zeros), abs=0.02)
    text.write_text("too short")
    done = CliRunner().invoke(app, ["bench", "attention", "--text", str(text), "--model", str(model)])
    assert done.exit_code != 0
    assert "too short" in str(done.exception)


def test_targets_compare_with_dense_at_the_wanted_sparsity():
    def row(task, kind, score, sparsity=0.0, perplexity=None):
        return {"task": task, "kind": kind, "score": score, "prefill_sparsity": sparsity, "sparsity": sparsity,
                "running_sparsity": sparsity, "perplexity": perplexity}  # fmt: skip

    curve = [
        row("wikitext2", "dense", 3.0, perplexity=20.0),
        row("wikitext2", "global", 3.0, 0.62, 21.0),
        row("wikitext2", "calibrated", 3.0, 0.55, 20.1),
        row("wikitext2", "calibrated", 3.0, 0.65, 20.3),
    ]
    eval_delta.with_increase(curve)
    tasks = [row("piqa", "dense", 0.70), row("piqa", "calibrated", 0.69, 0.63), row("piqa", "global", 0.5, 0.6)]
    tasks += [row("squad_v2", "dense", 0.30), row("squad_v2", "calibrated", 0.31, 0.58)]
    found = {t["name"]: t for t in eval_delta.targets(curve, tasks)}
    values = [t["value"] for t in found.values()]
    assert values == pytest.approx([1.5, -1.0, 0.63, 0.63, 1.0, 0.58, 5.0 - (0.5 + 0.7)])
    assert [t["met"] for t in found.values()] == [True, False, True, True, True, True, True]


def test_one_setting_stands_for_all_tasks():
    found = SimpleNamespace(levels=[{"sparsity": x} for x in (0.5, 0.58, 0.62, 0.7)], theta=lambda level: level)
    of = eval_delta.settings(found, quick=False)
    shares = [setting.sparsity for setting in of]
    assert eval_delta.headline(of, shares, 0.6).theta == 2
    assert eval_delta.headline(of, shares, 0.57).theta == 1
    assert eval_delta.headline(of, shares, 0.9).theta == 3
    without = eval_delta.settings(None, quick=False)
    assert eval_delta.headline(without, [0.0, 0.3, 0.61, 0.5, 0.7], 0.6).label == "theta 0.7"
    assert eval_delta.headline(of[:1], [0.0], 0.6) is None


def test_reading_is_told_by_whether_there_is_an_answer():
    scores = {("dense", "squad_v2"): [1.0, 0.0, 0.5], ("theta 1", "squad_v2"): [1.0, 1.0, 1.0]}
    eval_delta.with_parts(scores, [True, False, True, True])
    found = {row["task"]: row["points"] for row in eval_delta.changes(scores)}
    assert found == pytest.approx({"squad_v2": 50.0, "squad_v2, answerable": 25.0, "squad_v2, unanswerable": 100.0})
