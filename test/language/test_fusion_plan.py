# SPDX-License-Identifier: Apache-2.0
"""Arrangement of slots against brute force, and the simulated loop against the published figures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.errors import ParameterError
from edge_nodes.language.fusion.plan import ARRANGEMENTS, Costs, Move, Row, Window, arrangement, plan
from edge_nodes.language.fusion.simulation import (
    PUBLISHED,
    Machine,
    length_table,
    poisson_arrivals,
    poisson_table,
    simulate,
)

ALIVE = st.lists(st.booleans(), max_size=16)
ROWS = st.lists(st.none() | st.builds(Row, st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=12)
MEAN = {  # of 200 draws with other seeds: iterations, % of 32 requests in a mean iteration
    20: (567, 90.3), 50: (649, 78.8), 100: (787, 65.1), 150: (924, 55.4), 200: (1061, 48.3), 300: (1335, 38.4),
    400: (1609, 31.8), 500: (1883, 27.2), 750: (2567, 19.9), 1000: (3246, 15.8), 2000: (5688, 9.0),
    3000: (7522, 6.8), 4000: (8880, 5.8), 5000: (9890, 5.2),
}  # fmt: skip


def test_plans_of_known_patterns():
    assert plan([1, 1, 0, 1, 1, 0, 0, 1]) == (0, (Move(7, 2),))
    assert plan([0, 0, 1, 1, 1, 0, 1, 0]) == (1, (Move(6, 1),))
    assert plan([0, 0, 0]).moves == plan([]).moves == plan([0, 1, 1, 0]).moves == ()


@given(ALIVE)
def test_no_plan_moves_fewer_rows(alive):
    start, moves = plan(alive)
    count = sum(alive)
    assert all(alive[m.source] and not alive[m.target] for m in moves)
    after = list(alive)
    for source, target in moves:
        after[source], after[target] = False, True
    assert after == [start <= i < start + count for i in range(len(alive))]
    fewest = min((count - sum(alive[s : s + count]) for s in range(len(alive) - count + 1)), default=0)
    assert len(moves) == len({m.source for m in moves}) == len({m.target for m in moves}) == fewest


@given(ALIVE, st.integers(0, 99))
def test_among_the_fewest_moves_the_cheapest_are_taken(alive, seed):
    lengths = np.random.default_rng(seed).integers(1, 100, len(alive)).tolist()
    count, moves = sum(alive), plan(alive, lengths).moves
    costs = []
    for s in range(len(alive) - count + 1):
        outside = [lengths[i] for i, a in enumerate(alive) if a and not s <= i < s + count]
        costs.append((len(outside), sum(outside)))
    assert (len(moves), sum(lengths[m.source] for m in moves)) == min(costs, default=(0, 0))


@given(ROWS, st.sampled_from(sorted(ARRANGEMENTS)))
def test_arrangements_compute_every_row_and_move_only_into_free_slots(slots, name):
    chosen = arrangement(name)
    used = {i for i, row in enumerate(slots) if row}
    computed = chosen.computed(slots)
    assert used <= set(computed)
    moves = chosen.moves(slots, Costs())
    assert {m.source for m in moves} <= used
    assert used.isdisjoint(m.target for m in moves)
    assert len({m.target for m in moves}) == len({m.source for m in moves}) == len(moves)
    if name == "index":
        assert (set(computed), moves) == (used, [])
    if name != "index" and computed:
        assert computed == list(range(computed[0], computed[-1] + 1))
    after = list(slots)
    for source, target in moves:
        after[source], after[target] = None, after[source]
    if name in ("swap", "window"):
        assert len(chosen.computed(after)) == len(used)
    free = [i for i, row in enumerate(after) if row is None]
    if free:
        assert chosen.place(after, free) in free


def test_a_hole_is_filled_only_if_that_costs_less_than_computing_it():
    rows = [Row(100, 50), None, Row(100, 40), Row(100, 30)]
    window = Window()
    assert window.moves(rows, Costs(copy_ms=0.01, row_ms=0.1)) == [Move(3, 1)]
    assert window.moves(rows, Costs(copy_ms=0.05, row_ms=0.1)) == []  # 5 ms of copying against 30 rows of 0.1 ms
    ends_soon = [Row(100, 5), None, Row(100, 40), Row(100, 30)]  # the lower end passes the hole in five iterations
    assert window.moves(ends_soon, Costs(copy_ms=0.01, row_ms=0.1)) == []
    with pytest.raises(ParameterError, match="arrangement"):
        arrangement("random")


def test_equal_requests_in_order_of_arrival_never_move():
    outcome = simulate(poisson_arrivals(32, 40.0, 3), [64] * 32, Machine(5.0, 0.3), arranged=Window())
    assert (outcome.moves, outcome.holes) == (0, 0)


def test_simulated_poisson_arrivals_are_the_published_ones():
    for gap, (iterations, share) in poisson_table().items():
        assert iterations == pytest.approx(MEAN[gap][0], rel=0.02), gap
        assert share == pytest.approx(MEAN[gap][1], rel=0.02, abs=0.1), gap
        assert iterations == pytest.approx(PUBLISHED[gap][0], rel=0.25), gap  # one draw of the authors'


def test_simulation_counts_what_a_loop_over_iterations_counts():
    """Against the plainest possible loop, with few slots and random lengths."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        arrivals = [0.0, *rng.exponential(3.0, 11).cumsum().tolist()]
        lengths, slots = rng.integers(1, 20, 12).tolist(), int(rng.integers(1, 6))
        now, left, running, iterations, tokens = 0.0, list(range(12)), {}, 0, 0
        while left or running:
            if not running:
                now = max(now, arrivals[left[0]])
            while left and len(running) < slots and arrivals[left[0]] <= now:
                request = left.pop(0)
                running[request] = lengths[request]
            now, iterations, tokens = now + 2.0, iterations + 1, tokens + len(running)
            running = {r: n - 1 for r, n in running.items() if n > 1}
        found = simulate(arrivals, lengths, Machine(2.0), slots=slots)
        assert (found.iterations, found.tokens, found.total_ms) == (iterations, tokens, pytest.approx(now))


def test_filling_holes_pays_more_the_more_lengths_differ():
    table = length_table(Machine(8.0, 1.0, 0.0012, 8), seeds=10)
    for name in ("index_gain", "window_gain", "swap_gain"):
        gain = [row[name] for row in table]
        assert gain[0] > 1.0
        assert all(later > sooner - 0.01 for sooner, later in itertools.pairwise(gain))
        assert gain[-1] > gain[0] + 0.1
