# SPDX-License-Identifier: Apache-2.0
"""How sure an exit is of a word: the probability that the last exit would spell it the same.

A logistic regression on what is known of the word at the exit: a combination of predictor features, as confidence
measures go (Jiang 2005, "Confidence measures for speech recognition: A survey"). Its weights belong to an exit of a
model and are kept with the thresholds.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.lexicon import Lexicon
from edge_nodes.speech.spelling import Spelled

_UNLIKELY = -20.0
"""Logarithmic probability of a word that does not exist."""


@dataclass(frozen=True)
class Weights:
    """What each trait of a word adds to the logarithm of its odds.

    Attributes:
        sound: for the mean logarithmic probability of the best symbols in and around the word.
        margin: for the word's margin, see `spelling.Spelled`.
        likely: for its logarithmic probability after the word before, see `Lexicon.log_bound`.
        letters: for each letter.
        known: for a word that exists.
        bias: for every word.
    """

    sound: float
    margin: float
    likely: float
    letters: float
    known: float
    bias: float


TRAITS = tuple(field.name for field in fields(Weights))[:-1]


def traits(lexicon: Lexicon, spelled: Spelled, sounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the traits of words, (n, 5) in the order of `TRAITS`.

    Args:
        lexicon: the words that exist.
        spelled: the words.
        sounds: (n,) mean logarithmic probability of each word's best symbols.
    """
    befores = [None, *spelled.words]
    rows = []
    for word, before, margin, sound in zip(spelled.words, befores, spelled.margins, sounds, strict=False):
        known = word in lexicon
        likely = lexicon.log_bound(word, before) if known else _UNLIKELY
        rows.append((float(sound), margin, likely, float(len(word)), float(known)))
    return np.array(rows, np.float64).reshape(-1, len(TRAITS))


def probability(weights: Weights, found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of each word, (n,), given its traits, (n, 5)."""
    *each, bias = astuple(weights)
    odds: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-(found @ np.array(each) + bias)))
    return odds


def fit(found: NDArray[np.float64], right: NDArray[np.bool_], *, penalty: float = 1.0) -> Weights:
    """Return the weights that make what is known most likely (Newton's method, ridge on standardised traits).

    Args:
        found: (n, 5) traits.
        right: (n,) whether the last exit said the same.
        penalty: of the squared weights; none of the bias.
    """
    mean, spread = found.mean(0), found.std(0) + 1e-9
    inputs = np.column_stack([(found - mean) / spread, np.ones(len(found))])
    ridge = penalty * np.diag([1.0] * len(TRAITS) + [1e-6])
    weights = np.zeros(len(ridge))
    for _ in range(50):
        guess = 1.0 / (1.0 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (guess - right) + ridge @ weights
        step = np.linalg.solve((inputs * (guess * (1 - guess))[:, None]).T @ inputs + ridge, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    each = weights[:-1] / spread
    return Weights(*np.round([*each, weights[-1] - each @ mean], 4).tolist())
