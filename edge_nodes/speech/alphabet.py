# SPDX-License-Identifier: Apache-2.0
"""The CTC alphabet: blank, space, apostrophe, a to z."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLANK = 0
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
