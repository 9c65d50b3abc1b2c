# SPDX-License-Identifier: Apache-2.0
"""What a group of boards measures of its network when it is made: latency, bandwidth, and each way to add up shares."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_nodes.language.boards.costs import CHOICES, SIZES, Network

if TYPE_CHECKING:
    from edge_nodes.language.boards.link import Link

PINGS, PROBE_BYTES, PROBES = 12, 1 << 20, 3
CHAIN = 2  # allreduces of a sample, one after the other as in a model: rank 0 may be done before the others are
SAMPLES, SAMPLES_S = (3, 8), 0.1  # how many of each, as many as the closed form says fit this time


class Probe:
    """What the boards of a group have timed: when it was made, and a little more whenever it is idle.

    Of each way and size the least of the newest samples counts, so that one that was disturbed does no harm.

    Args:
        link: the group; all of it make this at once, and call `again` at the same times.

    Attributes:
        network: what all boards agree on.

    Raises:
        BoardError: a board does not answer within the deadline.
    """

    def __init__(self, link: Link) -> None:
        self.network = _calibrate(link)
        self._newest: dict[tuple[str, int], deque[float]] = {}
        self._next = cycle(SIZES)
        for size in SIZES:
            expected = CHAIN * sum(self.network.form_s(name, size) for name in CHOICES)
            for _ in range(min(SAMPLES[1], max(SAMPLES[0], int(SAMPLES_S / expected)))):
                self._sample(link, size)
        self._agree(link)

    def again(self, link: Link) -> None:
        """Take one sample more of each way, of one size after the other."""
        self._sample(link, next(self._next))
        self._agree(link)

    def _sample(self, link: Link, size: int) -> None:
        values = np.zeros(size // 4, np.float32)
        for name, seconds in turns(link, CHOICES, values, chain=CHAIN).items():
            self._newest.setdefault((name, size), deque(maxlen=SAMPLES[1])).append(seconds)

    def _agree(self, link: Link) -> None:
        least = np.array([[min(self._newest[name, size]) for size in SIZES] for name in CHOICES])
        taken = {name: tuple(map(float, row)) for name, row in zip(CHOICES, _agreed(link, least), strict=True)}
        self.network = replace(self.network, measured_s=taken)


def turns(link: Link, algorithms: Sequence[str], values: npt.NDArray[np.float32], *, chain: int) -> dict[str, float]:
    """Return the seconds of an allreduce by each algorithm, on this board, the mean of `chain`; all call it at once.

    Raises:
        BoardError: a board does not answer within the deadline.
    """
    wanted, begin, taken = link.algorithm, np.zeros(1, np.float32), {}
    for link.algorithm in algorithms:
        link.reduce(begin, "sum")  # all begin together
        taken[link.algorithm] = _seconds(_chain, link, values, chain) / chain
    link.algorithm = wanted
    return taken


def _calibrate(link: Link) -> Network:
    """Measure rank 0 to each other board, one after the other; the worst counts."""
    one, block = np.zeros(1, np.float32), np.zeros(PROBE_BYTES // 4, np.float32)
    latencies, rates = [0.0], [float("inf")]
    for other in range(1, link.ranks):
        if link.rank in (0, other):
            peer = other if link.rank == 0 else 0
            latency = min(_seconds(link.exchange, one, peer) for _ in range(PINGS))
            taken = min(_seconds(link.exchange, block, peer) for _ in range(PROBES))
            latencies.append(latency)
            rates.append(PROBE_BYTES / max(1e-9, taken - latency))
    worst = _agreed(link, np.array([max(latencies), min(rates)]))
    return Network(link.ranks, float(worst[0]), float(worst[1]))


def _agreed(link: Link, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rank 0's numbers on all boards."""
    if link.rank == 0:
        link.send(range(1, link.ranks), numbers)
    else:
        link.receive(numbers, 0)
    return numbers


def _chain(link: Link, values: npt.NDArray[np.float32], count: int) -> None:
    for _ in range(count):
        link.reduce(values, "sum")


def _seconds(work: Callable[..., None], *args: Any) -> float:
    begin = time.perf_counter()
    work(*args)
    return time.perf_counter() - begin
