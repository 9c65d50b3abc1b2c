# SPDX-License-Identifier: Apache-2.0
"""Counters and percentiles that a node shows in /diagnostics. No ROS imports."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

import numpy as np

DAY_S = 86400.0


class Statistics:
    """What a node counts. Safe to use from several threads.

    Args:
        window: number of newest samples that rates and percentiles are taken over.
    """

    def __init__(self, window: int = 256) -> None:
        self._lock = threading.Lock()
        self._arrivals: deque[float] = deque(maxlen=window)
        self._latencies_ms: deque[float] = deque(maxlen=window)
        self._work_ms: deque[float] = deque(maxlen=window)
        self.counts: Counter[str] = Counter()
        self.age_s: float | None = None

    def arrived(self) -> None:
        """Count one input message."""
        with self._lock:
            self._arrivals.append(time.monotonic())
            self.counts["received"] += 1

    def count(self, what: str) -> None:
        """Add one to a counter."""
        with self._lock:
            self.counts[what] += 1

    def processed(self, latency_ms: float | None, work_ms: float) -> None:
        """Take the times of one message: input stamp to output (None if it has no stamp), and the work alone."""
        with self._lock:
            self.counts["processed"] += 1
            self._work_ms.append(work_ms)
            if latency_ms is not None:
                self.age_s = latency_ms / 1e3
                if abs(self.age_s) < DAY_S:
                    self._latencies_ms.append(latency_ms)

    def since_input_s(self) -> float | None:
        """Return the seconds since the newest input, None before the first."""
        with self._lock:
            return time.monotonic() - self._arrivals[-1] if self._arrivals else None

    def summary(self) -> dict[str, str]:
        """Return the figures for /diagnostics."""
        with self._lock:
            now = time.monotonic()
            recent = [t for t in self._arrivals if now - t < 5.0]
            span = now - recent[0] if len(recent) > 1 else 0.0
            out = {"rate_hz": f"{(len(recent) - 1) / span:.2f}" if span > 0 else "0.00"}
            out |= {name: str(n) for name, n in sorted(self.counts.items())}
            for name, samples in (("latency_ms", self._latencies_ms), ("work_ms", self._work_ms)):
                if samples:
                    p50, p95 = np.percentile(np.array(samples), (50, 95))
                    out[f"{name}_p50"], out[f"{name}_p95"] = f"{p50:.1f}", f"{p95:.1f}"
            if self.age_s is not None:
                out["age_ms"] = f"{self.age_s * 1e3:.0f}"
            return out
