# SPDX-License-Identifier: Apache-2.0
"""Choosing the thresholds of the exit policies on development data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.evaluation import Heard, edit_distance
from edge_nodes.speech.exits import Reading

LOSS = 0.4
"""Points of word error rate over the last exit's that a threshold may cost."""
USABLE = 25.0
"""Word error rate, %, that the earliest exit of an overloaded node may have."""
_GRID = np.round(np.arange(0.5, 1.0, 0.005), 3)

_MEASURES: dict[str, Callable[[Reading], float]] = {
    "confidence": lambda reading: reading.confidence,
    "entropy": lambda reading: reading.certainty,
}


def fit(heard: Sequence[Heard]) -> Calibration:
    """Return the thresholds that leave earliest at a loss of at most `LOSS`, and the first usable exit.

    Args:
        heard: clips that were not trained on.
    """
    errors, words = _errors(heard)
    rates = 100 * errors.sum(0) / max(1, words)
    found = {name: _threshold(errors, _sureness(heard, measure), words) for name, measure in _MEASURES.items()}
    earliest = next(i for i, rate in enumerate(rates) if rate <= max(USABLE, rates[-1]))
    return Calibration(found["confidence"], found["entropy"], earliest + 1)


def crossed(heard: Sequence[Heard]) -> dict[str, Any]:
    """Return what the policies do on each half of the clips with the thresholds of the other half.

    Returns:
        {policy: {wer (%), layers (mean)}}; nothing of fewer than two clips.
    """
    if len(heard) < 2:
        return {}
    halves = (list(heard[::2]), list(heard[1::2]))
    calibrations = (fit(halves[1]), fit(halves[0]))
    found = {}
    for name, measure in _MEASURES.items():
        wrong, said, layers = 0, 0, 0
        for half, calibration in zip(halves, calibrations, strict=True):
            errors, words = _errors(half)
            ends = _ends(_sureness(half, measure), getattr(calibration, name))
            wrong += int(errors[np.arange(len(half)), ends].sum())
            said += words
            layers += int(ends.sum()) + len(half)
        found[name] = {"wer": round(100 * wrong / said, 2) if said else None, "layers": round(layers / len(heard), 2)}
    return found


def _errors(heard: Sequence[Heard]) -> tuple[NDArray[np.int64], int]:
    """Return the word errors of each clip at each exit, (clips, exits), and the number of words."""
    errors = [[edit_distance(h.said, h.text(i).split()) for i in range(len(h.readings))] for h in heard]
    return np.array(errors, np.int64), sum(len(h.said) for h in heard)


def _sureness(heard: Sequence[Heard], measure: Callable[[Reading], float]) -> NDArray[np.float64]:
    return np.array([[measure(reading) for reading in h.readings] for h in heard])


def _ends(sureness: NDArray[np.float64], threshold: float) -> NDArray[np.intp]:
    """Return the index of the exit that each clip ends at, (clips,)."""
    sure = sureness >= threshold
    sure[:, -1] = True
    ends: NDArray[np.intp] = sure.argmax(1)
    return ends


def _threshold(errors: NDArray[np.int64], sureness: NDArray[np.float64], words: int) -> float:
    clips = np.arange(len(errors))
    allowed = errors[:, -1].sum() + LOSS * words / 100
    best, fewest = 1.0, float(errors.shape[1])
    for threshold in _GRID[::-1]:  # of two that leave alike the stricter one
        ends = _ends(sureness, float(threshold))
        if errors[clips, ends].sum() <= allowed and ends.mean() + 1 < fewest:
            best, fewest = float(threshold), ends.mean() + 1
    return best
