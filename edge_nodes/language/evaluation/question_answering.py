# SPDX-License-Identifier: Apache-2.0
"""Exact match and F1 of extracted answers, by the rules of SQuAD 2.0 (Rajpurkar et al. 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return the text in lower case, without punctuation and articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(guess: str, answers: Sequence[str]) -> float:
    """Return 1 if the guess is one of the answers, else 0; no answers: the question has none, and "" is right."""
    return float(normalise(guess) in {normalise(a) for a in answers or [""]})


def f1(guess: str, answers: Sequence[str]) -> float:
    """Return the best F1 of the guess's words against an answer's; no answers as in `exact`."""
    return max(_f1(normalise(guess).split(), normalise(a).split()) for a in answers or [""])


def _f1(guess: list[str], answer: list[str]) -> float:
    if not guess or not answer:
        return float(guess == answer)
    common = sum((Counter(guess) & Counter(answer)).values())
    return 2.0 * common / (len(guess) + len(answer))
