# SPDX-License-Identifier: Apache-2.0
"""Times of `edge-nodes bench pager`: tokens by budget and way of loading, in several rows, and from a slow disk."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_nodes.cli.processes import seconds

CONTEXT, THREADS, ROWS = 128, 1, (1, 2, 4, 8, 16)
QUARTER = 0.25
SHARES = (0.0, 0.1, QUARTER, 0.5, 0.75)  # of the blocks' bytes; the first is the smallest budget
QUICK_SHARES = (0.0, QUARTER)
READERS = (2, 4, 6)
READER_MB_S = 100  # of the emulated disk, which serves any number of readers at a time
_SET_THP_DISABLE = 41  # of prctl
ALWAYS = ("resident", "planned", "one_loader", "one_loader_huge")  # arms that a quick run takes every turn of
PARTS = ("cold", "warm", "rows", "slow_disk")


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


def times(case: Case, parts: Sequence[str], quick: bool) -> dict[str, Any]:
    """Return what tokens take: from the disk, from the page cache, in several rows, and from a slow disk."""
    bench = _Bench(case)
    works: dict[str, Callable[[], Any]] = {
        "cold": lambda: _timings(bench, True, quick),
        "warm": lambda: _timings(bench, False, quick),
        "rows": lambda: _fused_rows(case),
        "slow_disk": lambda: _slow_disk(bench),
    }
    return {part: works[part]() for part in parts}


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

    def budget(self, share: float) -> int:
        """Return that share of the blocks' bytes, and no less than reading into huge pages needs."""
        from edge_nodes.paging.window import huge_page_budget, whole_pages

        return max(huge_page_budget(self.sizes), int(share * sum(map(whole_pages, self.sizes))))

    def open(self, plan: Any, load: Any = None) -> Any:
        from edge_nodes.language.blocks.streamed_model import StreamedModel

        return StreamedModel(self.native, self.directory, plan, load=load, direct=self.direct)

    def turn(
        self, plan: Any, *, first: bool = False, load: Any = None, steps: int = 0, ordinary: bool = False
    ) -> dict[str, Any]:
        """Return the least time of a token and its stall, and all times; or that of the first from nothing.

        `ordinary`: blocks are in pages of the usual size.
        """
        with _ordinary_pages() if ordinary else nullcontext():
            return self._turn(plan, first, load, steps)

    def _turn(self, plan: Any, first: bool, load: Any, steps: int) -> dict[str, Any]:
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


@contextmanager
def _ordinary_pages() -> Iterator[None]:
    """Let this process have no huge pages meanwhile."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_SET_THP_DISABLE, 0, 0, 0, 0)


def _timings(bench: _Bench, direct: bool, quick: bool) -> dict[str, Any]:
    """Return what tokens take by way of loading and by budget.

    What a disk gives drifts within seconds, so the profile's steps are measured between the planned runs: what is
    predicted from all of them is compared with all steps of these.
    """
    from edge_nodes.language.blocks.profile import Profiler, keep
    from edge_nodes.paging.measure import read_rates
    from edge_nodes.paging.window import whole_pages

    bench.direct = direct
    early, profiler = (Profiler(bench.native, bench.directory, direct=direct) for _ in range(2))
    early.measure()
    total = sum(map(whole_pages, bench.sizes))
    shares = {share: bench.budget(share) for share in (QUICK_SHARES if quick else SHARES)}
    arms = _arms(early.fit(), total, shares, len(bench.sizes))
    if quick and not direct:
        arms = {key: chosen for key, chosen in arms.items() if key[0] in ALWAYS}
    rounds = 1 if quick and not direct else bench.case.rounds
    best, steps_ms = _take_turns(bench, profiler, arms, rounds, quick)
    measured = profiler.fit()
    keep(measured, bench.native, bench.directory, direct=direct)
    disk = max(read_rates(bench.directory.order(), (READERS[-1],) if quick else READERS, direct=direct).values())
    resident = best["resident", "token"]
    alike = [np.array_equal(found["logits"], resident["logits"]) for found in best.values() if "logits" in found]
    rows = []
    for share in shares:
        chosen, named = arms["planned", str(share)], str(share)
        streamed = total - sum(whole_pages(bench.sizes[i]) for i in chosen.pinned)
        row = {"share": share, **_planned(chosen, measured, steps_ms[named], best["planned", named]["stall_ms"])}
        row |= {f"{arm}_ms": round(v["ms"], 2) for (arm, kind), v in best.items() if kind == named}
        rows.append(row | {"bound_ms": round(max(1e3 * streamed / disk, resident["ms"]), 2)})
    all_s = min(_load_all(bench, total) for _ in range(1 if quick else rounds))
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


def _arms(measured: Any, total: int, shares: Mapping[float, int], blocks: int) -> dict[tuple[str, str], Any]:
    """Return the plan of each arm by (way of loading, what is timed).

    "one_loader" is the standard pipeline, as PipeSwitch's (OSDI 2020): one thread reads block after block into ordinary
    memory, no block stays. "one_loader_huge" reads into huge pages, as all other arms do.
    """
    from edge_nodes.paging.plan import Plan, Run, plan

    everything, none = tuple(range(blocks)), Run(0.0, 0.0, 0)
    arms: dict[tuple[str, str], Any] = {("resident", "token"): Plan(total, 1, everything, none)}
    arms |= {(f"{m} loaders, all stay", "first"): Plan(total, m, everything, none) for m in (1, *READERS)}
    for share, budget in shares.items():
        arms |= {(name, str(share)): Plan(budget, 1, (), none) for name in ("one_loader", "one_loader_huge")}
        arms["planned", str(share)] = plan(measured, budget)
        if share == QUARTER:
            arms |= {(f"m{m}", str(share)): plan(measured, budget, readers=(m,)) for m in READERS}
    return arms


def _take_turns(
    bench: _Bench, profiler: Any, arms: Mapping[tuple[str, str], Any], rounds: int, quick: bool
) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[str, list[float]]]:
    """Return the best turn of each arm, and the times of all steps of planned ones; the profiler runs in between."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    steps_ms: dict[str, list[float]] = {kind: [] for arm, kind in arms if arm == "planned"}
    between = -(-profiler.arms // len(steps_ms))
    for turn in range(rounds):
        for key, chosen in arms.items():
            if turn and quick and key[0] not in ALWAYS:
                continue
            found = bench.turn(chosen, first=key[1] == "first", ordinary=key[0] == "one_loader")
            if key[0] == "planned":
                steps_ms[key[1]] += found["steps_ms"]
                for _ in range(between):
                    profiler.measure_next()
            if key not in best or found["ms"] < best[key]["ms"]:
                best[key] = found
    return best, steps_ms


def _planned(chosen: Any, measured: Any, steps_ms: Sequence[float], stall_ms: float) -> dict[str, Any]:
    from edge_nodes.paging.plan import simulate

    run = simulate(measured, chosen.budget_bytes, readers=chosen.readers, pinned=chosen.pinned)
    return {
        "blocks_mb": round(chosen.budget_bytes / 2**20, 1),
        "readers": chosen.readers,
        "pinned": len(chosen.pinned),
        "predicted_ms": round(1e3 * run.pass_s, 2),
        "typical_ms": round(float(np.median(steps_ms)), 2),
        "stall_ms": round(stall_ms, 2),
    }


def _load_all(bench: _Bench, total: int) -> float:
    """Return the time in which one reader reads all blocks."""
    from edge_nodes.paging.window import BlockWindow

    everything = range(len(bench.sizes))
    files = [file.path for file in bench.directory.order()]
    begin = time.perf_counter()
    with BlockWindow(bench.sizes, files, budget_bytes=total, pinned=everything, direct=bench.direct) as window:
        for index in everything:
            window.acquire(index)
            window.release(index)
    return time.perf_counter() - begin


def _fused_rows(case: Case) -> list[dict[str, Any]]:
    """Return tokens a second of several sequences that share each pass over the disk."""
    from edge_nodes.language.blocks.profile import profile
    from edge_nodes.paging.plan import plan

    bench = _Bench(case, slots=max(ROWS))
    measured = profile(bench.native, bench.directory)
    budget = bench.budget(QUARTER)
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

    contents = [np.fromfile(file.path, np.uint8) for file in bench.directory.order()]

    def load(index: int, memory: memoryview) -> None:
        begin = time.perf_counter()
        memory[:] = contents[index].data
        time.sleep(max(0.0, len(memory) / (1e6 * READER_MB_S) - (time.perf_counter() - begin)))

    rates = {m: 1e6 * READER_MB_S * m for m in (1, *READERS)}
    known = replace(profile(bench.native, bench.directory), bytes_per_s=rates)
    budget = bench.budget(QUARTER)
    chosen = plan(known, budget)
    one, planned = (bench.turn(p, load=load, steps=1) for p in (Plan(budget, 1, (), Run(0.0, 0.0, 0)), chosen))
    return {
        "one_loader_ms": round(one["ms"], 2),
        "planned_ms": round(planned["ms"], 2),
        "predicted_ms": round(1e3 * chosen.run.pass_s, 2),
        "readers": chosen.readers,
        "pinned": len(chosen.pinned),
    }
