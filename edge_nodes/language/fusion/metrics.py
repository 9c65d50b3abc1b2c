# SPDX-License-Identifier: Apache-2.0
"""What a fused loop did: iterations, occupancy, moved bytes, waiting times."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edge_nodes.language.fusion.request import Handle

RECENT = 4096  # samples that the percentiles are of


class Slope:
    """Least-squares slope of a stream of pairs, the older ones fading.

    Args:
        keep: weight of what came before at each pair.
    """

    def __init__(self, keep: float = 0.98) -> None:
        self._keep = keep
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """Take a pair."""
        k = self._keep
        self._n, self._x, self._y = k * self._n + 1.0, k * self._x + x, k * self._y + y
        self._xx, self._xy = k * self._xx + x * x, k * self._xy + x * y

    @property
    def value(self) -> float | None:
        """Return the slope, None before x has varied; never below 0."""
        spread = self._n * self._xx - self._x * self._x
        if spread <= 1e-9 * max(1.0, self._n * self._xx):
            return None
        return max(0.0, (self._n * self._xy - self._x * self._y) / spread)


class Metrics:
    """Counts and samples since the loop was made; memory does not grow.

    Attributes:
        iterations: steps of the model.
        decoded_rows, prompt_rows, hole_rows: rows computed for next tokens, for prompts, for nobody.
        paced: iterations in which a request kept its pace and others had what rows it spared.
        occupied: requests that held a slot, summed over the iterations.
        moves, moved_bytes: rows moved to keep the batch adjacent, and bytes copied for that; whole blocks are not.
        shared_tokens, copied_bytes: prompt tokens not computed as some slot held them, and bytes copied likewise.
        submitted, rejected, preempted: requests taken, refused as the queue was full, put back for more urgent ones.
        finished: requests by finish reason.
    """

    def __init__(self) -> None:
        self.iterations = self.decoded_rows = self.prompt_rows = self.hole_rows = self.occupied = 0
        self.paced = 0
        self.moves = self.moved_bytes = self.shared_tokens = self.copied_bytes = 0
        self.submitted = self.rejected = self.preempted = 0
        self.finished: Counter[str] = Counter()
        self._queue_s: deque[float] = deque(maxlen=RECENT)
        self._first_s: deque[float] = deque(maxlen=RECENT)
        self._token_s: deque[float] = deque(maxlen=RECENT)

    @property
    def occupancy(self) -> float:
        """Return the requests that held a slot in a mean iteration."""
        return self.occupied / self.iterations if self.iterations else 0.0

    def token(self, gap_s: float) -> None:
        """Note the time between two tokens of one request."""
        self._token_s.append(gap_s)

    def done(self, handle: Handle) -> None:
        """Note a request that ended."""
        self.finished[handle.finish_reason or "error"] += 1
        if handle.admitted_s is not None:
            self._queue_s.append(handle.admitted_s - handle.arrived_s)
        if handle.first_s is not None:
            self._first_s.append(handle.first_s - handle.arrived_s)

    def summary(self) -> dict[str, float | int]:
        """Return all counts, and p50 and p95 of the recent queue wait, time to first token and time per token, ms."""
        counts = {
            name: getattr(self, name)
            for name in (
                "iterations",
                "decoded_rows",
                "prompt_rows",
                "hole_rows",
                "paced",
                "moves",
                "moved_bytes",
                "shared_tokens",
                "copied_bytes",
                "submitted",
                "rejected",
                "preempted",
            )
        }
        times = {"queue": self._queue_s, "first_token": self._first_s, "token": self._token_s}
        spreads = {k: v for name, samples in times.items() for k, v in _spread(f"{name}_ms", samples).items()}
        return {**counts, "occupancy": round(self.occupancy, 3), **spreads}


def _spread(name: str, seconds: Iterable[float]) -> dict[str, float]:
    samples = np.fromiter(seconds, float) * 1e3
    return {f"{name}_p{q}": round(float(np.percentile(samples, q)), 3) for q in (50, 95)} if len(samples) else {}
