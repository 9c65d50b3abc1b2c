# SPDX-License-Identifier: Apache-2.0
"""What an allreduce costs: in closed form on a network of known latency and bandwidth, and by measurement.

TPI-LLM (arXiv 2410.00531, propositions 1 and 2) shows that latency decides over slow links; the forms here count
one-way latencies and bytes through the busiest network interface. `direct` and `split` are not in the paper. The forms
know nothing of the processors, which handle every message and may be busy: where that counts, only timing tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
CHOICES = ("direct", "star", "split")  # whose sums are those of one process; a ring never needs less than `split`
SIZES = (1 << 10, 1 << 14, 1 << 16, 1 << 18)  # bytes of messages that are timed


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


@dataclass(frozen=True)
class Network:
    """What was measured of the network that joins boards.

    Attributes:
        boards: how many.
        latency_s: largest time in which rank 0 and another board exchange a number, with the backend's handshake.
        bytes_per_s: smallest bandwidth.
        measured_s: {algorithm: seconds of an allreduce of each of `SIZES`}; none: the closed forms decide.
    """

    boards: int
    latency_s: float
    bytes_per_s: float
    measured_s: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def form_s(self, algorithm: str, size: int) -> float:
        """Return the seconds of an allreduce of `size` bytes by the closed form."""
        return allreduce_s(algorithm, self.boards, size, latency_s=self.latency_s, bytes_per_s=self.bytes_per_s)

    def predicted_s(self, algorithm: str, size: int) -> float:
        """Return the seconds of an allreduce: between those that were timed, else by the closed form."""
        timed = self.measured_s.get(algorithm)
        return _between(size, timed) if timed else self.form_s(algorithm, size)

    def choose(self, size: int) -> str:
        """Return the fastest of `CHOICES` for a message of `size` bytes; of equal ones the first."""
        return min(CHOICES, key=lambda algorithm: self.predicted_s(algorithm, size))

    def figures(self, size: int) -> dict[str, str | int | float]:
        """Return what a status says of the network, and of a message of `size` bytes: as timed, and by the form."""
        chosen, form = self.choose(size), min(CHOICES, key=lambda algorithm: self.form_s(algorithm, size))
        return {
            "boards": self.boards,
            "boards_latency_ms": round(1e3 * self.latency_s, 2),
            "boards_mb_s": round(self.bytes_per_s / 1e6, 1),
            "allreduce": chosen,
            "allreduce_ms": round(1e3 * self.predicted_s(chosen, size), 2),
            "allreduce_by_form": form,
            "allreduce_form_ms": round(1e3 * self.form_s(form, size), 2),
        }


def _between(size: int, timed: Sequence[float]) -> float:
    """Return the time of a message on the line through the two timed ones next to it."""
    above = next((i for i, known in enumerate(SIZES) if known >= size), len(SIZES) - 1)
    i = max(1, above)
    slope = (timed[i] - timed[i - 1]) / (SIZES[i] - SIZES[i - 1])
    return timed[i] + (size - SIZES[i]) * max(0.0, slope)


def star_beats_ring(boards: int, size: int, *, latency_s: float, bytes_per_s: float) -> bool:
    """Return whether the closed forms say so: latency > (N - 1)^2 / (N (N - 2)) * size / bandwidth, for 3 and more."""
    if boards < 3:
        return False
    return latency_s > (boards - 1) ** 2 / (boards * (boards - 2)) * size / bytes_per_s
