# SPDX-License-Identifier: Apache-2.0
"""How many score multiply-adds delta attention skips: counted over all, and as the paper's program folds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass
class Sparsity:
    """Skipped and all score multiply-adds, per layer.

    Attributes:
        skipped, total: int64 (layers,).
    """

    skipped: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]

    @property
    def share(self) -> float:
        """Return the mean over the layers of skipped / total; 0 if nothing was counted."""
        if not self.total.any():
            return 0.0
        return float(np.mean(self.skipped / np.maximum(self.total, 1)))

    def __add__(self, other: Sparsity) -> Sparsity:
        return Sparsity(self.skipped + other.skipped, self.total + other.total)


def of_prefill(rows: npt.ArrayLike, exact: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return (skipped, total) multiply-adds of one query head over a prompt.

    Args:
        rows: delta rows (n, d) of one KV head.
        exact: which scores (n, n) are exact; see `delta.exact_prefill`.
    """
    rows = np.asarray(rows)
    n, d = rows.shape
    zeros = (rows == 0).sum(axis=1)
    return int((np.tri(n, dtype=bool) & ~exact).sum(axis=0) @ zeros), d * n * (n + 1) // 2


def of_step(rows: npt.ArrayLike, exact: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return (skipped, total) multiply-adds of one query head for one decoded token; `exact` (n,)."""
    rows = np.asarray(rows)
    return int((rows == 0).sum(axis=1)[~exact].sum()), rows.size


def layer_figure(zero_share: float, window: int, tokens: int) -> float:
    """Return the paper's figure of one layer: share of zeros in its delta rows times 1 - w/n."""
    return zero_share * (1.0 - window / tokens)


def running_figure(layers: Sequence[float], before: float = 0.0) -> float:
    """Fold layers in order as the paper's program does: s <- (s + s_layer) / 2, the last layers count most."""
    for figure in layers:
        before = (before + figure) / 2
    return before
