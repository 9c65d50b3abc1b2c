# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge_nodes.speech.alphabet import SYMBOLS, decode, encode
from edge_nodes.speech.config import ExitConfig
from edge_nodes.speech.exits import Reading, policy, read


def collapsed(path):
    """CTC's map from paths to texts, in its other order: merge, then drop blanks."""
    merged = [s for s, _ in itertools.groupby(path)]
    return "".join(SYMBOLS[s] for s in merged if s)


@pytest.mark.parametrize("seed", range(20))
def test_decode_is_the_ctc_map(seed):
    path = np.random.default_rng(seed).choice([0, 0, 2, 3, 4], 12)
    assert decode(path) == collapsed(path)


def test_decode_trims_spaces():
    assert decode(np.array([1, 0, 3, 0, 1, 0, 1, 4, 1])) == "a b"
    assert decode(np.array([], int)) == ""
    assert encode("a b'z") == [3, 1, 4, 2, 28]


def test_confidence_looks_past_sure_blanks():
    def frame(symbol, probability):
        row = np.full(29, (1 - probability) / 28)
        row[symbol] = probability
        return np.log(row)

    sure = np.array([frame(0, 0.999)] * 50 + [frame(3, 0.5), frame(4, 0.8)], np.float32)
    assert read(sure).text == "ab"
    assert read(sure).confidence == pytest.approx(np.sqrt(0.5 * 0.8), abs=1e-5)
    assert read(sure[:50]) == Reading("", 1.0)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ExitConfig("fixed", 2), 2),
        (ExitConfig("fixed", 0), 4),
        (ExitConfig("fixed", 9), 4),
        (ExitConfig("confidence", 0, 0.7), 3),
        (ExitConfig("confidence", 2, 0.7), 2),
        (ExitConfig("confidence", 0, 1.0), 4),
    ],
)
def test_policies(config, expected):
    leave = policy(config, 4)
    confidences = [0.3, 0.5, 0.7, 0.9]
    assert next(n for n in range(1, 5) if leave(n, Reading("", confidences[n - 1]))) == expected
