# SPDX-License-Identifier: Apache-2.0
"""Spelling: words that a CTC head spells by sound become words that exist and that follow one another.

The words that were heard are a chain; where one is unsure or does not exist, words spelled much alike, two words in
place of it, or one in place of it and the next are ways beside it. The best way through this lattice is the one that
explains the frames best: CTC probability of its letters (Graves et al. 2006, section 4.1) and how likely its words
follow one another (Viterbi search). What the sound does not bear out stays as it was heard: the vocabulary stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.native import _kernels
from edge_nodes.speech.lexicon import Lexicon

COMMONNESS = float(_kernels.COMMONNESS)
"""Weight of a word's logarithmic probability beside the logarithmic probability of its letters."""
A_WORD = float(_kernels.A_WORD)
"""What a word that exists is worth."""
UNKNOWN = float(_kernels.UNKNOWN)
"""What a word that does not exist costs."""
CLEAR = float(_kernels.CLEAR)
"""Margin from which nothing else comes into question, and of words that were left alone."""

Span = tuple[int, int]


class Spelled(NamedTuple):
    """Words as they are spelled.

    Attributes:
        words: of them.
        spans: first and last frame of each.
        margins: by how much each beats the best of what else was thought of in its place, and of one word in place of
            it and its neighbour: difference of the logarithmic scores, from -`CLEAR` to `CLEAR`.
    """

    words: list[str]
    spans: list[Span]
    margins: list[float]


def spell(lexicon: Lexicon, words: Sequence[str], spans: Sequence[Span], log_probs: NDArray[np.float32]) -> Spelled:
    """Return the words as they are spelled, where they are and by how much they are the best.

    Args:
        lexicon: the words that exist.
        words: as they were decoded.
        spans: first and last frame of each.
        log_probs: (T, 29) float32 log-probabilities of `alphabet.SYMBOLS`, T >= 1.

    Raises:
        ValueError: not as many spans as words, spans that overlap or lie outside the frames, another shape, or a word
            with a character that the alphabet has not.
    """
    return Spelled(*_kernels.spell(lexicon.native, words, spans, log_probs))


def ctc_log_probability(log_probs: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the logarithmic probabilities of texts given all frames, by CTC's forward recursion.

    Args:
        log_probs: (T, 29) float32 log-probabilities of `alphabet.SYMBOLS`, T >= 1.
        texts: none of them empty.

    Returns:
        (texts,) float64; very low if a text needs more frames than there are.

    Raises:
        ValueError: another shape, or a text that is empty or has other characters than the alphabet.
    """
    return np.array(_kernels.ctc_log_probability(log_probs, texts))
