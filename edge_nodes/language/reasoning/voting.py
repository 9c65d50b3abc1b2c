# SPDX-License-Identifier: Apache-2.0
"""One answer out of several attempts, weighed by how sure the model was of each.

Inverse-entropy voting (The Sequential Edge, arXiv 2511.02309): weight 1 / H, with H the mean Shannon entropy in bits
of the distributions that the attempt's tokens were drawn from, each over its 20 most probable tokens, renormalised.
The paper's other rules are not known to us by name; those beside it are the usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_nodes.errors import ParameterError

TOP_TOKENS = 20
FLOOR_BITS = 0.05  # 1 / H has no bound: a short or looping attempt would outvote all others
BARE_FLOOR_BITS = 1e-10


@dataclass(frozen=True)
class Attempt:
    """What counts of an attempt.

    Attributes:
        answer: in canonical form, None if it has none.
        entropy_bits: mean entropy of its tokens' distributions, bits.
    """

    answer: str | None
    entropy_bits: float


@dataclass(frozen=True)
class Vote:
    """The outcome.

    Attributes:
        answer: the one with the largest total weight, on a tie the one given latest; None if no attempt has one.
        winner: index of the latest attempt that gave it, None likewise.
        weights: of each attempt; 0 for one without an answer.
        totals: {answer: sum of its weights}.
    """

    answer: str | None
    winner: int | None
    weights: tuple[float, ...]
    totals: dict[str, float]


Weigh = Callable[[Sequence[Attempt]], list[float]]


def inverse_entropy(floor_bits: float = FLOOR_BITS) -> Weigh:
    """Return the rule that weighs an attempt by 1 / max(H, floor), as section 2.2 of the paper's method has it."""
    return lambda attempts: [1.0 / max(a.entropy_bits, floor_bits) for a in attempts]


def _lowest_entropy(attempts: Sequence[Attempt]) -> list[float]:
    valid = [a.entropy_bits for a in attempts if a.answer is not None]
    return [float(bool(valid) and a.entropy_bits == min(valid)) for a in attempts]


def _only(attempts: Sequence[Attempt], order: Sequence[int]) -> list[float]:
    chosen = next((i for i in order if attempts[i].answer is not None), None)
    return [float(i == chosen) for i in range(len(attempts))]


RULES: dict[str, Weigh] = {
    "inverse_entropy": inverse_entropy(),
    "inverse_entropy_bare": inverse_entropy(BARE_FLOOR_BITS),
    "exp_entropy": lambda attempts: [math.exp(-a.entropy_bits) for a in attempts],
    "lowest_entropy": _lowest_entropy,
    "majority": lambda attempts: [1.0] * len(attempts),
    "last": lambda attempts: _only(attempts, range(len(attempts) - 1, -1, -1)),
    "first": lambda attempts: _only(attempts, range(len(attempts))),
    "linear_recency": lambda attempts: [float(i + 1) for i in range(len(attempts))],
    "exponential_recency": lambda attempts: [2.0 ** (i + 1) for i in range(len(attempts))],
    "inverse_rank": lambda attempts: [1.0 / (len(attempts) - i) for i in range(len(attempts))],
}
"""{name: function from all attempts, the earliest first, to their weights}."""
ORDERED = frozenset(("last", "first", "linear_recency", "exponential_recency", "inverse_rank"))
"""Rules for which it matters which attempt came first."""


def vote(attempts: Sequence[Attempt], rule: str = "inverse_entropy") -> Vote:
    """Return the answer that the attempts elect.

    Args:
        attempts: the earliest first.
        rule: one of `RULES`.

    Raises:
        ParameterError: there is no such rule.
    """
    weights = [w if a.answer is not None else 0.0 for w, a in zip(_rule(rule)(attempts), attempts, strict=True)]
    totals: dict[str, float] = {}
    latest: dict[str, int] = {}
    for i, (attempt, weight) in enumerate(zip(attempts, weights, strict=True)):
        if attempt.answer is not None:
            totals[attempt.answer] = totals.get(attempt.answer, 0.0) + weight
            latest[attempt.answer] = i
    answer = max(totals, key=lambda a: (totals[a], latest[a]), default=None)
    return Vote(answer, None if answer is None else latest[answer], tuple(weights), totals)


def decided(attempts: Sequence[Attempt], left: int, rule: str = "inverse_entropy") -> bool:
    """Return whether no answer of the attempts still to come can change the vote.

    An attempt to come is taken to be no surer than the surest so far: 1 / H has no other bound.

    Args:
        attempts: those made, the earliest first.
        left: how many are still to come.
        rule: one of `RULES`.

    Raises:
        ParameterError: there is no such rule.
    """
    now = vote(attempts, rule)
    if not left or now.answer is None:
        return not left
    surest = min(a.entropy_bits for a in attempts)
    rivals = {*(a for a in now.totals if a != now.answer), _nobody(now.totals)}
    return all(vote([*attempts, *[Attempt(r, surest)] * left], rule).answer == now.answer for r in rivals)


def _nobody(answers: dict[str, float]) -> str:
    """Return an answer that none of the attempts gave."""
    return max(answers, key=len) + "'"


def _rule(name: str) -> Weigh:
    if name not in RULES:
        raise ParameterError("unknown vote", got=name, expected="one of " + ", ".join(RULES))
    return RULES[name]
