# SPDX-License-Identifier: Apache-2.0
"""Scores of answers by SQuAD's rules, and of choices by a model whose probabilities are known."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest

from edge_nodes.language import attention, load
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.evaluation import tasks
from edge_nodes.language.evaluation.likelihood import Choice, Evaluator, LastWord, perplexity_of
from edge_nodes.language.evaluation.question_answering import exact, f1, normalise
from edge_nodes.language.evaluation.reading import ANSWER_TOKENS, Reader, Reading
from edge_nodes.language.evaluation.tally import Tally


def test_normalised_answers():
    assert normalise("  The  Quick, brown-fox!  ") == "quick brownfox"
    assert normalise("An apple a day") == "apple day"


@pytest.mark.parametrize(
    ("guess", "answers", "em", "score"),
    [
        ("the Normans", ["Normans"], 1.0, 1.0),
        ("in the 10th century", ["10th and 11th centuries", "10th century"], 0.0, 0.8),
        ("", [], 1.0, 1.0),
        ("Rollo", [], 0.0, 0.0),
        ("", ["Rollo"], 0.0, 0.0),
        ("a a", ["the"], 1.0, 1.0),
    ],
)
def test_exact_match_and_f1(guess, answers, em, score):
    assert exact(guess, answers) == em
    assert f1(guess, answers) == pytest.approx(score)


class Letters:
    """A model over the letters a to z: each is followed by the next of the alphabet with probability 1/2."""

    batch, context = 4, 64

    def __init__(self):
        self.tokenizer = SimpleNamespace(encode=lambda text, special: [ord(c) - 97 for c in text if c.isalpha()])
        self.model, self.context_tokens = self, self.context

    def reset(self):
        self.seen = []

    def forward(self, tokens, *, segments, rows):
        assert [len(self.seen), len(tokens)] == [segments[0][1], segments[0][2]]
        self.seen += list(tokens)
        p = np.full((len(tokens), 26), 0.5 / 25)
        p[np.arange(len(tokens)), (np.asarray(tokens) + 1) % 26] = 0.5
        return np.log(p[rows]).astype(np.float32)


def test_choices_and_last_words_by_a_model_that_knows_the_alphabet():
    evaluator, tally = Evaluator(Letters()), Tally()
    evaluator.choose(Choice(("a", "a"), ("bcdef", "x"), 0, True), tally)  # 1/2 a letter against 1/50
    evaluator.choose(Choice(("abc", "abc"), ("x", "defgh"), 1, False), tally)  # (1/2)^5 against 1/50
    evaluator.choose(Choice(("abc", "abc"), ("x", "defghijk"), 0, False), tally)  # (1/2)^8 is less
    evaluator.last_word(LastWord("abcdef", "gh"), tally)
    evaluator.last_word(LastWord("abcdef", "gi"), tally)
    assert tally.scores == [1.0, 1.0, 1.0, 1.0, 0.0]
    text = Tally()
    evaluator.perplexity([0, 1, 2, 3, 4, 5, 6], text)
    assert perplexity_of(text) == pytest.approx(2.0)


def test_endings_that_differ_in_their_last_token_share_a_pass(monkeypatch):
    evaluator, tally, runs = Evaluator(Letters()), Tally(), []
    run = evaluator._run
    monkeypatch.setattr(evaluator, "_run", lambda *args: runs.append(args) or run(*args))
    evaluator.choose(Choice(("abc", "abc", "abc"), ("x", "d", "de"), 1, True), tally)
    assert tally.scores == [1.0]
    assert len(runs) == 2


def test_data_are_read(tmp_path):
    rows = [{"query": "Question: Why?\n", "choices": ["so", "because"], "gold": 1}]
    with gzip.open(tmp_path / "piqa.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    (found,) = tasks.read_choices(tmp_path, "piqa")
    assert found == Choice(("Question: Why?\nAnswer:",) * 2, (" so", " because"), 1, True)
    with pytest.raises(LanguageError, match="cannot be read"):
        tasks.read_last_words(tmp_path)
    assert tasks.pieces(list(range(10)), 5, stride=4) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("theta", [None, 0.3])
def test_questions_read_side_by_side_are_answered_as_alone(small_model, theta):
    engine = load(small_model, context_tokens=512, slots=4)
    rng = np.random.default_rng(0)
    words = ["robot", "wall", "door", "left", "right", "ahead", "stops", "turns"]

    def text(count):
        return " ".join(rng.choice(words, count)) + ". "

    passages = [text(45), text(3), text(70)]
    samples = [Reading(passages[i % 3], text(1 + i % 5), ("wall",)) for i in range(13)]
    if theta is not None:
        engine.model.use_delta(np.float32(theta), window_scale=0.1, sink=1)
    tally = Tally()
    answers = Reader(engine).read(samples, tally)
    for sample, answer, at in zip(samples, answers, range(13), strict=True):
        engine.reset()
        tokens = engine.tokenizer.encode(sample.passage + sample.question, special=False)
        run = engine.generate(tokens, max_new_tokens=ANSWER_TOKENS, stop=("\n",))
        for _ in run:
            pass
        assert answer == run.text
        assert tally.scores[at] == f1(answer.strip(), sample.answers)
        if theta is not None:
            alone = attention.skipped(engine.model, 0, tokens=len(tokens))
            assert tally.shares[at] == (alone.prefill + alone.decode).share
            assert 0.1 < tally.shares[at] < 0.9


def test_reading_side_by_side_needs_slots(small_model):
    with pytest.raises(LanguageError, match="too few slots"):
        Reader(load(small_model, context_tokens=64))
