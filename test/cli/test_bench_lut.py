# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")


def test_the_figures_are_complete(tmp_path, monkeypatch):
    from edge_nodes.cli.app import app
    from edge_nodes.cli.bench import lut as bench_lut
    from edge_nodes.language import kernel_choice

    monkeypatch.setattr(bench_lut, "SHAPES", ((64, 256),))
    monkeypatch.setattr(bench_lut, "STREAMED_BYTES", 1 << 14)
    monkeypatch.setattr(kernel_choice, "cache_file", lambda: tmp_path / "kernels.json")
    path = tmp_path / "lut.json"
    outcome = CliRunner().invoke(app, ["bench", "lut", "--quick", "--json", str(path)])
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(path.read_text())
    assert result["name"] == "lut"
    assert {p["n"] for p in result["results"]["products"]} == {1, 32, 128}
    assert all(p["gmacs"] > 0 for p in result["results"]["products"])
    assert {p["type"] for p in result["results"]["products"]} == {"2.00", "1.60", "Q4_0", "Q6_K", "Q8_0"}
    assert {p["method"] for p in result["results"]["products"]} == {"dot", "lut"}
    assert all(t["value"] > 0 for t in result["targets"])
    assert len(result["results"]["bounds"]) == 2 * len(result["config"]["kernels"])
