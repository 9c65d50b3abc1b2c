# SPDX-License-Identifier: Apache-2.0
"""A fused loop in simulated time: how many iterations, rows, holes and moves an arrival process costs.

Nothing happens between arrivals and ends but equal iterations, so a run jumps from one to the next. The published
figures (arXiv 2305.13484, random arrivals and random lengths) are compared with its means over many seeds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_nodes.language.fusion.plan import ARRANGEMENTS, Arrangement, Costs, Index, Row, arrangement


@dataclass(frozen=True)
class Machine:
    """What an iteration costs.

    Attributes:
        base_ms: reading the weights once, ms.
        row_ms: each row, ms.
        copy_ms: moving one token of a row, ms.
        prompt_tokens: tokens in a row's cache when it joins.
    """

    base_ms: float
    row_ms: float = 0.0
    copy_ms: float = 0.0
    prompt_tokens: int = 0


@dataclass
class Outcome:
    """What a run cost.

    Attributes:
        iterations: iterations with at least one row.
        tokens: rows of running requests, summed over the iterations.
        holes: rows computed for nobody, summed likewise.
        moves: rows moved.
        total_ms: from the first arrival to the last end.
    """

    iterations: int = 0
    tokens: int = 0
    holes: int = 0
    moves: int = 0
    total_ms: float = 0.0


@dataclass
class _Request:
    length: int
    done: int = 0


class _Run:
    def __init__(self, machine: Machine, arrangement: Arrangement, slots: int) -> None:
        self.machine, self.arrangement = machine, arrangement
        self.slots: list[_Request | None] = [None] * slots
        self.outcome, self.now_ms = Outcome(), 0.0

    def rows(self) -> list[Row | None]:
        prompt = self.machine.prompt_tokens
        return [Row(prompt + r.done, r.length - r.done) if r else None for r in self.slots]

    def admit(self, request: _Request) -> bool:
        free = [i for i, r in enumerate(self.slots) if r is None]
        if free:
            self.slots[self.arrangement.place(self.rows(), free)] = request
        return bool(free)

    def advance(self, next_arrival_ms: float) -> bool:
        """Run iterations until a request ends or arrives; return whether one has ended."""
        running = [r for r in self.slots if r]
        computed = len(self.arrangement.computed(self.rows()))
        iteration_ms = self.machine.base_ms + self.machine.row_ms * computed
        count = min(r.length - r.done for r in running)
        if next_arrival_ms < math.inf:
            count = min(count, max(1, math.ceil((next_arrival_ms - self.now_ms) / iteration_ms)))
        self.now_ms += count * iteration_ms
        self.outcome.iterations += count
        self.outcome.tokens += count * len(running)
        self.outcome.holes += count * (computed - len(running))
        for r in running:
            r.done += count
        self.slots = [None if r and r.done == r.length else r for r in self.slots]
        return any(r.done == r.length for r in running)

    def move(self) -> None:
        costs = Costs(self.machine.copy_ms, self.machine.row_ms)
        for move in self.arrangement.moves(self.rows(), costs):
            mover = self.slots[move.source]
            assert mover is not None
            self.slots[move.target], self.slots[move.source] = mover, None
            self.outcome.moves += 1
            self.now_ms += self.machine.copy_ms * (self.machine.prompt_tokens + mover.done)


def simulate(
    arrivals_ms: Sequence[float],
    lengths: Sequence[int],
    machine: Machine,
    *,
    slots: int | None = None,
    arranged: Arrangement | None = None,
) -> Outcome:
    """Run requests through a fused loop.

    Args:
        arrivals_ms: arrival of each request, ascending.
        lengths: iterations each runs for.
        machine: what iterations and moves cost.
        slots: requests that run at once; all by default.
        arranged: how the slots are; `Index` by default.
    """
    run = _Run(machine, arranged or Index(), slots or len(lengths))
    waiting = [(at, number) for number, at in enumerate(arrivals_ms)]
    heapq.heapify(waiting)
    end_ms = 0.0
    while waiting or any(run.slots):
        if not any(run.slots):
            run.now_ms = max(run.now_ms, waiting[0][0])
        while waiting and waiting[0][0] <= run.now_ms:
            if not run.admit(_Request(lengths[waiting[0][1]])):
                break
            heapq.heappop(waiting)
        full = all(run.slots)
        if run.advance(waiting[0][0] if waiting and not full else math.inf):
            end_ms = run.now_ms
        run.move()
    run.outcome.total_ms = end_ms - arrivals_ms[0]
    return run.outcome


def poisson_arrivals(count: int, gap_ms: float, seed: int) -> list[float]:
    """Return `count` arrivals, the first at 0, with exponential gaps of mean `gap_ms`, ms."""
    gaps = np.random.default_rng(seed).exponential(gap_ms, count - 1)
    return [0.0, *(float(at) for at in gaps.cumsum())]


def length_table(machine: Machine, seeds: int = 20) -> list[dict[str, float]]:
    """Return how much sooner 16 requests of random lengths end if holes are filled, by the longest length.

    As the publication's figure: lengths from 128 to `longest` tokens, 20 ms apart, holes left against holes filled.

    Args:
        machine: what iterations and moves cost.
        seeds: runs that the mean is of.
    """
    table = []
    for longest in (256, 512, 768, 1024, 1280, 1536, 1792):
        row = {"longest": float(longest)}
        totals: dict[str, list[float]] = {name: [] for name in ARRANGEMENTS}
        for seed in range(seeds):
            lengths = np.random.default_rng(seed).integers(128, longest + 1, 16).tolist()
            arrivals = [20.0 * i for i in range(len(lengths))]
            for name, times in totals.items():
                times.append(simulate(arrivals, lengths, machine, arranged=arrangement(name)).total_ms)
        for name in ("index", "window", "swap"):
            ratios = np.array(totals["window_fixed"]) / np.array(totals[name])
            row[f"{name}_gain"] = round(float(ratios.mean()), 3)
        table.append(row)
    return table


PUBLISHED_ITERATION_MS, PUBLISHED_REQUESTS, PUBLISHED_LENGTH = 5800 / 512, 32, 512
PUBLISHED = {  # mean gap, ms: iterations, % of the requests that run in a mean iteration
    20: (557, 91.3),
    50: (616, 81.8),
    100: (748, 67.3),
    150: (888, 62.1),
    200: (911, 60.3),
    300: (1174, 45.2),
    400: (1366, 36.7),
    500: (1537, 31.0),
    750: (2239, 23.2),
    1000: (2621, 20.0),
    2000: (5483, 9.3),
    3000: (7738, 6.7),
    4000: (8902, 5.7),
    5000: (10694, 4.8),
}
"""One draw of random arrivals each, read from the publication's figure."""


def poisson_table(seeds: int = 200) -> dict[int, tuple[float, float]]:
    """Return {mean gap, ms: (iterations, % of all requests in a mean iteration)}, means over `seeds` runs."""
    machine = Machine(PUBLISHED_ITERATION_MS)
    lengths = [PUBLISHED_LENGTH] * PUBLISHED_REQUESTS
    table = {}
    for gap in PUBLISHED:
        runs = [simulate(poisson_arrivals(len(lengths), gap, seed), lengths, machine) for seed in range(seeds)]
        iterations, tokens = sum(run.iterations for run in runs), sum(run.tokens for run in runs)
        table[gap] = (iterations / seeds, 100.0 * tokens / iterations / len(lengths))
    return table
