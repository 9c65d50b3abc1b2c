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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes import models
from edge_nodes.cli import figures, llama_cpp
from edge_nodes.cli.bench import streamed_networks
from edge_nodes.cli.figures import target
from edge_nodes.cli.memory_group import MemoryGroup, memory_group
from edge_nodes.cli.processes import in_process, seconds
from edge_nodes.errors import EdgeNodesError

CONTEXT, THREADS, ROWS = 128, 1, (1, 2, 4, 8, 16)
QUARTER = 0.25
SHARES = (0.0, 0.1, QUARTER, 0.5, 0.75)  # of the blocks' bytes; the first is the smallest budget
QUICK_SHARES = (0.0, QUARTER)
READERS = (2, 4, 6)
READER_MB_S = 100  # of the emulated disk, which serves any number of readers at a time
PARTS = ("cold", "warm", "rows", "slow_disk")
KERNEL_MB = 4  # that the system needs for a process: page tables, stacks
SPARE_PERCENT, FASTER, LOWER_PERCENT, OFF_PERCENT = 5.0, 2.0, 85.0, 15.0


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: for the tables.
        path: its GGUF file.
        folder: its block directory.
        rounds: turns of each arm.
        steps: tokens of a turn.
    """

    name: str
    path: str
    folder: str
    rounds: int
    steps: int


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
                timed |= in_process(_times, case, parts, quick)
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
    faster = quarter and round(quarter["one_loader_ms"] / quarter["planned_ms"], 2)
    wanted.append(target(f"{name}: x one loader, a quarter in memory, cold", faster, ">=", FASTER))
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
    columns += ("one_loader_ms", *(f"m{m}_ms" for m in READERS))
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
        yield Case(name, str(path), str(folder), 3 if quick else 2 if shape else 4, 2)


class _Bench:
    """A native model and its blocks, streamed by one plan after the other."""

    def __init__(self, case: Case, *, slots: int = 1) -> None:
        from edge_nodes.language.blocks.directory import BlockDirectory
        from edge_nodes.language.engine import make_model

        self.directory = BlockDirectory(Path(case.folder))
        self.native = make_model(
            self.directory.sizes, CONTEXT, slots=slots, kv_cache="f16", threads=THREADS, kernel="auto"
        )
        self.sizes = [file.bytes for file in self.directory.order()]
        self.direct, self.case = True, case

    def open(self, plan: Any, load: Any = None) -> Any:
        from edge_nodes.language.blocks.streamed_model import StreamedModel

        return StreamedModel(self.native, self.directory, plan, load=load, direct=self.direct)

    def turn(self, plan: Any, *, first: bool = False, load: Any = None, steps: int = 0) -> dict[str, Any]:
        """Return the least time of a token, its stall, and and of all; or that of the first from nothing."""
        begin = time.perf_counter()
        model = self.open(plan, load)
        found: list[tuple[float, float]] = []
        try:
            logits = model.forward(np.zeros(1, np.int32), 0)
            if first:
                return {"ms": 1e3 * (time.perf_counter() - begin), "stall_ms": 1e3 * model.window.stats().stall_s}
            for position in range(1, (steps or self.case.steps) + 1):
                model.window.clear_stats()
                took = seconds(model.forward, np.zeros(1, np.int32), position)
                found.append((took, model.window.stats().stall_s))
        finally:
            model.close()
        took, stall = min(found)
        return {
            "ms": 1e3 * took,
            "stall_ms": 1e3 * stall,
            "steps_ms": [1e3 * took for took, _ in found],
            "logits": logits,
        }


def _times(case: Case, parts: Sequence[str], quick: bool) -> dict[str, Any]:
    """Return what tokens take: from the disk, from the page cache, in several rows, and from a slow disk."""
    bench = _Bench(case)
    works: dict[str, Callable[[], Any]] = {
        "cold": lambda: _timings(bench, True, quick),
        "warm": lambda: _timings(bench, False, quick),
        "rows": lambda: _fused_rows(case),
        "slow_disk": lambda: _slow_disk(bench),
    }
    return {part: works[part]() for part in parts}


def _timings(bench: _Bench, direct: bool, quick: bool) -> dict[str, Any]:
    """Return what tokens take by way of loading and by budget.

    What a disk gives drifts within seconds, so every round measures the profile's steps, too: what is predicted from
    all of them is compared with all steps of the planned runs.
    """
    from edge_nodes.language.blocks.profile import Profiler, keep
    from edge_nodes.paging.measure import read_rates
    from edge_nodes.paging.plan import Plan, Run, plan, simulate
    from edge_nodes.paging.window import BlockWindow, smallest_budget, whole_pages

    bench.direct, profiler = direct, Profiler(bench.native, bench.directory, direct=direct)
    profiler.measure()
    measured = profiler.fit()
    total, least, none = sum(map(whole_pages, bench.sizes)), smallest_budget(bench.sizes), Run(0.0, 0.0, 0)
    everything = tuple(range(len(bench.sizes)))
    arms: dict[tuple[str, str], Any] = {("resident", "token"): Plan(total, 1, everything, none)}
    arms |= {(f"{m} loaders, all stay", "first"): Plan(total, m, everything, none) for m in (1, *READERS)}
    shares = {share: max(least, int(share * total)) for share in (QUICK_SHARES if quick else SHARES)}
    for share, budget in shares.items():
        arms["one_loader", str(share)] = Plan(budget, 1, (), none)
        arms["planned", str(share)] = plan(measured, budget)
        if share == QUARTER:
            arms |= {(f"m{m}", str(share)): plan(measured, budget, readers=(m,)) for m in READERS}
    best: dict[tuple[str, str], dict[str, Any]] = {}
    typical: dict[str, list[float]] = {str(share): [] for share in shares}
    for turn in range(1 if quick and not direct else bench.case.rounds):
        if turn:
            profiler.measure()
        for key, chosen in arms.items():
            if turn and quick and key[0] not in ("planned", "one_loader"):
                continue
            found = bench.turn(chosen, first=key[1] == "first")
            if key[0] == "planned":
                typical[key[1]] += found["steps_ms"]
            if key not in best or found["ms"] < best[key]["ms"]:
                best[key] = found
    measured = profiler.fit()
    keep(measured, bench.native, bench.directory, direct=direct)
    disk = max(read_rates(bench.directory.order(), (READERS[-1],) if quick else READERS, direct=direct).values())

    def load_all() -> None:
        files = [file.path for file in bench.directory.order()]
        with BlockWindow(bench.sizes, files, budget_bytes=total, pinned=everything, direct=direct) as window:
            for index in everything:
                window.acquire(index)
                window.release(index)

    resident = best["resident", "token"]
    alike = [np.array_equal(found["logits"], resident["logits"]) for found in best.values() if "logits" in found]
    rows = []
    for share, budget in shares.items():
        chosen, named = arms["planned", str(share)], str(share)
        streamed = total - sum(whole_pages(bench.sizes[i]) for i in chosen.pinned)
        row = {"share": share, "blocks_mb": round(budget / 2**20, 1), "readers": chosen.readers}
        run = simulate(measured, budget, readers=chosen.readers, pinned=chosen.pinned)
        row |= {"pinned": len(chosen.pinned), "predicted_ms": round(1e3 * run.pass_s, 2)}
        row |= {"typical_ms": round(float(np.median(typical[named])), 2)}
        row |= {f"{arm}_ms": round(v["ms"], 2) for (arm, kind), v in best.items() if kind == named}
        row |= {"stall_ms": round(best["planned", named]["stall_ms"], 2)}
        rows.append(row | {"bound_ms": round(max(1e3 * streamed / disk, resident["ms"]), 2)})
    all_s = min(seconds(load_all) for _ in range(1 if quick else bench.case.rounds))
    first = {arm: round(v["ms"], 2) for (arm, kind), v in best.items() if kind == "first"}
    return {
        "resident_ms": round(resident["ms"], 2),
        "first_token_ms": {"load all, then compute": round(1e3 * all_s + resident["ms"], 2), **first},
        "budgets": rows,
        "different": alike.count(False),
        "disk_mb_s": round(disk / 1e6, 1),
        "read_mb_s": {m: round(rate / 1e6, 1) for m, rate in measured.bytes_per_s.items()},
        "handover_us": round(1e6 * measured.handover_s, 1),
        "blocks_mb": round(total / 2**20, 1),
        "fixed_mb": round((bench.native.cache_bytes + bench.native.work_bytes) / 2**20, 1),
    }


def _fused_rows(case: Case) -> list[dict[str, Any]]:
    """Return tokens a second of several sequences that share each pass over the disk."""
    from edge_nodes.language.blocks.profile import profile
    from edge_nodes.paging.plan import plan
    from edge_nodes.paging.window import smallest_budget

    bench = _Bench(case, slots=max(ROWS))
    measured = profile(bench.native, bench.directory)
    budget = max(smallest_budget(bench.sizes), int(QUARTER * sum(bench.sizes)))
    model, best = bench.open(plan(measured, budget)), dict.fromkeys(ROWS, float("inf"))
    for position in range(case.rounds):
        for rows in ROWS:
            segments = [(slot, position, 1) for slot in range(rows)]
            step = partial(model.forward, np.zeros(rows, np.int32), segments=segments, rows=list(range(rows)))
            best[rows] = min(best[rows], seconds(step))
    model.close()
    return [{"rows": n, "pass_ms": round(1e3 * s, 2), "tokens_per_s": round(n / s, 2)} for n, s in best.items()]


def _slow_disk(bench: _Bench) -> dict[str, Any]:
    """Return times of a token where each reader is slow, but none slows the others: blocks come from memory."""
    from edge_nodes.language.blocks.profile import profile
    from edge_nodes.paging.plan import Plan, Run, plan
    from edge_nodes.paging.window import smallest_budget

    contents = [np.fromfile(file.path, np.uint8) for file in bench.directory.order()]

    def load(index: int, memory: memoryview) -> None:
        begin = time.perf_counter()
        memory[:] = contents[index].data
        time.sleep(max(0.0, len(memory) / (1e6 * READER_MB_S) - (time.perf_counter() - begin)))

    rates = {m: 1e6 * READER_MB_S * m for m in (1, *READERS)}
    known = replace(profile(bench.native, bench.directory), bytes_per_s=rates)
    budget = max(smallest_budget(bench.sizes), int(QUARTER * sum(bench.sizes)))
    chosen = plan(known, budget)
    one, planned = (bench.turn(p, load=load, steps=1) for p in (Plan(budget, 1, (), Run(0.0, 0.0, 0)), chosen))
    return {
        "one_loader_ms": round(one["ms"], 2),
        "planned_ms": round(planned["ms"], 2),
        "predicted_ms": round(1e3 * chosen.run.pass_s, 2),
        "readers": chosen.readers,
        "pinned": len(chosen.pinned),
    }


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
