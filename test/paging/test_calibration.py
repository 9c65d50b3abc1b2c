# SPDX-License-Identifier: Apache-2.0
"""The profile of steps that a known board would take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_nodes.paging.calibration import Step, fit
from edge_nodes.paging.plan import Profile, simulate

PAGE = 4096
SIZES = (50 * PAGE, 20 * PAGE) * 6
LARGEST = max(SIZES)
READERS = (1, 2, 4)
ARMS = tuple((m, room * LARGEST) for m, room in ((1, 1), *((m, m + 1) for m in READERS)))


def board(**changes):
    rates = {1: 4e6, 2: 7e6, 4: 9e6}
    waits = (0.0,) * (len(SIZES) - 1) + (2e-3,)
    return replace(Profile(SIZES, (4e-3, 1e-3) * 6, waits, rates, handover_s=4e-4), **changes)


def steps(truth, readers, room, *, within=1.0, noise=0.0, count=1):
    """Steps of a board; reads alone would be `within` times as fast as they are beside each other."""
    run = simulate(truth, room, readers=readers)
    load = readers * sum(SIZES) / (truth.bytes_per_s[readers] * within)
    random = np.random.default_rng(readers + 10 * room)
    factors = 1 + noise * random.uniform(-1, 1, count)
    return [Step(run.pass_s * f, truth.use_s, load * f, truth.wait_s[-1]) for f in factors]


def measured(truth, **changes):
    return {arm: steps(truth, *arm, **changes) for arm in ARMS}


@pytest.mark.parametrize("readers", READERS)
@pytest.mark.parametrize("room", [1, 2, 3, 5])
@pytest.mark.parametrize("pinned", [(), (0, 3, 4, 9)])
def test_predicts_what_was_not_measured(readers, room, pinned):
    truth = board()
    budget = room * LARGEST + sum(SIZES[i] for i in pinned)
    expected = simulate(truth, budget, readers=readers, pinned=pinned).pass_s
    found = fit(SIZES, measured(truth))
    assert simulate(found, budget, readers=readers, pinned=pinned).pass_s == pytest.approx(expected, rel=0.03)


def test_hand_over_and_rates_are_those_of_the_board():
    found = fit(SIZES, measured(board()))
    assert found.handover_s == pytest.approx(4e-4, rel=0.01)
    assert found.bytes_per_s == pytest.approx({1: 4e6, 2: 7e6, 4: 9e6}, rel=0.03)
    assert found.use_s == board().use_s


def test_readers_that_disturb_each_other_count_as_slower_than_their_reads():
    truth = board()
    disturbed = {arm: steps(truth, *arm, within=1.3 if arm[0] > 1 else 1.0) for arm in ARMS}
    assert fit(SIZES, disturbed).bytes_per_s == pytest.approx({1: 4e6, 2: 7e6, 4: 9e6}, rel=0.03)


def test_noise_averages_out():
    found = fit(SIZES, measured(board(), noise=0.3, count=25))
    assert found.bytes_per_s == pytest.approx({1: 4e6, 2: 7e6, 4: 9e6}, rel=0.12)


def test_steps_that_did_not_wait_keep_the_bandwidth_within_reads():
    truth = board(use_s=(0.2,) * len(SIZES))
    assert fit(SIZES, measured(truth)).bytes_per_s == pytest.approx({1: 4e6, 2: 7e6, 4: 9e6})
