# SPDX-License-Identifier: Apache-2.0
"""Hours of noise out of minutes of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge_nodes.speech import noises

RATE = 16000


@pytest.fixture
def recordings():
    random = np.random.default_rng(3)
    return [random.normal(0, 0.05, n).astype(np.float32) for n in (RATE, RATE // 2, 0)]


def test_as_much_noise_as_wanted_first_as_it_was_recorded(recordings):
    found = list(noises.varied(recordings, 20.0))
    assert 20.0 <= sum(map(len, found)) / RATE <= 20.0 + 1.25
    assert all(np.array_equal(a, b) for a, b in zip(found, recordings[:2], strict=False))
    assert all(each.dtype == np.float32 and np.abs(each).max() <= 1.0 for each in found)


def test_no_two_pieces_are_alike_and_a_seed_gives_them_again(recordings):
    found, again, others = (list(noises.varied(recordings, 15.0, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert not any(len(a) == len(b) and np.array_equal(a, b) for a, b in itertools.combinations(found, 2))
    assert [len(a) for a in found] != [len(a) for a in others]
    levels_db = [20 * np.log10(np.sqrt(np.mean(each**2))) for each in found]
    assert max(levels_db) - min(levels_db) > 15


def test_no_noise_is_none():
    assert list(noises.varied([], 5.0)) == list(noises.varied([np.zeros(0, np.float32)], 5.0)) == []


def test_a_room_dies_away_as_its_reverberation_time_says():
    # By 60 dB within that time, which is at most 0.5 s (ISO 3382); the direct sound stays what it was.
    impulse = np.zeros(RATE, np.float32)
    impulse[0] = 1.0
    for seed in range(5):
        response = noises.room(impulse, np.random.default_rng(seed))
        assert response[0] == pytest.approx(1.0, abs=1e-5)
        assert 1e-4 < np.abs(response[1 : RATE // 20]).max() < 0.5
        assert np.abs(response[RATE // 2 :]).max() < 1e-3
