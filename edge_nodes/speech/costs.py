# SPDX-License-Identifier: Apache-2.0
"""What each exit costs on this machine, measured while utterances are recognised."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from statistics import median

_SHORTEST_S = 0.5
"""Shorter audio is nearly all overhead and says nothing of a second of it."""


class LayerCosts:
    """Seconds of work for a second of audio up to each exit: medians over the newest utterances.

    Safe to use from several threads.

    Args:
        exits: layers with an exit, from 1, in order.
        kept: newest utterances that count.
    """

    def __init__(self, exits: Sequence[int], *, kept: int = 9) -> None:
        self._exits = tuple(exits)
        self._stages = [deque[float](maxlen=kept) for _ in exits]
        self._lock = threading.Lock()

    def add(self, spent_s: Sequence[float], audio_s: float) -> None:
        """Take one utterance.

        Args:
            spent_s: seconds from the audio to each exit that was reached, in order.
            audio_s: length of the audio, s.
        """
        if audio_s < _SHORTEST_S:
            return
        with self._lock:
            before = 0.0
            for stage, spent in zip(self._stages, spent_s, strict=False):
                stage.append((spent - before) / audio_s)
                before = spent

    def until(self, layer: int) -> float:
        """Return the seconds for a second of audio up to the first exit at `layer` or later; 0 if not measured yet."""
        found = 0.0
        with self._lock:
            for number, stage in zip(self._exits, self._stages, strict=True):
                found += median(stage) if stage else 0.0
                if number >= layer:
                    break
        return found
