# SPDX-License-Identifier: Apache-2.0
"""Which words exist, how common they are, and which are alike."""

from __future__ import annotations

import importlib.resources

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from edge_nodes.errors import State
from edge_nodes.speech.errors import SpeechError
from edge_nodes.speech.lexicon import Lexicon


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon(["Zorbex"])


@pytest.fixture(scope="module")
def listed():
    with (importlib.resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt").open() as file:
        words = {line.split()[0] for line in file}
    return {word for word in words if set(word) <= set("'abcdefghijklmnopqrstuvwxyz")} | {"lidar", "ok", "zorbex"}


def test_what_exists(lexicon):
    assert all(word in lexicon for word in ("turn", "i'd", "robot's", "lidar", "zorbex"))
    assert not any(word in lexicon for word in ("", "trun", "trun's", "turn'x", "'s"))


def test_counts_become_probabilities(lexicon):
    one, many = lexicon.log_probability("obstacle"), lexicon.log_probability("the")
    assert one < many < 0
    pairs, first, rarest = 0, 0, np.inf
    with (importlib.resources.files("symspellpy") / "frequency_bigramdictionary_en_243_342.txt").open() as file:
        for line in file:
            before, after, count = line.split()
            pairs += before == "of" and "'" not in after and after in lexicon and int(count)
            first += (before, after) == ("of", "the") and int(count)
            rarest = min(rarest, int(count))
    assert np.exp(lexicon.log_probability("the", "of")) == pytest.approx(0.6 * first / pairs + 0.4 * np.exp(many) / 0.4)
    assert lexicon.log_probability("the", "qqq") == lexicon.log_probability("the")
    assert np.exp(lexicon.log_probability("robot's")) == pytest.approx(0.05 * np.exp(lexicon.log_probability("robot")))
    assert lexicon.log_probability("zorbex") > one
    assert lexicon.log_bound("the", "of") == lexicon.log_probability("the", "of")
    assert lexicon.log_bound("the", "qqq") == lexicon.log_bound("the") == lexicon.log_probability("the")
    assert np.exp(lexicon.log_bound("did", "of")) == pytest.approx(rarest / pairs)  # common, but not after "of"
    assert lexicon.log_bound("obstacle", "lidar") == lexicon.log_probability("obstacle", "lidar")  # rare anyhow


@pytest.mark.parametrize(
    "word", ["trun", "obstcle", "a", "leff", "medum", "zzzzzzzzzzzzzzzzzzz", "abcdefghijklmnopqrstuvwxyz" * 3]
)
@pytest.mark.parametrize("edits", [1, 2, 3])
def test_near_words_are_all_that_so_many_edits_make(lexicon, listed, word, edits):
    expected = {w for w in listed if w != word and Levenshtein.distance(w, word) <= edits}
    found = lexicon.near(word, edits, 100_000)
    assert set(found) == expected
    distances = [Levenshtein.distance(w, word) for w in found]
    assert distances == sorted(distances)
    assert lexicon.near(word, edits, 3) == found[:3]


def test_of_words_as_close_the_shorter_and_then_the_commoner_come_first(lexicon):
    for word in ("trun", "leff", "medum"):
        found = lexicon.near(word, 2, 100_000)
        keys = [(Levenshtein.distance(w, word), len(w), -lexicon.log_probability(w)) for w in found]
        assert keys == sorted(keys)


def test_a_number_of_edits_that_is_not_offered(lexicon):
    with pytest.raises(ValueError, match="1 to 3 edits"):
        lexicon.near("turn", 4, 5)


def test_missing_lists_are_told(monkeypatch):
    monkeypatch.setattr("edge_nodes.speech.lexicon.find_spec", lambda name: None)
    with pytest.raises(SpeechError, match=r"symspellpy.*words\.correct") as told:
        Lexicon()
    assert told.value.state is State.MODEL_MISSING
