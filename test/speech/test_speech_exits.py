# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import entropy

from edge_nodes.speech.alphabet import SYMBOLS, decode, encode, word_spans
from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.config import ExitConfig
from edge_nodes.speech.costs import LayerCosts
from edge_nodes.speech.exits import Circumstances, Reading, Rest, policy, read


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


@pytest.mark.parametrize("seed", range(20))
def test_each_word_is_where_its_frames_are(seed):
    path = np.random.default_rng(seed).choice([0, 0, 1, 2, 3, 4], 30)
    assert [decode(path[first : last + 1]) for first, last in word_spans(path)] == decode(path).split()


def test_confidence_looks_past_sure_blanks():
    def frame(symbol, probability):
        row = np.full(29, (1 - probability) / 28)
        row[symbol] = probability
        return np.log(row)

    sure = np.array([frame(0, 0.999)] * 50 + [frame(3, 0.5), frame(4, 0.8)], np.float32)
    assert read(sure).text == "ab"
    assert read(sure).confidence == pytest.approx(np.sqrt(0.5 * 0.8), abs=1e-5)
    assert read(sure[:50]) == Reading("", 1.0, spans=(), sureness=())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ExitConfig("fixed", 2), 2),
        (ExitConfig("fixed", 0), 4),
        (ExitConfig("fixed", 9), 4),
        (ExitConfig("confidence", 0, 0.7), 3),
        (ExitConfig("confidence", 2, 0.7), 2),
        (ExitConfig("confidence", 0, 1.0), 4),
        (ExitConfig("deadline"), 4),
        (ExitConfig("load"), 4),
    ],
)
def test_policies(config, expected):
    leave = policy(config, 4)
    confidences = [0.3, 0.5, 0.7, 0.9]
    assert next(n for n in range(1, 5) if leave(n, Reading("", confidences[n - 1]))) == expected


def test_certainty_is_of_the_entropy_past_sure_blanks():
    rng = np.random.default_rng(0)
    frames = rng.dirichlet(np.full(29, 0.1), 20)
    blanks = np.full((30, 29), 0.01 / 28)
    blanks[:, 0] = 0.99
    heard = frames[frames[:, 0] < 0.95]
    expected = 1 - entropy(heard, axis=1).mean() / np.log(29)
    found = read(np.log(np.concatenate([blanks, frames])).astype(np.float32))
    assert found.certainty == pytest.approx(expected, abs=1e-5)
    with np.errstate(divide="ignore"):
        certain = np.log(np.eye(29, dtype=np.float32)[[3, 4]])
    assert read(certain) == Reading("ab", 1.0, 1.0, ((0, 1),), (1.0,))


@pytest.mark.parametrize("seed", range(10))
def test_how_sure_each_word_is(seed):
    rng = np.random.default_rng(seed)
    frames = rng.dirichlet(np.full(29, 0.02), 60)
    found = read(np.log(np.maximum(frames, 1e-30)).astype(np.float32))
    for word, sure in enumerate(found.sureness):
        best = []
        for t in range(60):
            apart = [max(first - t, t - last, 0) for first, last in found.spans]
            nearest = max(n for n in range(len(apart)) if apart[n] == min(apart))
            if nearest == word and frames[t, 0] < 0.95:
                best.append(frames[t].max())
        assert sure == pytest.approx(np.exp(np.mean(np.log(best))), abs=1e-4)


def leaves(config, *, calibration=None, circumstances=None, readings=None):
    leave = policy(config, 4, calibration, circumstances)
    readings = readings or [Reading("", c, c**2) for c in (0.3, 0.5, 0.7, 0.9)]
    return next(n for n in range(1, 5) if leave(n, readings[n - 1]))


@pytest.mark.parametrize(("threshold", "layer"), [(0.1, 2), (0.48, 3), (0.5, 4), (1.0, 4)])
def test_entropy_policy(threshold, layer):
    assert leaves(ExitConfig("entropy", threshold=threshold)) == layer


WORDS = Reading("a b c", 0.8, spans=((3, 4), (6, 9), (12, 20)), sureness=(0.9, 0.6, 0.7))


@pytest.mark.parametrize(
    ("layer", "threshold", "reading", "answer"),
    [
        (1, 0.1, WORDS, Rest.SILENCE),
        (2, 0.6, WORDS, True),
        (2, 0.7, WORDS, [(6, 9)]),
        (2, 0.8, WORDS, [(6, 9), (12, 20)]),
        (3, 0.5, WORDS, [(6, 9), (12, 20)]),  # half as much is saved by leaving here: half the doubt is allowed
        (3, 0.3, WORDS, [(6, 9)]),
        (4, 1.0, WORDS, True),
        (2, 0.8, Reading("", 0.8, spans=(), sureness=()), True),
        (2, 0.9, Reading("", 0.8, spans=(), sureness=()), False),
        (2, 0.8, Reading("a b", 0.8), True),
        (2, 0.9, Reading("a b", 0.8), False),
    ],
)
def test_words_policy_goes_on_with_what_is_not_sure(layer, threshold, reading, answer):
    config = ExitConfig("words", threshold=threshold)
    assert policy(config, 4, Calibration(earliest=2))(layer, reading) == answer
    spelled = reading._replace(correct=lambda: reading)
    assert policy(ExitConfig("words", earliest=2), 4, Calibration(words=threshold))(layer, spelled) == answer


def test_calibrated_thresholds_are_for_words_that_are_spelled():
    """Before, `words.correct: false` cost 4 points on spoken orders under the shipped policy."""
    leave = policy(ExitConfig("words"), 4, Calibration(earliest=2, words=0.6))
    assert leave(2, WORDS) == Rest.SILENCE
    assert leave(2, WORDS._replace(correct=lambda: WORDS)) is True
    assert leave(4, WORDS) is True


def test_words_policy_goes_by_the_words_as_they_are_spelled():
    heard = Reading("x", 0.8, spans=((3, 4),), sureness=(0.0,), correct=lambda: WORDS)
    assert policy(ExitConfig("words", threshold=0.7), 4, Calibration(earliest=2))(2, heard) == [(6, 9)]
    assert heard.spelled() == WORDS == WORDS.spelled()


def test_thresholds_of_the_calibration_where_none_is_set():
    known = Calibration(confidence=0.6, entropy=0.2, earliest=2)
    assert leaves(ExitConfig("confidence"), calibration=known) == 3
    assert leaves(ExitConfig("confidence", threshold=0.4), calibration=known) == 2
    assert leaves(ExitConfig("entropy"), calibration=known) == 2
    assert leaves(ExitConfig("confidence")) == 4


@pytest.mark.parametrize(
    ("budget_ms", "speed", "layer"),
    [(45.0, 1.0, 4), (40.0, 1.0, 4), (35.0, 1.0, 3), (20.0, 1.0, 2), (1.0, 1.0, 1), (45.0, 2.0, 2), (45.0, 0.5, 4)],
)
def test_deadline_policy_goes_by_measured_costs_and_the_clock(budget_ms, speed, layer):
    """10 ms a layer and second of audio were measured; now a layer takes `speed` times that."""
    costs = LayerCosts(range(1, 5))
    costs.add([0.01, 0.02, 0.03, 0.04], 1.0)
    reached = iter([0.02 * speed * n for n in (1, 2, 3, 4)])
    now = Circumstances(2.0, costs, spent_s=lambda: next(reached) - 1e-9)
    assert leaves(ExitConfig("deadline", budget_ms=budget_ms), circumstances=now) == layer


@pytest.mark.parametrize(
    ("waited_s", "earliest", "layer"), [(0.0, 0, 4), (0.2, 0, 4), (0.6, 0, 3), (9.0, 0, 2), (0.5, 1, 2), (9.0, 1, 1)]
)
def test_load_policy_goes_by_the_age_of_the_queue(waited_s, earliest, layer):
    now = Circumstances(2.0, LayerCosts(range(1, 5)), waited_s)
    config = ExitConfig("load", overload_ms=1000.0, earliest=earliest)
    assert leaves(config, calibration=Calibration(earliest=2), circumstances=now) == layer
