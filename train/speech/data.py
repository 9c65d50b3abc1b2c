# SPDX-License-Identifier: Apache-2.0
"""Clips to train on (see `edge_nodes.speech.clips`) and their augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from edge_nodes.speech.clips import RATE_HZ, Clip, clips, normalise, words
from edge_nodes.speech.noises import room

__all__ = ["RATE_HZ", "Augmenter", "Clip", "clips", "normalise", "words"]


class Augmenter:
    """Speed, room, noise and silence around a clip."""

    def __init__(self, noise: Path, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise, _ = soundfile.read(noise, dtype="float32")

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return a changed copy."""
        rng = self._rng
        up, down = [(1, 1), (1, 1), (10, 9), (10, 11), (20, 19), (20, 21)][rng.integers(6)]
        audio = resample_poly(samples, up, down)
        if rng.random() < 0.35:
            audio = room(audio, rng)
        before, after = rng.integers(0, 6000, 2)
        audio = np.pad(audio, (before, after))
        level = np.sqrt(np.mean(samples**2)) + 1e-6
        snr_db = rng.uniform(5, 25) if rng.random() < 0.6 else rng.uniform(30, 60)
        start = rng.integers(0, len(self._noise) - len(audio))
        noise = self._noise[start : start + len(audio)]
        audio = audio + noise * (level / (np.sqrt(np.mean(noise**2)) + 1e-6) * 10 ** (-snr_db / 20))
        return audio.astype(np.float32)

    def noises(self, count: int) -> Iterator[np.ndarray]:
        """Yield pieces of noise of 0.5 to 4 s, some of them nearly silent."""
        for _ in range(count):
            size = self._rng.integers(8000, 64000)
            start = self._rng.integers(0, len(self._noise) - size)
            level = 10 ** self._rng.uniform(-3, 0)
            yield self._noise[start : start + size] * np.float32(level)
