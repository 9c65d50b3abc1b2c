# SPDX-License-Identifier: Apache-2.0
"""Spelling by what exists and what the sound bears out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from edge_nodes.speech import ExitConfig, SpeechModel
from edge_nodes.speech.alphabet import decode, encode, word_spans
from edge_nodes.speech.exits import policy
from edge_nodes.speech.lexicon import Lexicon, ctc_log_probability


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
    texts = [encode(text) for text in ("a", "turn", "letter", "aa", "hello wor")]
    expected = [
        -functional.ctc_loss(
            torch.from_numpy(log_probs)[:, None],
            torch.tensor([text]),
            torch.tensor([12]),
            torch.tensor([len(text)]),
            reduction="sum",
        ).item()
        for text in texts
    ]
    assert ctc_log_probability(log_probs, texts) == pytest.approx(expected, rel=1e-5)


def test_more_letters_than_frames_are_impossible():
    log_probs = np.log(np.full((3, 29), 1 / 29, np.float32))
    assert ctc_log_probability(log_probs, [encode("abcd"), encode("aa")])[0] < -1e6


def spelled(lexicon, log_probs):
    best = log_probs.argmax(1)
    return " ".join(lexicon.spell(decode(best).split(), word_spans(best), log_probs))


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
    assert lexicon.spell([], [], np.zeros((5, 29), np.float32)) == []


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
