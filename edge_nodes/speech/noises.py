# SPDX-License-Identifier: Apache-2.0
"""Hours of noise out of minutes: recordings in other rooms, louder and softer, faster and slower, one over another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.features import RATE_HZ

LEVEL_DB = (-24.0, 12.0)
"""Least and most that a recording is made louder by."""
_SPEEDS = ((1, 1), (9, 10), (10, 9), (4, 5), (5, 4))


def room(audio: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return (n,) float32 audio as it sounds in a room of 0.1 to 0.5 s reverberation time.

    The room's response is exponentially decaying noise after the direct sound (Polack's model of late reverberation).
    """
    from scipy.signal import fftconvolve  # 60 MB of memory

    seconds = random.uniform(0.1, 0.5)
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    response = random.standard_normal(len(time)) * 10 ** (-3 * time / seconds) * random.uniform(0.02, 0.1)
    response[0] = 1.0
    return np.asarray(fftconvolve(audio, response)[: len(audio)], np.float32)


def varied(recordings: Sequence[NDArray[np.float32]], seconds: float, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """Yield the recordings as they are, then changed ones until there is as much noise as wanted.

    Args:
        recordings: (n,) float32 in [-1, 1] at 16 kHz, at least one that is not empty.
        seconds: how much noise, s; the last piece may go beyond.
        seed: of what is changed and how.

    Yields:
        (n,) float32 in [-1, 1].
    """
    random, left = np.random.default_rng(seed), seconds
    heard = [each for each in recordings if len(each)]
    if not heard:
        return
    for audio in chain(heard, (_changed(heard, random) for _ in repeat(None))):
        if left <= 0:
            return
        left -= len(audio) / RATE_HZ
        yield audio


def _changed(recordings: Sequence[NDArray[np.float32]], random: np.random.Generator) -> NDArray[np.float32]:
    from scipy.signal import resample_poly

    up, down = _SPEEDS[random.integers(len(_SPEEDS))]
    audio = np.asarray(resample_poly(recordings[int(random.integers(len(recordings)))], up, down), np.float32)
    if random.random() < 0.3:
        other = recordings[int(random.integers(len(recordings)))]
        audio += np.float32(random.uniform(0.3, 1.0)) * np.resize(other, len(audio))
    if random.random() < 0.5:
        audio = room(audio, random)
    audio *= np.float32(10 ** (random.uniform(*LEVEL_DB) / 20))
    return np.clip(audio, -1.0, 1.0)
