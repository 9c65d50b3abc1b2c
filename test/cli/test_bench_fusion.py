# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from small_gguf import write_gguf
from typer.testing import CliRunner

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")


def test_the_figures_are_complete(tmp_path, monkeypatch):
    from edge_nodes.cli.app import app
    from edge_nodes.cli.bench import fusion as bench_fusion
    from edge_nodes.cli.bench import fusion_loads

    monkeypatch.setattr(fusion_loads, "REQUESTS", 5)
    monkeypatch.setattr(fusion_loads, "TOKENS", range(3, 250))
    monkeypatch.setattr(bench_fusion.llama_cpp, "available", lambda: False)
    model, path = write_gguf(tmp_path / "small.gguf"), tmp_path / "fusion.json"
    outcome = CliRunner().invoke(app, ["bench", "fusion", "--quick", "--model", str(model), "--json", str(path)])
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(path.read_text())
    (about,) = result["results"]["models"]
    ways = {(r["load"], r["way"]): r for r in about["runs"]}
    fused_ways = ["fused", "fused, 8 slots", "fused, all at once"]
    assert {way for _, way in ways} == {"one after another", "static batches of 8", *fused_ways}
    assert {(row["way"], row["firsts"]) for row in about["firsts"]} >= {(way, 2) for way in fused_ways}
    fused = ways[bench_fusion.SMALL_GAP, "fused"]
    assert fused["occupancy"] > ways[bench_fusion.SMALL_GAP, "one after another"]["occupancy"] == 1.0
    assert all(r["total_s"] > 0 and r["tokens_per_s"] > 0 for r in about["runs"])
    assert [r["arrangement"] for r in about["arrangements"]] == ["index", "window", "window_fixed", "swap"]
    names = [t["name"].partition(": ")[2].partition(",")[0] for t in result["targets"]]
    per_way = ["5 requests", "mean latency of 2 first requests"]
    assert [n for n in names if not n.startswith("latency of an alarm")] == [*per_way * 3, *["tokens/s"] * 3]
    assert [t["met"] for t in result["targets"]][-3:] == [False] * 3  # without the peer nothing was measured
    assert len(result["results"]["simulation"]) == 14


def test_the_peer_is_asked_the_same(tmp_path):
    pytest.importorskip("xllamacpp")
    from edge_nodes.cli import llama_cpp
    from edge_nodes.cli.bench import fusion_loads

    model = write_gguf(tmp_path / "small.gguf")
    peer = llama_cpp.LlamaCpp(model, threads=1, context=512, slots=2)
    load = fusion_loads.Load("two", [0.0, 0.01], [[5, 6, 7], [8, 9, 10]], [6, 9])
    run = fusion_loads.ask_peer(peer, load)
    assert len(run.latency_s) == 2
    assert 0 < max(run.latency_s) <= run.total_s
