# SPDX-License-Identifier: Apache-2.0
"""What an allreduce costs on a network of known latency and bandwidth, in closed form.

TPI-LLM (arXiv 2410.00531, propositions 1 and 2) shows that latency decides over slow links; the forms here count
one-way latencies and bytes through the busiest network interface. `direct` and `split` are not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, log2

# star: all to rank 0, sums back. direct: all to all, each sums. ring: reduce-scatter and all-gather around a ring.
# split: each rank sums one part of all, and sends it to all: the bytes of a ring in two latencies.
_COSTS: Mapping[str, Callable[[int, float, float], float]] = {
    "direct": lambda n, latency, data: latency + (n - 1) * data,
    "star": lambda n, latency, data: 2 * (latency + (n - 1) * data),
    "split": lambda n, latency, data: 2 * (latency + (n - 1) / n * data),
    "ring": lambda n, latency, data: 2 * (n - 1) * (latency + data / n),
    "tree": lambda n, latency, data: 2 * ceil(log2(n)) * (latency + data),
}
ALGORITHMS = ("direct", "star", "split", "ring")


def allreduce_s(algorithm: str, boards: int, size: int, *, latency_s: float, bytes_per_s: float) -> float:
    """Return the seconds of an allreduce.

    Args:
        algorithm: one of `ALGORITHMS`, or "tree".
        boards: number of boards.
        size: bytes of the message.
        latency_s: one way.
        bytes_per_s: of one network interface.
    """
    return _COSTS[algorithm](boards, latency_s, size / bytes_per_s) if boards > 1 else 0.0


def choose(boards: int, size: int, *, latency_s: float, bytes_per_s: float) -> str:
    """Return the fastest algorithm for a message; of equal ones the first of `ALGORITHMS`.

    A ring is never faster than `split`, thus the sums of what is chosen are always those of one process.
    """
    return min(ALGORITHMS, key=lambda a: allreduce_s(a, boards, size, latency_s=latency_s, bytes_per_s=bytes_per_s))


def star_beats_ring(boards: int, size: int, *, latency_s: float, bytes_per_s: float) -> bool:
    """Return whether the closed forms say so: latency > (N - 1)^2 / (N (N - 2)) * size / bandwidth, for 3 and more."""
    if boards < 3:
        return False
    return latency_s > (boards - 1) ** 2 / (boards * (boards - 2)) * size / bytes_per_s
