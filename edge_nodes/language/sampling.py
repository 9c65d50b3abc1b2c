# SPDX-License-Identifier: Apache-2.0
"""The next token from a row of logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_nodes.language.config import SamplingConfig

Logits = npt.NDArray[np.float32]


class Sampler:
    """Draws tokens; one per answer, so that the seed makes the answer repeatable.

    Args:
        config: temperature, cuts, repetition penalty and seed.
    """

    def __init__(self, config: SamplingConfig) -> None:
        self.config = config
        self._random = np.random.default_rng(config.seed)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken as it is."""
        return self.config.temperature == 0.0 and self.config.repetition_penalty == 1.0

    def __call__(self, logits: Logits, seen: Sequence[int] = ()) -> int:
        """Return the next token.

        Args:
            logits: float32 (vocabulary,); not changed.
            seen: tokens that the repetition penalty is for.
        """
        config = self.config
        if config.repetition_penalty != 1.0 and len(seen):
            logits = penalise(logits, seen, config.repetition_penalty)
        if config.temperature == 0.0:
            return int(logits.argmax())
        kept = top_k(logits, config.top_k)
        scaled = logits[kept].astype(np.float64) / config.temperature
        weights = np.exp(scaled - scaled.max())
        weights /= weights.sum()
        keep = top_p(weights, config.top_p)
        kept, weights = kept[keep], weights[keep] / weights[keep].sum()
        return int(kept[np.searchsorted(weights.cumsum(), self._random.random(), side="right").clip(max=len(kept) - 1)])


def penalise(logits: Logits, seen: Sequence[int], penalty: float) -> Logits:
    """Return logits with those of `seen` tokens divided (if positive) or multiplied by `penalty` (CTRL, 4.1)."""
    out, tokens = logits.copy(), np.unique(np.asarray(seen, np.int64))
    values = out[tokens]
    out[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return out


def top_k(logits: Logits, k: int) -> npt.NDArray[np.int64]:
    """Return the indices of the k largest logits (all if k is 0), largest first, ties by index."""
    chosen = np.arange(len(logits))
    if 0 < k < len(logits):
        chosen = np.argpartition(-logits, k - 1)[:k]
    return chosen[np.lexsort((chosen, -logits[chosen]))]


def top_p(weights: npt.NDArray[np.float64], p: float) -> npt.NDArray[np.int64]:
    """Return the indices of the fewest leading weights (descending, sum 1) whose total reaches p; at least one."""
    return np.arange(min(int(np.searchsorted(weights.cumsum(), p)) + 1, len(weights)))
