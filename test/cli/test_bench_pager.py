# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench pager`: the whole run on a small model, and what its figures mean."""

from __future__ import annotations

import json

import pytest
from small_gguf import write_gguf

from edge_nodes.cli import main
from edge_nodes.cli.bench.pager import targets


def test_quick_run_has_every_target(tmp_path, monkeypatch):
    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path / "cache"))
    out = tmp_path / "pager.json"
    with pytest.raises(SystemExit) as end:
        main(["bench", "pager", "--quick", "--model", str(write_gguf(tmp_path / "small.gguf")), "--json", str(out)])
    assert end.value.code == 0
    result = json.loads(out.read_text())
    assert set(result) >= {"name", "machine", "config", "results", "targets"}
    assert len(result["targets"]) == 11
    assert {n["network"] for n in result["results"]["networks"]} == {
        "PPN reconstruction",
        "Splitformer",
    }
    assert all(n["same"] for n in result["results"]["networks"])
    found = result["results"]["models"]["small"]
    assert found["cold"]["different"] == found["warm"]["different"] == 0
    assert [row["share"] for row in found["cold"]["budgets"]] == [0.0, 0.25]
    assert {m["arm"] for m in found["memory"]} >= {"resident", "streamed"}


ONE = {"predicted_ms": 21.0, "one_loader_ms": 50.0, "one_loader_huge_ms": 40.0}


def figures(**changes):
    one = {**ONE, "planned_ms": 20.0, "typical_ms": 22.0}
    budgets = [{"share": share, **one} for share in (0.0, 0.25)]
    cold = {"budgets": budgets, "different": 0, "resident_ms": 2.0}
    memory = [
        {"arm": "resident", "growth_mb": 100.0},
        {"arm": "streamed", "share": 0.25, "budget_mb": 10, "limit_mb": 50, "growth_mb": 10.4, "token_ms": 20.0},
        {"arm": "llama.cpp", "limit_mb": 50, "token_ms": 30.0},
    ]
    rows = [{"rows": 1, "tokens_per_s": 50.0}, {"rows": 16, "tokens_per_s": 700.0}]
    slow = {"one_loader_ms": 90.0, "planned_ms": 30.0}
    networks = [{"peak_mb": 4.0, "budget_mb": 4.0, "same": True}]
    case = {"cold": {**cold, **changes}, "memory": memory, "rows": rows, "slow_disk": slow}
    return {"models": {"m": case}, "networks": networks}


def test_targets_are_met_by_good_figures_and_missed_by_bad_ones():
    assert [t["met"] for t in targets(figures())] == [True] * 11
    assert [t["met"] for t in targets(figures(different=1))].count(False) == 1
    slow = [{**ONE, "share": 0.25, "planned_ms": 22.0, "typical_ms": 31.0}]
    missed = [t["name"] for t in targets(figures(budgets=slow)) if not t["met"]]
    assert missed == ["m: prediction off by at most, %", "m: x one loader into huge pages, a quarter, cold"]
