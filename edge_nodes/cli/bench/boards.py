# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench boards`: one model over 1, 2 and 4 boards of an emulated network, and the ways to add up shares.

Every board is a process in a network namespace of its own. All share this machine's processors: times of tokens tell
what the network adds, not what several boards would gain.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_nodes import models
from edge_nodes.cli import figures
from edge_nodes.cli.emulated_network import EmulatedNetwork, emulated_network, outputs, permitted
from edge_nodes.cli.figures import target
from edge_nodes.cli.processes import BenchError

PORT, TIMEOUT_S = 29500, 240.0
NETWORKS = tuple((ms, mbit) for ms in (0.2, 1.0, 4.0) for mbit in (300, 1000))
QUICK_NETWORKS = ((1.0, 300),)
MODEL_NETWORK = (0.2, 1000)
SIZES = (2304, 32768, 262144)  # a token of SmolLM2, a token 8192 wide, a prompt of 114 tokens of SmolLM2
SHAPE = "6x512x1536x8x4x4096"  # random weights with four groups of heads, for up to four boards
SPLITS: tuple[tuple[float, ...], ...] = ((1,), (1, 1), (2, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1, 1))
QUICK_SPLITS: tuple[tuple[float, ...], ...] = ((1,), (1, 1))
SLOWER_PERCENT, OFF_PERCENT = 10.0, 10.0


def bench(console: Console, *, quick: bool) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        quick: one network, no random model; done in 30 s.

    Raises:
        EdgeNodesError: there can be no emulated network here, or a board failed.
    """
    if why := permitted():
        raise BenchError("boards cannot be measured here", got=why, remedy="Run as root, with /dev/net/tun.")
    exchanges = []
    for latency_ms, mbit in QUICK_NETWORKS if quick else NETWORKS:
        for ranks in (3,) if quick else (2, 4):
            with console.status(f"{ranks} boards, {latency_ms:g} ms, {mbit} Mbit/s"):
                found = _exchange(ranks, latency_ms, mbit, 3 if quick else 15)
            exchanges.append({"boards": ranks, "latency_ms": latency_ms, "mbit_s": mbit, **found})
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(_models(console, Path(scratch), quick))
    results = {"exchange": exchanges, "models": rows}
    network = "namespaces, frames delayed by a process (TAP)"
    return figures.result("boards", {"quick": quick, "network": network, "sizes": SIZES}, results, targets(results))


def targets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached."""
    from edge_nodes.language.boards.costs import ALGORITHMS, star_beats_ring

    slower, off, checked, won = [], [], 0, 0
    for e in results["exchange"]:
        for row in e["rows"]:
            best = min(row[name] for name in ALGORITHMS)
            slower.append(100.0 * (row[row["chosen"]] / best - 1))
            off.append(100.0 * (row["predicted_ms"] / row[row["chosen"]] - 1))
            form = {name: e["network"][name] for name in ("latency_s", "bytes_per_s")}
            if star_beats_ring(e["boards"], row["bytes"], **form):
                checked += 1
                won += row["star"] < row["ring"]
    memory = [
        100.0 * (board["growth_mb"] / (board["share_mb"] + board["fixed_mb"]) - 1)
        for m in results["models"]
        for board in m["boards"]
        if m["model"] != "random"
    ]
    different = sum(not m["same_tokens"] for m in results["models"])
    worst = max(memory, key=abs) if memory else None
    return [
        target("splits whose greedy tokens differ from one process", different, "<=", 0),
        target("memory of a board off its share and fixed part, %", worst and round(abs(worst), 1), "<=", OFF_PERCENT),
        target("auto slower than the best algorithm, at most %", round(max(slower), 1), "<=", SLOWER_PERCENT),
        target(
            "star faster than ring where the closed form says so, share", won / checked if checked else None, ">=", 1
        ),
        target("prediction of the chosen allreduce off by at most, %", round(max(map(abs, off)), 1), "<=", 25.0),
    ]


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    columns: tuple[str, ...] = ("boards", "latency_ms", "mbit_s", "bytes", "direct", "star", "split", "ring", "chosen")
    columns += ("predicted_ms", "form_ms")
    rows = [[{**e, **row}[c] for c in columns] for e in result["results"]["exchange"] for row in e["rows"]]
    figures.show_table(console, "an allreduce, ms", columns, rows)
    columns = ("model", "shares", "token_ms", "prefill_ms", "bytes_per_token", "same_tokens", "growth_mb", "share_mb")
    rows = [[m.get(c) for c in columns[:6]] + _memory_columns(m) for m in result["results"]["models"]]
    title = f"one model over boards, {MODEL_NETWORK[0]} ms, {MODEL_NETWORK[1]} Mbit/s"
    figures.show_table(console, title, columns, rows)
    figures.show_targets(console, result["targets"])


def _memory_columns(row: Mapping[str, Any]) -> list[str]:
    grown = ", ".join(f"{b['growth_mb']:g}" for b in row["boards"])
    return [grown, ", ".join(f"{b['share_mb']:g}+{b['fixed_mb']:g}" for b in row["boards"])]


def _exchange(ranks: int, latency_ms: float, mbit: float, rounds: int) -> dict[str, Any]:
    task = {"kind": "exchange", "ranks": ranks, "sizes": SIZES, "rounds": rounds}
    return _run(task, [{}] * ranks, latency_ms, mbit)[0]


def _run(
    task: Mapping[str, Any], boards: Sequence[Mapping[str, Any]], latency_ms: float, mbit: float
) -> list[dict[str, Any]]:
    """Return what each board of a network says to a task."""
    with emulated_network(len(boards), latency_s=latency_ms / 1e3, bits_per_s=mbit * 1e6) as network:
        started = {}
        for rank, own in enumerate(boards):
            words = {"address": EmulatedNetwork.address(0), "port": PORT, **task, "rank": rank, **own}
            command = [sys.executable, "-m", "edge_nodes.cli.board_process", json.dumps(words)]
            package = str(Path(__file__).resolve().parents[2])
            started[rank] = network.start(rank, command, PYTHONPATH=package, OMP_NUM_THREADS="1")
        lines = outputs(started, TIMEOUT_S)
    return [json.loads(lines[rank]) for rank in range(len(boards))]


def _models(console: Console, scratch: Path, quick: bool) -> Iterator[dict[str, Any]]:
    """Yield tokens, times and memory of each split of each model."""
    from edge_nodes.cli.random_models import random_model
    from edge_nodes.language.synthetic import read_shape

    sources = {} if quick else {"random": random_model(console, read_shape(SHAPE), head="Q8_0")}
    if _installed():
        sources["smollm2-135m"] = models.find("smollm2-135m", verify=False).path
    for name, source in sources.items():
        expected = None
        for shares in QUICK_SPLITS if quick else SPLITS:
            if name != "random" and len(shares) > 3:  # it has three groups of heads
                continue
            with console.status(f"{name}, shares {shares}"):
                found = _split(source, scratch / f"{name}-{'-'.join(map(str, shares))}", shares, 8 if quick else 24)
            expected = expected or found[0]["tokens"]
            row = {k: found[0][k] for k in ("token_ms", "prefill_ms", "bytes_per_token", "reduced")}
            memory = [{k: b[k] for k in ("growth_mb", "share_mb", "fixed_mb")} for b in found]
            same = found[0]["tokens"] == expected
            yield {
                "model": name,
                "shares": ":".join(f"{s:g}" for s in shares),
                **row,
                "same_tokens": same,
                "boards": memory,
            }


def _split(source: Path, folder: Path, shares: Sequence[float], tokens: int) -> list[dict[str, Any]]:
    from edge_nodes.language.blocks.convert import convert

    folders = convert(source, folder, shares=shares if len(shares) > 1 else ())
    task = {"kind": "model", "ranks": len(shares), "tokens": tokens}
    return _run(task, [{"folder": str(f)} for f in folders], *MODEL_NETWORK)


def _installed() -> bool:
    return any(m.name == "smollm2-135m" and m.path is not None for m in models.list_models())
