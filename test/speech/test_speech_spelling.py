# SPDX-License-Identifier: Apache-2.0
"""Spelling by what exists, what follows what, and what the sound bears out."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch.nn import functional

from edge_nodes.speech import ExitConfig, SpeechModel
from edge_nodes.speech.alphabet import decode, encode, word_spans
from edge_nodes.speech.exits import policy
from edge_nodes.speech.lexicon import Lexicon
from edge_nodes.speech.spelling import A_WORD, CLEAR, COMMONNESS, UNKNOWN, ctc_log_probability, spell


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon(["Zorbex", "kafe"])


def sound(text, doubts=(), frames=3):
    """Log-probabilities that say `text`; doubts: (number of a letter, what else, how likely)."""
    other = {number: (letter, share) for number, letter, share in doubts}
    rows = []
    for number, symbol in enumerate(encode(text)):
        row = np.full(29, 1e-4)
        row[symbol] = 1.0
        if number in other:
            letter, share = other[number]
            row[encode(letter)[0] if letter else 0] = share
            row[symbol] = 1 - share
        blank = np.full(29, 1e-4)
        blank[0] = 1.0
        rows += [row / row.sum()] * frames + [blank / blank.sum()]
    return np.log(np.array(rows)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_the_probability_is_ctcs(seed):
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.ones(29), 12)).astype(np.float32)
    texts = ["a", "turn", "letter", "aa", "hello wor"]
    expected = [
        -functional.ctc_loss(
            torch.from_numpy(log_probs)[:, None],
            torch.tensor([encode(text)]),
            torch.tensor([12]),
            torch.tensor([len(text)]),
            reduction="sum",
        ).item()
        for text in texts
    ]
    assert ctc_log_probability(log_probs, texts) == pytest.approx(expected, rel=1e-5)


def test_more_letters_than_frames_are_impossible():
    log_probs = np.log(np.full((3, 29), 1 / 29, np.float32))
    assert max(ctc_log_probability(log_probs, ["abcd", "aaa"])) < -1e6
    assert ctc_log_probability(log_probs, ["aa"])[0] == pytest.approx(3 * np.log(1 / 29))  # with a blank between


def spelled(lexicon, log_probs):
    best = log_probs.argmax(1)
    words, spans, margins = spell(lexicon, decode(best).split(), word_spans(best), log_probs)
    assert len(words) == len(spans) == len(margins)
    assert all(first <= last < after for (first, last), (after, _) in pairwise([*spans, (len(log_probs), 0)]))
    return " ".join(words)


def test_a_word_that_was_nearly_heard(lexicon):
    heard = sound("turn leff now", doubts=((8, "t", 0.3),))
    assert decode(heard.argmax(1)) == "turn leff now"
    assert spelled(lexicon, heard) == "turn left now"


def test_the_sound_decides_between_words(lexicon):
    for letter, expected in (("t", "bat"), ("d", "bad"), ("g", "bag")):
        assert spelled(lexicon, sound("bav", doubts=((2, letter, 0.4),))) == expected


def test_what_exists_and_what_is_nowhere_near_stays(lexicon):
    for text in ("turn left", "what's ahead", "the robot's arm", "zorbex kafe", "ask for qzxwvkjt"):
        assert spelled(lexicon, sound(text)) == text


def test_own_words_are_taken(lexicon):
    heard = sound("go to zorbek", doubts=((11, "x", 0.4),))
    assert spelled(lexicon, heard) == "go to zorbex"
    assert spelled(Lexicon(), heard) == "go to zorbek"


def test_no_words(lexicon):
    assert spell(lexicon, [], [], np.zeros((5, 29), np.float32)) == ([], [], [])


@pytest.mark.parametrize(
    ("words", "spans", "shape"),
    [
        (["a", "b"], [(0, 1)], (5, 29)),
        (["a"], [(3, 5)], (5, 29)),
        (["a", "b"], [(0, 2), (2, 3)], (5, 29)),
        (["a"], [(0, 1)], (5, 28)),
        (["A"], [(0, 1)], (5, 29)),
    ],
)
def test_what_does_not_fit_is_refused(lexicon, words, spans, shape):
    with pytest.raises(ValueError, match=r"expected|alphabet"):
        spell(lexicon, words, spans, np.zeros(shape, np.float32))


def test_a_space_that_was_not_heard_and_one_too_many(lexicon):
    # The missing space was somewhat likely, the space too many somewhat not.
    joined = sound("turn left", doubts=((4, "", 0.8),))
    assert decode(joined.argmax(1)) == "turnleft"
    assert spelled(lexicon, joined) == "turn left"
    parted = sound("ob stacle ahead", doubts=((2, "", 0.4),))
    assert spelled(lexicon, parted) == "obstacle ahead"


def test_the_word_before_decides_where_the_sound_does_not(lexicon):
    doubts = ((10, "a", 0.5), (11, "t", 0.5), (12, "e", 0.5))
    assert lexicon.log_probability("air", "fresh") > lexicon.log_probability("ate", "fresh")
    heard = sound("the fresh air", doubts=doubts)
    assert spelled(lexicon, heard) == "the fresh air"
    # The same letters after another word, heard the other way round.
    assert spelled(lexicon, sound("the fresh ate", doubts=((10, "a", 0.5), (11, "i", 0.5), (12, "r", 0.5)))) == (
        "the fresh air"
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_way_is_the_best_of_all(lexicon, seed):
    """Against trying every sentence of the words that come into question."""
    rng = np.random.default_rng(seed)
    log_probs = sound("tar left nav")
    log_probs = np.log(0.6 * np.exp(log_probs) + 0.4 * rng.dirichlet(np.full(29, 0.1), len(log_probs)))
    log_probs = log_probs.astype(np.float32)
    best = log_probs.argmax(1)
    words, spans = decode(best).split(), word_spans(best)
    # A word's frames end with the space after it; twelve more before the first word and after the last.
    edges = [max(0, spans[0][0] - 12), spans[-1][1] + 13]
    for (_, last), (first, _) in pairwise(spans):
        edges.insert(-1, max(frame for frame in range(last + 1, first) if best[frame] == encode(" ")[0]) + 1)
    singles = []
    for place, word in enumerate(words):
        texts = [word, *lexicon.near(word, 1 + (len(word) > 3) + (len(word) > 7), 20)]
        spoken = [text + " " * (place + 1 < len(words)) for text in texts]
        scores = ctc_log_probability(log_probs[edges[place] : edges[place + 1]], spoken)
        singles.append(sorted(zip(scores, texts, strict=True), reverse=True)[:8])
    every = {}
    for ways in product(*singles):
        sentence = tuple(text for _, text in ways)
        every[sentence] = sum(score for score, _ in ways)
        for before, word in pairwise((None, *sentence)):
            known = word in lexicon
            every[sentence] += A_WORD + COMMONNESS * lexicon.log_probability(word, before) if known else UNKNOWN
    found, _, _ = spell(lexicon, words, spans, log_probs)
    assert max(every.values()) <= every.get(tuple(found), np.inf) + 1e-9


def test_the_model_spells_what_it_gives(data_dir, lexicon):
    from edge_nodes.speech.clips import read, usable

    stem = data_dir / "speech" / "picovoice_sti_commands"
    held_out = [(record, text) for record, text, dev in usable(stem) if dev][:12]
    plain, right = SpeechModel("speech/splitformer"), SpeechModel("speech/splitformer", lexicon=lexicon)
    last = policy(ExitConfig(policy="fixed"), 4)
    wrong = {"plain": 0, "right": 0}
    for record, text in held_out:
        samples = np.pad(read(stem, record), 1600)
        for name, model in (("plain", plain), ("right", right)):
            heard = model.recognise(samples, last)
            assert len(heard.spans) == len(heard.text.split())
            wrong[name] += len(set(heard.text.split()) - set(text.split()))
    assert wrong["right"] < wrong["plain"]


def margins(lexicon, log_probs):
    best = log_probs.argmax(1)
    return spell(lexicon, decode(best).split(), word_spans(best), log_probs).margins


def test_a_margin_is_what_the_next_best_word_is_worse_by(lexicon):
    heard = sound("turn lef now", doubts=((7, "d", 0.45),))  # lef, or led; spelled left, led, let, ...
    words = spelled(lexicon, heard).split()
    found = margins(lexicon, heard)
    assert words[1] in ("left", "led")
    frames = heard[4 * 5 : 4 * 9]  # with the space after it, as its neighbours' frames end there
    totals = {}
    for word in (words[1], "lef", *lexicon.near("lef", 1, 20)):
        total = ctc_log_probability(frames, [word + " "])[0]
        for each, before in ((word, "turn"), ("now", word)):
            known = each in lexicon
            total += A_WORD + COMMONNESS * lexicon.log_probability(each, before) if known else UNKNOWN
        totals[word] = total
    own = totals.pop(words[1])
    assert found[1] == pytest.approx(own - max(totals.values()), abs=1e-6)
    assert found[0] == found[2] == CLEAR


def test_two_words_that_could_be_one_have_a_small_margin(lexicon):
    apart, doubtful = sound("any one here"), sound("any one here", doubts=((3, "", 0.45),))
    assert spelled(lexicon, apart) == spelled(lexicon, doubtful) == "any one here"
    sure, unsure = margins(lexicon, apart), margins(lexicon, doubtful)
    assert unsure[0] == unsure[1] < sure[0] == sure[1]
    assert unsure[2] == sure[2] == CLEAR
