# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

import pytest
from small_gguf import write_gguf
from typer.testing import CliRunner

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
from edge_nodes import models
from edge_nodes.cli import llama_cpp
from edge_nodes.cli.bench import language as command
from edge_nodes.language import synthetic


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small model, and a small shape in place of the large one, in an empty cache."""
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path / "cache" / "models"))
    shape = replace(synthetic.SHAPES["bitnet-2b"], width=256, hidden=512, heads=4, kv_heads=2, head_dim=64)
    monkeypatch.setitem(synthetic.SHAPES, "bitnet-2b", shape)
    return write_gguf(tmp_path / "small.gguf")


def test_the_figures_are_complete(small, tmp_path):
    from edge_nodes.cli.app import app

    path = tmp_path / "language.json"
    outcome = CliRunner().invoke(app, ["bench", "language", "--quick", "--model", str(small), "--json", str(path)])
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(path.read_text())
    rates = result["results"]["rates"]
    assert [(r["threads"], r["model"].split(",")[0]) for r in rates] == [
        (threads, name) for name in ("small", "BitNet-2B shape") for threads in (1, 2)
    ]
    for row in rates:
        assert min(row[stage] for stage in ("prefill", "decode", "prefill_bound", "decode_bound")) > 0
        assert (row["prefill_ratio"] is not None) == llama_cpp.available()
    assert len(result["targets"]) == 8 + 2 + 4
    for memory in result["results"]["memory"]:
        assert memory["resident_mb"] > memory["file_mb"] > 0
    assert min(result["results"]["start"].values()) > 0
    assert 0 < result["results"]["python"]["greedy_percent"] < 100
    assert len(list((tmp_path / "cache" / "models" / ".bench").iterdir())) == 1
    assert all("random" not in m.name for m in models.list_models())


def test_what_was_not_measured_is_not_met():
    row = {"model": "m", "threads": 1, "prefill_ratio": None, "decode_ratio": 1.5}
    results = {
        "rates": [row],
        "memory": [{"model": "m", "beyond_mb": 81.0}],
        "start": {"first_token_s": 1.0, "import_s": 0.1},
        "python": {"greedy_percent": 1.0, "drawn_percent": 5.1},
    }
    found = command.targets([command.Case("m", "m.gguf", 512, 128, 1, 1.0, 1.0)], results)
    assert [t["met"] for t in found] == [False, True, False, True, True, True, False]


def test_a_peer_that_does_not_load_is_one_clear_error(tmp_path):
    if not llama_cpp.available():
        pytest.skip(llama_cpp.ABSENT)
    (tmp_path / "bad.gguf").write_bytes(b"noise")
    with pytest.raises(command.BenchError, match=r"llama\.cpp does not load"):
        llama_cpp.LlamaCpp(tmp_path / "bad.gguf", threads=1, context=64)
