# SPDX-License-Identifier: Apache-2.0
"""Whether a change of scores is more than chance: both ways answer the same samples, which are drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_DRAWS_AT_ONCE = 250


@dataclass(frozen=True)
class Change:
    """Change of the mean score over tasks.

    Attributes:
        mean: after less before.
        low, high: ends of the interval of 95 %.
    """

    mean: float
    low: float
    high: float


def paired_change(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, draws: int = 4000, seed: int = 0
) -> Change:
    """Return the change of the mean over tasks, with its percentile interval by the paired bootstrap.

    Samples are drawn within each task (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        before: of each task, the score of each sample.
        after: the same samples' scores with the other way.
        draws: bootstrap samples.
        seed: of the draws.

    Raises:
        ValueError: the samples do not correspond, or there are none.
    """
    rng = np.random.default_rng(seed)
    if not before or [*map(len, before)] != [*map(len, after)] or not all(map(len, before)):
        raise ValueError("both must have the same tasks with as many samples, one at least")
    differences = [np.subtract(b, a) for a, b in zip(before, after, strict=True)]
    means = np.mean([_means(rng, d, draws) for d in differences], axis=0)
    low, high = np.percentile(means, (2.5, 97.5))
    return Change(float(np.mean([d.mean() for d in differences])), float(low), float(high))


def _means(rng: np.random.Generator, values: npt.NDArray[np.float64], draws: int) -> npt.NDArray[np.float64]:
    """Return the means (draws,) of samples drawn from `values` with replacement."""
    out = np.empty(draws)
    for first in range(0, draws, _DRAWS_AT_ONCE):
        part = out[first : first + _DRAWS_AT_ONCE]
        part[:] = values[rng.integers(0, values.size, (part.size, values.size))].mean(axis=1)
    return out
