# SPDX-License-Identifier: Apache-2.0
"""Choosing the thresholds of the exit policies on development data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.config import ExitConfig
from edge_nodes.speech.evaluation import Heard, edit_distance, left, measured

LOSS = 0.5
"""Points of word error rate over the last exit's that a threshold may cost."""
USABLE = 25.0
"""Word error rate, %, that the earliest exit of an overloaded node may have."""
WORDS_GRID = (0.6, 0.7, 0.8, 0.9, 1.0)
"""Thresholds of the policy `words`; each is a pass over the clips."""
_GRID = tuple(np.round(np.arange(0.5, 1.001, 0.005), 3).tolist())
POLICIES = ("words", "confidence", "entropy")


class Tried(NamedTuple):
    """A policy at each threshold of a grid, in rising order.

    Attributes:
        thresholds: (n,).
        errors: wrong words of each clip, (clips, n).
        operations: of each clip, (clips, n).
    """

    thresholds: Sequence[float]
    errors: NDArray[np.int64]
    operations: NDArray[np.float64]


def fit(heard: Sequence[Heard], known: Calibration | None = None) -> Calibration:
    """Return the thresholds that save most operations at a loss of at most `LOSS`, and the first usable exit.

    Args:
        heard: clips that were not trained on; of the policy `words` the thresholds that were tried on all are known.
        known: what stays as it is.
    """
    return _fit(heard, _try_all(heard), known or Calibration())


def crossed(heard: Sequence[Heard]) -> dict[str, Any]:
    """Return what the policies do on each half of the clips with the thresholds of the other half.

    Returns:
        {policy: {wer (%), saved (% of the last exit's operations)}}; nothing of fewer than two clips.
    """
    if len(heard) < 2:
        return {}
    tried = _try_all(heard)
    halves = (slice(0, None, 2), slice(1, None, 2))
    parts = [_part(tried, half) for half in halves]
    fits = [_fit(heard[half], part, Calibration()) for half, part in zip(halves, parts, strict=True)]
    said, last = sum(len(h.said) for h in heard), sum(h.operations[-1] for h in heard)
    found = {}
    for name in tried:
        wrong, spent = 0, 0.0
        for part, other in zip(parts, fits[::-1], strict=True):
            column = _column(part[name], getattr(other, name))
            wrong += int(part[name].errors[:, column].sum())
            spent += float(part[name].operations[:, column].sum())
        wer = round(100 * wrong / said, 2) if said else None
        found[name] = {"wer": wer, "saved": round(100 * (1 - spent / last), 1)}
    return found


def _fit(heard: Sequence[Heard], tried: Mapping[str, Tried], known: Calibration) -> Calibration:
    errors = np.array([[edit_distance(h.said, h.text(i).split()) for i in range(len(h.readings))] for h in heard])
    words = max(1, sum(len(h.said) for h in heard))
    rates = 100 * errors.sum(0) / words
    allowed = errors[:, -1].sum() + LOSS * words / 100
    earliest = next(i for i, rate in enumerate(rates) if rate <= max(USABLE, rates[-1]))
    thresholds: dict[str, Any] = {name: _cheapest(each, float(allowed)) for name, each in tried.items()}
    return replace(known, earliest=earliest + 1, **thresholds)


def _try_all(heard: Sequence[Heard]) -> dict[str, Tried]:
    """Return each policy at the thresholds of its grid; `words` at those that were tried on all clips, if any."""
    grids = dict.fromkeys(POLICIES, _GRID)
    grids["words"] = tuple(sorted(set.intersection(*(set(h.words) for h in heard))))
    return {name: _try(heard, name, grid) for name, grid in grids.items() if grid}


def _try(heard: Sequence[Heard], name: str, grid: Sequence[float]) -> Tried:
    costs, known = measured(heard), Calibration()
    rows = [[left(h, ExitConfig(policy=name, threshold=t), known, costs, 0.0) for t in grid] for h in heard]
    errors = [[edit_distance(h.said, each.text.split()) for each in row] for h, row in zip(heard, rows, strict=True)]
    return Tried(grid, np.array(errors), np.array([[each.operations for each in row] for row in rows]))


def _part(tried: Mapping[str, Tried], part: slice) -> dict[str, Tried]:
    return {name: Tried(t.thresholds, t.errors[part], t.operations[part]) for name, t in tried.items()}


def _cheapest(tried: Tried, allowed: float) -> float:
    """Return the threshold that saves most at no more errors than allowed; of two that save alike the stricter one."""
    wrong, spent = tried.errors.sum(0), tried.operations.sum(0)
    fine = [column for column in range(len(wrong)) if wrong[column] <= allowed] or [len(wrong) - 1]
    return tried.thresholds[min(fine, key=lambda column: (spent[column], -column))]


def _column(tried: Tried, threshold: float) -> int:
    return list(tried.thresholds).index(threshold)
