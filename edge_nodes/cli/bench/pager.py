# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench pager`: weights streamed within memory budgets; other ways to load, llama.cpp with mmap, beside.

Arms of one model take turns in one process, several rounds of each; the least time counts, as other work on the machine
only ever adds to it. Memory is measured in processes of their own, in a control group where that is permitted.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes import models
from edge_nodes.cli import figures, llama_cpp
from edge_nodes.cli.bench import streamed_networks
from edge_nodes.cli.bench.streamed_times import (
    CONTEXT,
    PARTS,
    QUARTER,
    READER_MB_S,
    READERS,
    THREADS,
    Case,
    times,
)
from edge_nodes.cli.figures import target
from edge_nodes.cli.memory_group import MemoryGroup, memory_group
from edge_nodes.cli.processes import in_process, seconds
from edge_nodes.errors import EdgeNodesError

KERNEL_MB = 4  # that the system needs for a process: page tables, stacks
SPARE_PERCENT, FASTER, LOWER_PERCENT, OFF_PERCENT = 5.0, 2.0, 85.0, 15.0


def bench(console: Console, *, model: str, quick: bool) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        model: name or file of the real model.
        quick: the real model only, fewer turns; done in 30 s.

    Raises:
        EdgeNodesError: the model is missing, or a process ended early.
    """
    found: dict[str, Any] = {}
    for case in _cases(console, model, quick):
        with console.status(f"{case.name}: time"):
            timed: dict[str, Any] = {}
            for parts in [PARTS] if quick else [(part,) for part in PARTS]:  # starting one takes half a second
                timed |= in_process(times, case, parts, quick)
        with console.status(f"{case.name}: memory"):
            memory = list(_memory(case, timed["cold"]["fixed_mb"], timed["cold"]["budgets"], quick))
        found[case.name] = {**timed, "memory": memory}
    with console.status("published networks"):
        networks = in_process(streamed_networks.rows, quick)["rows"]
    about = {"quick": quick, "threads": THREADS, "context_tokens": CONTEXT, "control_group": _group_version()}
    about["peer"] = "llama.cpp by xllamacpp, mmap" if llama_cpp.available() else llama_cpp.ABSENT
    results = {"models": found, "networks": networks}
    return figures.result("pager", about, results, targets(results))


def targets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached."""
    wanted, networks = [], results["networks"]
    over = max(n["peak_mb"] / n["budget_mb"] for n in networks)
    wanted.append(target("networks: peak over the budget, %", round(100 * over - 100, 1), "<=", SPARE_PERCENT))
    different = sum(not n["same"] for n in networks)
    wanted.append(target("networks: budgets with other output than in memory", different, "<=", 0))
    for name, case in results["models"].items():
        wanted += _targets(name, case)
    return wanted


def _targets(name: str, case: Mapping[str, Any]) -> list[dict[str, Any]]:
    wanted = []
    cold, memory = case["cold"], case["memory"]
    streamed = [m for m in memory if m["arm"] == "streamed"]
    over = max(100.0 * (m["growth_mb"] / m["budget_mb"] - 1) for m in streamed)
    wanted.append(target(f"{name}: peak memory over the budget, %", round(over, 1), "<=", SPARE_PERCENT))
    wanted.append(target(f"{name}: budgets with other output than in memory", cold["different"], "<=", 0))
    off = [abs(100.0 * (b["predicted_ms"] / b["typical_ms"] - 1)) for b in cold["budgets"]]
    wanted.append(target(f"{name}: prediction off by at most, %", round(max(off), 1), "<=", OFF_PERCENT))
    quarter = next((b for b in cold["budgets"] if b["share"] == QUARTER), None)
    for arm, pages in (("one_loader", "ordinary"), ("one_loader_huge", "huge")):
        faster = quarter and round(quarter[f"{arm}_ms"] / quarter["planned_ms"], 2)
        wanted.append(target(f"{name}: x one loader into {pages} pages, a quarter, cold", faster, ">=", FASTER))
    slow = case["slow_disk"]
    faster = round(slow["one_loader_ms"] / slow["planned_ms"], 2)
    what = f"a quarter in memory, emulated disk of {READER_MB_S} MB/s a reader"
    wanted.append(target(f"{name}: x one loader, {what}", faster, ">=", FASTER))
    peers = {m["limit_mb"]: m["token_ms"] for m in memory if m["arm"] == "llama.cpp"}
    ratios = [peers[m["limit_mb"]] / m["token_ms"] for m in streamed if peers.get(m["limit_mb"])]
    ratio = round(min(ratios), 2) if ratios else None
    wanted.append(target(f"{name}: x llama.cpp with mmap under the same limit", ratio, ">=", 1.0))
    resident = next(m for m in memory if m["arm"] == "resident")
    smallest = min(streamed, key=lambda m: float(m["growth_mb"]))
    lower = round(100.0 * (1 - smallest["growth_mb"] / resident["growth_mb"]), 1)
    (same,) = (b for b in cold["budgets"] if b["share"] == smallest["share"])
    cost = f"at {same['planned_ms'] / cold['resident_ms']:.0f} x the time"
    wanted.append(target(f"{name}: memory lower than resident, %, {cost}", lower, ">=", LOWER_PERCENT))
    fused = case["rows"]
    gain = round(fused[-1]["tokens_per_s"] / fused[0]["tokens_per_s"], 2)
    wanted.append(target(f"{name}: x tokens/s of {fused[-1]['rows']} fused rows", gain, ">=", 2.0))
    return wanted


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    for name, case in result["results"]["models"].items():
        for kind in ("cold", "warm"):
            _show_times(console, f"{name}, {kind}", case[kind])
        columns: tuple[str, ...] = (
            "arm",
            "budget_mb",
            "limit_mb",
            "growth_mb",
            "rss_mb",
            "group_mb",
            "token_ms",
            "read_mb",
            "stall_ms",
            "note",
        )
        rows = [[m.get(c) for c in columns] for m in case["memory"]]
        figures.show_table(console, f"{name}: memory", columns, rows)
        columns = ("rows", "pass_ms", "tokens_per_s")
        title = f"{name}: fused rows, a quarter in memory"
        figures.show_table(console, title, columns, [[r[c] for c in columns] for r in case["rows"]])
        title = f"{name}: a quarter in memory, emulated disk of {READER_MB_S} MB/s a reader"
        figures.show_table(console, title, tuple(case["slow_disk"]), [list(case["slow_disk"].values())])
    networks = result["results"]["networks"]
    title = "published networks block by block"
    figures.show_table(console, title, tuple(networks[0]), [list(n.values()) for n in networks])
    figures.show_targets(console, result["targets"])


def _show_times(console: Console, title: str, found: Mapping[str, Any]) -> None:
    columns: tuple[str, ...] = (
        "share",
        "blocks_mb",
        "readers",
        "pinned",
        "planned_ms",
        "bound_ms",
        "typical_ms",
        "predicted_ms",
        "stall_ms",
    )
    columns += ("one_loader_ms", "one_loader_huge_ms", *(f"m{m}_ms" for m in READERS))
    rows = [[row.get(c) for c in columns] for row in found["budgets"]]
    figures.show_table(console, f"{title}: time of a token within a budget", columns, rows)
    first = [["resident, every token", found["resident_ms"]], *found["first_token_ms"].items()]
    figures.show_table(console, f"{title}: first token from nothing in memory, ms", ("", "ms"), first)


def _cases(console: Console, model: str, quick: bool) -> Iterator[Case]:
    from edge_nodes.cli.random_models import random_model
    from edge_nodes.language.blocks.streaming import block_directory
    from edge_nodes.language.synthetic import SHAPES

    for shape in ("",) if quick else ("", "1b", "bitnet-2b"):
        name = f"{shape} shape" if shape else Path(model).stem
        path = random_model(console, SHAPES[shape]) if shape else models.find(model, verify=False).path
        with console.status(f"blocks of {path.name}"):
            folder = block_directory(str(path), lambda _: None)
        rounds, steps = (2, 3) if quick else (3, 2) if shape else (4, 2)
        yield Case(name, str(path), str(folder), rounds, steps)


def _memory(case: Case, fixed_mb: float, budgets: Sequence[Mapping[str, Any]], quick: bool) -> Iterator[dict[str, Any]]:
    """Yield what processes hold: resident, streamed within budgets, and llama.cpp under the same limits.

    With `quick`, llama.cpp runs at a quarter only: a token of it takes a second and more.

    A limit holds for all that a process has of its own, from its start: Python, the tokenizer, and the budget; or for
    what it has for a moment while the tokenizer is made, if that is more. A page
    of a file counts for the group that read it first, so llama.cpp has a copy that no one else reads.
    """
    with memory_group() as group:
        resident = in_process(_hold, case, 0, group, group=group)
    yield {"arm": "resident", **resident}
    with _own_copy(Path(case.path)) as path:
        for row in budgets:
            budget_mb = math.ceil(row["blocks_mb"] + fixed_mb) + 1
            own_mb = max(resident["own_mb"] + 1.05 * budget_mb, resident["start_mb"])
            limit_mb = math.ceil(own_mb) + KERNEL_MB
            with memory_group(limit_mb << 20) as group:
                found = in_process(_hold, case, budget_mb, group, group=group)
                note = {} if group else {"note": "no control group here: no limit set"}
            about = {"share": row["share"], "limit_mb": limit_mb, "budget_mb": budget_mb}
            yield {"arm": "streamed", **about, **found, **note}
            if group and llama_cpp.available() and (row["share"] == QUARTER or not quick):
                yield {
                    "arm": "llama.cpp",
                    "limit_mb": limit_mb,
                    **_limited_peer(case, path, limit_mb, 1 if quick else 2),
                }


@contextmanager
def _own_copy(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bench-") as folder:
        copy = Path(shutil.copy(path, folder))
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        yield copy


def _limited_peer(case: Case, path: Path, limit_mb: int, turns: int) -> dict[str, Any]:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with memory_group(limit_mb << 20) as group:
        try:
            return in_process(_hold_peer, replace(case, path=str(path)), turns, group, group=group)
        except EdgeNodesError as error:
            return {"note": f"does not run: {error}"}


def _hold(case: Case, budget_mb: int, group: MemoryGroup | None) -> dict[str, Any]:
    """Return the memory that weights, cache and work space took in this process, MiB, and the time of a token."""
    import psutil

    from edge_nodes.language.blocks.directory import BlockDirectory
    from edge_nodes.language.blocks.streaming import stream
    from edge_nodes.language.engine import make_model
    from edge_nodes.language.gguf_file import GgufFile
    from edge_nodes.language.tokenizer import Tokenizer

    directory = BlockDirectory(Path(case.folder))
    process, tokenizer = psutil.Process(), Tokenizer(directory.metadata)
    gc.collect()
    before, own, charged = process.memory_info().rss, _status("RssAnon"), group.held_bytes() if group else 0
    start = _status("VmHWM") - _status("RssFile")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    if group:
        group.clear_peak()
    model = make_model(directory.sizes, CONTEXT, slots=1, kv_cache="f16", threads=THREADS, kernel="auto")
    if budget_mb:
        model = stream(directory, model, memory_budget_mb=budget_mb)
    else:
        GgufFile(Path(case.path)).fill(model)
    best, stall_ms, read = float("inf"), 0.0, 0
    for position in range(case.steps + 2):
        stalled = model.window.stats().stall_s if budget_mb else 0.0
        read = _read_bytes() if position == 1 else read
        took = seconds(model.forward, np.zeros(1, np.int32), position)
        if took < best:
            best, stall_ms = took, 1e3 * (model.window.stats().stall_s - stalled) if budget_mb else 0.0
    read = _read_bytes() - read
    held = _status("VmHWM") if budget_mb else process.memory_info().rss
    del tokenizer
    return {
        "own_mb": round(own / 2**20, 1),
        "start_mb": round(start / 2**20, 1),
        "growth_mb": round((held - before) / 2**20, 1),
        "rss_mb": round(held / 2**20, 1),
        "group_mb": round((group.peak_bytes() - charged) / 2**20, 1) if group else None,
        "token_ms": round(1e3 * best, 2),
        "read_mb": round(read / 2**20 / (case.steps + 1), 1),
        "stall_ms": round(stall_ms, 2),
    }


def _hold_peer(case: Case, turns: int, group: MemoryGroup) -> dict[str, Any]:
    """Return llama.cpp's time of a token and its peak of memory, MiB; the weights are its mapped file."""
    peer = llama_cpp.LlamaCpp(Path(case.path), threads=THREADS, context=CONTEXT)
    read = _read_bytes()
    rate = max(peer.rates([1, 2, 3, 4], turns)[1] for _ in range(turns))
    passes = turns * (turns + 2)  # the prompt is one, the first token another
    return {
        "rss_mb": round(_status("VmHWM") / 2**20, 1),
        "read_mb": round((_read_bytes() - read) / 2**20 / passes, 1),
        "group_mb": round(group.peak_bytes() / 2**20, 1),
        "token_ms": round(1e3 / rate, 2),
    }


def _status(name: str) -> int:
    """Return bytes that the system says of this process: VmHWM is its peak, RssAnon what no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _read_bytes() -> int:
    """Return what this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def _group_version() -> str:
    with memory_group() as group:
        return f"cgroup v{group.version}" if group else "none permitted: resident memory only"
