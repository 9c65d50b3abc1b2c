# SPDX-License-Identifier: Apache-2.0
"""What an exit says, how sure it is, and when to leave there (arXiv 2309.09546, section 3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.alphabet import BLANK, decode, word_spans
from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.config import ExitConfig
from edge_nodes.speech.costs import LayerCosts

_SURELY_BLANK = 0.95


class Reading(NamedTuple):
    """What an exit says.

    Attributes:
        text: its words.
        confidence: geometric mean of the best symbols' probabilities, 0..1.
        certainty: 1 - mean entropy of a frame / entropy of a guess, 0..1.
        spans: first and last frame of each word; None if the model does not tell.
        sureness: of each word, 0..1: the confidence of its frames and of half the pauses beside it; once the words are
            spelled right, see `sureness.probability`. None if the model does not tell.
        correct: returns the reading with its words spelled right; None if they are as they were heard.
    """

    text: str
    confidence: float
    certainty: float = 1.0
    spans: tuple[tuple[int, int], ...] | None = None
    sureness: tuple[float, ...] | None = None
    correct: Callable[[], Reading] | None = None

    def spelled(self) -> Reading:
        """Return the reading with its words spelled right, if the model does that."""
        return self if self.correct is None else self.correct()


class Rest(Enum):
    """What leaves while all the rest goes on."""

    SILENCE = "silence"


Leave = Callable[[int, Reading], "bool | Rest | Sequence[tuple[int, int]]"]
"""Whether to leave at an exit: its layer (from 1) and what it says. Or what is to go on while the rest leaves: the
first and last frames of the words that are not sure; or what leaves by itself."""


def _stopwatch() -> Callable[[], float]:
    begin = time.perf_counter()
    return lambda: time.perf_counter() - begin


@dataclass(frozen=True)
class Circumstances:
    """What the policies that save time go by; made right before an utterance is recognised.

    Attributes:
        audio_s: length of the utterance, s.
        costs: what each exit costs.
        waited_s: how long the audio has waited in the node's queue, s.
        spent_s: returns the seconds spent on this utterance so far.
    """

    audio_s: float
    costs: LayerCosts
    waited_s: float = 0.0
    spent_s: Callable[[], float] = field(default_factory=_stopwatch)


def read(log_probs: NDArray[np.float32], text_of: Callable[[NDArray[np.integer[Any]]], str] | None = None) -> Reading:
    """Decode greedily.

    Args:
        log_probs: (T, symbols) float32 log-probabilities; symbol 0 is the blank.
        text_of: turns the best symbol of each frame, (T,) integer, into text; None for our alphabet.

    Returns:
        The text, its confidence and its certainty, both over the frames that are not surely blank: long pauses do
        not make a doubtful word look certain. 1 if every frame is blank.
    """
    best = log_probs.argmax(1)
    text, spans = (decode(best), tuple(word_spans(best))) if text_of is None else (text_of(best), None)
    heard = log_probs[log_probs[:, BLANK] < np.log(_SURELY_BLANK)]
    sureness = None if spans is None else tuple(np.exp(sounds(log_probs, spans)).tolist())
    if not heard.size:
        return Reading(text, 1.0, spans=spans, sureness=sureness)
    # 0 log 0 is 0, but NaN of an infinite logarithm.
    entropy = -(np.exp(heard) * np.maximum(heard, -100.0)).sum(1).mean()
    certainty = float(1.0 - entropy / np.log(heard.shape[1]))
    return Reading(text, float(np.exp(heard.max(1).mean())), certainty, spans, sureness)


def sounds(log_probs: NDArray[np.float32], spans: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Return the mean logarithmic probability of each word's best symbols, past sure blanks, from pause to pause.

    Args:
        log_probs: (T, symbols) float32 log-probabilities; symbol 0 is the blank.
        spans: first and last frame of each word, in order.

    Returns:
        (words,) float64.
    """
    if not spans:
        return np.zeros(0)
    counts = log_probs[:, BLANK] < np.log(_SURELY_BLANK)
    edges = [0, *((last + first + 1) // 2 for (_, last), (first, _) in pairwise(spans))]
    sums = np.add.reduceat(np.where(counts, log_probs.max(1), 0.0), edges)
    means: NDArray[np.float64] = sums / np.maximum(1, np.add.reduceat(counts.astype(int), edges))
    return means


def policy(
    config: ExitConfig,
    layers: int,
    calibration: Calibration | None = None,
    circumstances: Circumstances | None = None,
) -> Leave:
    """Return when to leave.

    Args:
        config: the policy and its numbers; a threshold or an earliest layer of 0 is the calibration's.
        layers: of the model; a layer beyond the last counts as the last.
        calibration: of the model.
        circumstances: of this utterance; without them the deadline and the load policies leave at the last layer.
    """
    last = min(config.layer, layers) or layers
    known = calibration or Calibration()
    if config.policy == "confidence":
        threshold = config.threshold or known.confidence
        return lambda layer, reading: layer >= last or reading.confidence >= threshold
    if config.policy == "entropy":
        threshold = config.threshold or known.entropy
        return lambda layer, reading: layer >= last or reading.certainty >= threshold
    if config.policy == "words":
        threshold = config.threshold or known.words
        return _words(threshold, config.earliest or known.earliest, last, as_heard=config.threshold > 0)
    if config.policy == "deadline" and circumstances is not None:
        return _deadline(1e-3 * config.budget_ms, last, circumstances)
    if config.policy == "load" and circumstances is not None:
        last = _bearable(config, last, config.earliest or known.earliest, circumstances.waited_s)
    return lambda layer, _: layer >= last


def _words(threshold: float, earliest: int, last: int, *, as_heard: bool) -> Leave:
    """Leave with silence, then with the words that are sure; go on with all that was heard if there are no words.

    The fewer layers are left to be saved, the less doubt is allowed, in proportion. Calibrated thresholds are for words
    that are spelled: others leave only by a threshold that was asked for (`as_heard`).
    """

    def leave(layer: int, reading: Reading) -> bool | Rest | Sequence[tuple[int, int]]:
        if layer >= last:
            return True
        if layer < earliest:
            return Rest.SILENCE
        words = reading.spelled()
        if not words.spans or words.sureness is None:
            return reading.confidence >= threshold
        if reading.correct is None and not as_heard:
            return Rest.SILENCE
        wanted = 1.0 - (1.0 - threshold) * (last - layer) / (last - earliest)
        unsure = [span for span, sure in zip(words.spans, words.sureness, strict=True) if sure < wanted]
        return unsure or True

    return leave


def _deadline(budget: float, last: int, now: Circumstances) -> Leave:
    """Leave where the next exit is not to be reached in `budget` seconds for a second of audio."""

    def leave(layer: int, _: Reading) -> bool:
        further_s = (now.costs.until(layer + 1) - now.costs.until(layer)) * now.audio_s
        return layer >= last or now.spent_s() + further_s > budget * now.audio_s

    return leave


def _bearable(config: ExitConfig, last: int, earliest: int, waited_s: float) -> int:
    """Return the last layer that a node with this old a queue still computes."""
    share = min(1.0, 1e3 * waited_s / config.overload_ms)
    return last - round(share * max(0, last - earliest))
