# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes models convert` and `plan`."""

from __future__ import annotations

import json

import pytest
from small_gguf import write_gguf

from edge_nodes import models


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path / "cache"))


def test_models_convert_and_check(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "none")
    source, out = write_gguf(tmp_path / "small.gguf"), tmp_path / "cache" / "small"
    assert run("models", "convert", str(source), str(out)) == 0
    assert run("models", "check", "small") == 0
    found, size = models.info("small"), sum(p.stat().st_size for p in out.glob("*.safetensors"))
    assert found.status == "made"
    assert 0.9 * size / 1e6 < found.megabytes < 1.3 * size / 1e6
    capsys.readouterr()
    assert run("models", "list") == 0
    assert f"{found.megabytes:.1f} MB  small" in capsys.readouterr().out
    block = out / "blk.0.attn.safetensors"
    block.write_bytes(block.read_bytes()[:-1] + b"\xff")
    assert run("models", "check", "small") == 1
    shards = tmp_path / "shards"
    assert run("models", "convert", str(source), str(shards), "--shards", "2", "--shares", "1,1") == 0
    assert (shards / "rank-1" / "manifest.json").is_file()
    capsys.readouterr()
    assert run("models", "convert", str(source), str(shards / "x"), "--shards", "2", "--shares", "1") == 1
    assert "--shares must be a positive number for each board" in capsys.readouterr().err


def test_shares_from_speed_and_memory(run, tmp_path, capsys):
    source = write_gguf(tmp_path / "small.gguf")
    command = ("models", "convert", str(source), "--shards", "2", "--speeds", "9,1")
    assert run(*command[:3], str(tmp_path / "a"), *command[3:]) == 0
    index = json.loads((tmp_path / "a" / "rank-1" / "blocks.json").read_text())
    assert index["shard"]["kv_heads"] == [1, 1]
    assert run(*command[:3], str(tmp_path / "b"), *command[3:], "--memory-mb", "0.01,0.01") == 1
    assert "the boards do not hold the model together" in capsys.readouterr().err


def test_models_plan(run, tmp_path, capsys):
    source, figures = write_gguf(tmp_path / "small.gguf"), tmp_path / "plan.json"
    command = ("models", "plan", str(source), "--context-tokens", "8192", "--budget-mb", "60", "--json", str(figures))
    assert run(*command) == 0
    results = json.loads(figures.read_text())["results"]
    rows = results["budgets"]
    assert [r["budget_mb"] for r in rows] == sorted(r["budget_mb"] for r in rows)
    assert all(r["peak_mb"] <= r["budget_mb"] for r in rows)
    assert rows[-1]["stall_ms"] == 0.0
    smallest = results["smallest_mb"]
    assert run(*command[:-3], str(smallest), *command[-2:]) == 0
    assert run(*command[:-3], str(smallest - 1), *command[-2:]) == 1
    assert f"expected at least {smallest} MiB" in capsys.readouterr().err
