# SPDX-License-Identifier: Apache-2.0
"""The CTC alphabet: blank, space, apostrophe, a to z."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLANK, SPACE = 0, 1
SYMBOLS = "\0 'abcdefghijklmnopqrstuvwxyz"


def encode(text: str) -> list[int]:
    """Return the ids of a text that holds only the alphabet's characters.

    Raises:
        ValueError: another character.
    """
    return [SYMBOLS.index(character) for character in text]


def decode(best: NDArray[np.integer[Any]]) -> str:
    """Return the text of the best symbol of each frame, (T,) integer: repeats merged, blanks dropped."""
    return " ".join("".join(SYMBOLS[i] for i, _ in groupby(best.tolist()) if i != BLANK).split())


def word_spans(best: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """Return the first and the last frame of each word of `decode`'s text."""
    spans: list[tuple[int, int]] = []
    inside = False
    for frame in np.flatnonzero(best != BLANK).tolist():
        if best[frame] == SPACE:
            inside = False
        elif inside:
            spans[-1] = (spans[-1][0], frame)
        else:
            spans.append((frame, frame))
            inside = True
    return spans
