# SPDX-License-Identifier: Apache-2.0
"""Delta attention of other models: heads 128 wide, of the Llama architecture and of BitNet, from file to figures."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_nodes.cli.app import app
from edge_nodes.cli.eval import delta as eval_delta
from edge_nodes.language.attention import Calibration
from edge_nodes.language.delta import calibration
from edge_nodes.language.evaluation import tasks
from edge_nodes.language.synthetic import Shape, write_model

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")


def write_data(folder):
    """Write texts and questions in the form of the packed data."""
    words = ["robot", "wall", "door", "person", "left", "right", "ahead", "stops", "turns", "one", "two", "three"]
    chosen = np.random.default_rng(0).choice(words, 1500)
    question = {"query": "Question: where is the wall?", "choices": ["left of it", "ahead of the door"], "gold": 0}
    files = {
        "wikitext2_valid.txt.gz": " ".join(chosen),
        "piqa.jsonl.gz": "\n".join([json.dumps(question)] * 3),
        "arc_easy.jsonl.gz": "\n".join([json.dumps(question)] * 3),
    }
    for name, text in files.items():
        with gzip.open(folder / name, "wt") as file:
            file.write(text)


@pytest.mark.parametrize(("architecture", "kind"), [("llama", "Q8_0"), ("bitnet", "TQ2_0")])
def test_other_models_are_calibrated_and_evaluated(tmp_path, monkeypatch, architecture, kind):
    for module, name, value in (
        (calibration, "CHECKED", 64),
        (calibration, "LENGTHS", ((96, 1, 1), (32, 2, 1))),
        (calibration, "LEVELS", (0.3, 0.6)),
        (tasks, "STRIDE", 128),
        (eval_delta, "STRIDE", 128),
    ):
        monkeypatch.setattr(module, name, value)
    model, thresholds, figures = (tmp_path / name for name in ("model.gguf", "thresholds.json", "figures.json"))
    write_model(model, Shape(architecture, 2, 256, 256, 2, 1, 128, 512, 2048, 1e4), kind=kind, head="Q8_0")
    write_data(tmp_path)
    text = str(tmp_path / "wikitext2_valid.txt.gz")
    done = CliRunner().invoke(
        app, ["models", "calibrate", str(model), "--text", text, "--out", str(thresholds), "--budget", "9"]
    )
    assert done.exit_code == 0, done.output
    found = Calibration.read(thresholds)
    assert found.theta().shape == (2, 1, 128)
    assert found.levels[0]["sparsity"] < found.levels[1]["sparsity"]
    options = ["--data", tmp_path, "--model", model, "--calibration", thresholds, "--quick", "--json", figures]
    done = CliRunner().invoke(app, ["eval", "delta", *map(str, options)])
    assert done.exit_code == 0, done.output
    results = json.loads(figures.read_text())["results"]
    assert {row["kind"] for row in results["curve"]} == {"dense", "global", "calibrated"}
    calibrated = next(row for row in results["curve"] if row["kind"] == "calibrated")
    assert 0.3 < calibrated["prefill_sparsity"] < 0.8
    assert calibrated["perplexity"] > 1.0
    assert [row["task"] for row in results["change"] if row["attention"] == calibrated["attention"]] == [
        "piqa",
        "arc_easy",
        "mean accuracy",
    ]
