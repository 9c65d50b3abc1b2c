# SPDX-License-Identifier: Apache-2.0
"""What a group of boards measures of its network when it is made: latency, bandwidth, and each way to add up shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_nodes.language.boards.costs import CHOICES, SIZES, Network

if TYPE_CHECKING:
    from edge_nodes.language.boards.link import Link

PINGS, PROBE_BYTES, PROBES = 12, 1 << 20, 3
CHAIN = 2  # allreduces of a sample, one after the other as in a model: rank 0 may be done before the others are
SAMPLES, SAMPLES_S = (3, 8), 0.1  # how many of each, as many as the closed form says fit this time


def measure(link: Link) -> Network:
    """Return what all boards agree on; all of the group call this at once.

    Raises:
        BoardError: a board does not answer within the deadline.
    """
    network = _calibrate(link)
    return replace(network, measured_s=_time_choices(link, network))


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


def _time_choices(link: Link, network: Network) -> dict[str, tuple[float, ...]]:
    """Return the least seconds of an allreduce on rank 0, by algorithm, of each of `SIZES`; the ways take turns."""
    taken = np.full((len(CHOICES), len(SIZES)), np.inf)
    wanted, zero = link.algorithm, np.zeros(1, np.float32)
    for column, size in enumerate(SIZES):
        values = np.zeros(size // 4, np.float32)
        expected = CHAIN * sum(network.form_s(name, size) for name in CHOICES)
        for _ in range(min(SAMPLES[1], max(SAMPLES[0], int(SAMPLES_S / expected)))):
            for row, link.algorithm in enumerate(CHOICES):
                link.reduce(zero, "sum")  # all begin together
                taken[row, column] = min(taken[row, column], _seconds(_chain, link, values) / CHAIN)
    link.algorithm = wanted
    taken = _agreed(link, taken)
    return {name: tuple(map(float, times)) for name, times in zip(CHOICES, taken, strict=True)}


def _agreed(link: Link, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rank 0's numbers on all boards."""
    if link.rank == 0:
        link.send(range(1, link.ranks), numbers)
    else:
        link.receive(numbers, 0)
    return numbers


def _chain(link: Link, values: npt.NDArray[np.float32]) -> None:
    for _ in range(CHAIN):
        link.reduce(values, "sum")


def _seconds(work: Callable[..., None], *args: Any) -> float:
    begin = time.perf_counter()
    work(*args)
    return time.perf_counter() - begin
