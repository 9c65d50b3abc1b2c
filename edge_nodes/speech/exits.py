# SPDX-License-Identifier: Apache-2.0
"""What an exit says, how sure it is, and when to leave there (arXiv 2309.09546, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.alphabet import BLANK, decode
from edge_nodes.speech.config import ExitConfig

_SURELY_BLANK = 0.95


class Reading(NamedTuple):
    """The text of an exit and its confidence, 0..1."""

    text: str
    confidence: float


Leave = Callable[[int, Reading], bool]
"""Whether to leave at an exit: its layer (from 1) and what it says."""


def read(log_probs: NDArray[np.float32], text_of: Callable[[NDArray[np.integer[Any]]], str] = decode) -> Reading:
    """Decode greedily.

    Args:
        log_probs: (T, symbols) float32 log-probabilities; symbol 0 is the blank.
        text_of: turns the best symbol of each frame, (T,) integer, into text.

    Returns:
        The text, and as confidence the geometric mean of the best symbols' probabilities over the frames that are
        not surely blank: long pauses do not make a doubtful word look certain. 1 if every frame is blank.
    """
    text = text_of(log_probs.argmax(1))
    best = log_probs.max(1)[log_probs[:, BLANK] < np.log(_SURELY_BLANK)]
    return Reading(text, float(np.exp(best.mean())) if best.size else 1.0)


def policy(config: ExitConfig, layers: int) -> Leave:
    """Return when to leave, given the model's number of layers; a layer beyond the last counts as the last."""
    last = min(config.layer, layers) or layers
    if config.policy == "fixed":
        return lambda layer, _: layer >= last
    return lambda layer, reading: layer >= last or reading.confidence >= config.threshold
