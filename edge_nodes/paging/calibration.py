# SPDX-License-Identifier: Apache-2.0
"""The profile of a board from steps that were timed on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_nodes.paging.plan import Profile, simulate

LEAST_SHARE = 0.25  # of the bandwidth within reads that a pass may get out of them
MOST_HANDOVER_S = 5e-3
EQUAL = 0.99


@dataclass(frozen=True)
class Step:
    """One pass over all blocks, none pinned; times in s.

    Attributes:
        took: whole time.
        uses: time that each block was used.
        load: time within reads, of all readers together.
        rest: time in which the user neither used a block nor waited for one.
    """

    took: float
    uses: tuple[float, ...]
    load: float
    rest: float


def fit(sizes: Sequence[int], steps: Mapping[tuple[int, int], Sequence[Step]]) -> Profile:
    """Return the profile that agrees with timed steps.

    Args:
        sizes: bytes of each block.
        steps: steps by (readers, bytes of blocks in memory). One reader with the least bytes tells what a hand-over
            costs: there the user waits for every block, and nothing else is read meanwhile. One with the most tells
            what is neither use nor waiting, which readers beside each other disturb. Others may be missing.
    """
    total = sum(sizes)
    alone = sorted(arm for arm in steps if arm[0] == 1)
    uses = tuple(float(x) for x in np.median([s.uses for found in steps.values() for s in found], 0))
    waits = (*[0.0] * (len(sizes) - 1), _median([s.rest for s in steps[alone[-1]]]))
    lone = [s.load for arm in alone for s in steps[arm]]
    found = Profile(tuple(sizes), uses, waits, {1: total / _median(lone)})
    found = replace(found, handover_s=_handover(found, alone[0][1], steps[alone[0]]))
    rates = dict(found.bytes_per_s)
    for (readers, room), timed in steps.items():
        if readers > 1:
            within, took = readers * total / _median([s.load for s in timed]), _median([s.took for s in timed])
            rates[readers] = within * _share(found, room, readers, within, took)
    return replace(found, bytes_per_s=rates)


def _handover(profile: Profile, least: int, serial: Sequence[Step]) -> float:
    """Return what each wait adds where blocks are read one by one, none beside the use of another."""
    alone = replace(profile, bytes_per_s={1: sum(profile.sizes) / _median([s.load for s in serial])})

    def slowed(handover_s: float) -> float:
        return simulate(replace(alone, handover_s=handover_s), least, readers=1).pass_s

    took = _median([s.took for s in serial])
    return 0.0 if slowed(0.0) >= took else _solve(slowed, took, 0.0, MOST_HANDOVER_S)


def _share(profile: Profile, budget: int, readers: int, within: float, took: float) -> float:
    """Return the share of a bandwidth with which a pass takes as long as it did; 1 if it did not wait."""

    def slowed(share: float) -> float:
        rates = {1: min(profile.bytes_per_s[1], share * within), readers: share * within}
        return -simulate(replace(profile, bytes_per_s=rates), budget, readers=readers).pass_s

    return 1.0 if -slowed(1.0) >= EQUAL * took else _solve(slowed, -took, LEAST_SHARE, 1.0)


def _solve(rising: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Return where a rising function reaches a value, by bisection."""
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return high


def _median(times: Sequence[float]) -> float:
    return float(np.median(times))
