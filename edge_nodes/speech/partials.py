# SPDX-License-Identifier: Apache-2.0
"""Partial texts of a growing utterance at a cost that does not grow with it.

Words that ended a while ago are settled: they are never decoded again and so cannot change. Each text is the settled
words and those heard in a window of the newest audio, which begins a little before the last settled word and is never
longer than `LONGEST_S`: the encoder attends to that and to nothing later (no look-ahead).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.exits import Leave
from edge_nodes.speech.features import RATE_HZ
from edge_nodes.speech.model import ExitModel, Hypothesis

SETTLED_S = 1.0
"""A word that ended this long ago stays as it is."""
CONTEXT_S = 2.0
"""Settled audio that is still listened to, for the sake of what follows."""
LONGEST_S = 8.0
"""Audio that is listened to at most, whatever is heard in it."""


class Partials:
    """The partial texts of one utterance.

    Args:
        model: the recogniser's.
        start: position of the utterance's first sample.
    """

    def __init__(self, model: ExitModel, start: int) -> None:
        self._model, self._start = model, start
        self._words: list[str] = []
        self._until = start

    def hear(self, part: Callable[[int, int], NDArray[np.float32]], stop: int, leave: Leave) -> Hypothesis:
        """Return the words up to a position.

        Args:
            part: returns the samples between two positions, (n,) float32 at 16 kHz.
            stop: position where the audio ends, later than at the last call.
            leave: see `exits.policy`.
        """
        # Nothing settles in noise without words, in one endless word, or with a model that tells no times.
        limit = max(self._start, stop - int(LONGEST_S * RATE_HZ))
        begin = max(limit, self._until - int(CONTEXT_S * RATE_HZ))
        heard = self._model.recognise(part(begin, stop), leave)
        if heard.spans is None:
            return heard
        self._until = max(self._until, limit)
        words = [
            (word, begin + int(first * RATE_HZ), begin + int(last * RATE_HZ))
            for word, (first, last) in zip(heard.text.split(), heard.spans, strict=True)
        ]
        live = [word for word in words if word[1] + word[2] > 2 * self._until]
        text = " ".join([*self._words, *(word for word, _, _ in live)])
        self._settle(live, stop - int(SETTLED_S * RATE_HZ))
        return replace(heard, text=text)

    def _settle(self, live: list[tuple[str, int, int]], limit: int) -> None:
        old = [word for word in live if word[2] <= limit]
        self._words += [word for word, _, _ in old]
        if not old:
            return
        # The border lies between two words, so that neither jumps over it when it is next heard a frame off.
        following = live[len(old)][1] if len(old) < len(live) else limit
        self._until = (old[-1][2] + max(old[-1][2], following)) // 2
