# SPDX-License-Identifier: Apache-2.0
"""Votes against sums written out, early decisions against all continuations, answers out of texts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_nodes.errors import ParameterError
from edge_nodes.language.reasoning.answer_forms import parse_answer
from edge_nodes.language.reasoning.voting import RULES, Attempt, decided, vote

ATTEMPTS = st.lists(st.builds(Attempt, st.sampled_from(["1", "2", "3", None]), st.floats(0, 4)), min_size=1, max_size=5)


def elect(rule, *pairs):
    return vote([Attempt(*pair) for pair in pairs], rule).answer


def test_every_rule_on_one_set_of_attempts():
    pairs = [("a", 0.2), ("b", 1.0), ("b", 1.0), ("c", 0.5), (None, 0.01)]
    found = vote([Attempt(*pair) for pair in pairs])
    assert found.weights == (5.0, 1.0, 1.0, 2.0, 0.0)
    assert found.totals == {"a": 5.0, "b": 2.0, "c": 2.0}
    assert (found.answer, found.winner) == ("a", 0)
    assert {rule: elect(rule, *pairs) for rule in RULES} == {
        "inverse_entropy": "a",
        "inverse_entropy_bare": "a",
        "exp_entropy": "a",  # 0.82 against 0.74 and 0.61
        "lowest_entropy": "a",
        "majority": "b",
        "last": "c",
        "first": "a",
        "linear_recency": "b",  # 5 against 4
        "exponential_recency": "c",  # 16 against 12
        "inverse_rank": "b",  # 7/12 against 1/2
    }


def test_floor_ties_and_no_answers():
    assert elect("inverse_entropy", ("a", 0.0), ("b", 0.08), ("b", 0.08)) == "b"  # 20 against 25
    assert elect("inverse_entropy_bare", ("a", 0.0), ("b", 0.08), ("b", 0.08)) == "a"
    assert elect("majority", ("a", 1.0), ("b", 1.0)) == "b"
    nothing = vote([Attempt(None, 1.0)] * 3)
    assert (nothing.answer, nothing.winner, nothing.weights) == (None, None, (0.0, 0.0, 0.0))
    with pytest.raises(ParameterError, match="vote"):
        vote([], "loudest")


@settings(deadline=None, max_examples=200)
@given(ATTEMPTS, st.integers(0, 3), st.sampled_from(sorted(RULES)))
def test_no_continuation_changes_a_decided_vote(attempts, left, rule):
    answers, surest = ["1", "2", "3", "4", None], min(a.entropy_bits for a in attempts)
    if left and decided(attempts, left, rule):
        for chosen in itertools.product(answers, (surest, surest + 1.0), repeat=left):
            coming = [Attempt(a, h) for a, h in zip(chosen[::2], chosen[1::2], strict=True)]
            assert vote([*attempts, *coming], rule).answer == vote(attempts, rule).answer


def test_early_decisions():
    two = [Attempt("7", 0.5), Attempt("7", 0.5)]
    assert decided(two, 1, "majority")
    assert decided(two, 1, "inverse_entropy")
    assert not decided(two, 2, "majority")
    assert decided(two, 5, "first")
    assert not decided(two, 1, "last")
    assert not decided([Attempt(None, 0.5)], 1)
    assert decided([], 0)


@pytest.mark.parametrize(
    ("form", "text", "answer"),
    [
        ("number", "3 + 4 = 7, so the answer is 7.", "7"),
        ("number", "The answer is $1,234.50 in 2 days", "1234.5"),
        ("number", "so \\boxed{42} apples of 50", "42"),
        ("number", "#### 1,000", "1000"),
        ("number", "He has -3.0 left", "-3"),
        ("number", "The answer is 1/4", "0.25"),
        ("number", "The answer: 5\nThe answer is 6 km of 9", "6"),
        ("number", "no idea", None),
        ("number", "1/0", None),
        ("choice", "The answer is (B).", "B"),
        ("choice", "Answer: C", "C"),
        ("choice", "D) the sun", "D"),
        ("choice", "I think A person, so (C)", "C"),
        ("choice", "B", "B"),
        ("choice", "none of them", None),
        ("text", "There is a person 7.5 meters ahead!", "there is person 7.5 meters ahead"),
        ("text", " ... ", None),
    ],
)
def test_answers_in_canonical_form(form, text, answer):
    assert parse_answer(text, form) == answer
