# SPDX-License-Identifier: Apache-2.0
"""Closed forms of allreduces against a table worked out by hand, and the choice among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.language.boards import probe
from edge_nodes.language.boards.costs import ALGORITHMS, CHOICES, SIZES, Network, allreduce_s, star_beats_ring

MBIT, WIDTH = 1e6 / 8, 8192 * 4


@pytest.mark.parametrize(
    ("boards", "rate", "latency_ms", "tokens", "star", "ring", "tree", "direct"),
    [
        (2, 300, 4, 1, 9.75, 8.87, 9.75, 4.87),
        (4, 300, 4, 1, 13.2, 25.3, 19.5, 6.6),
        (8, 300, 4, 1, 20.2, 57.5, 29.2, 10.1),
        (8, 300, 4, 16, 204, 80, 108, 102),
        (8, 300, 4, 128, 1574, 252, 695, 787),
        (8, 1000, 0.2, 1, 4.07, 3.26, 2.77, 2.04),
        (8, 10000, 0.05, 1, 0.47, 0.75, 0.46, 0.23),
        (8, 10000, 0.05, 128, 47, 6.6, 20, 24),
    ],
)
def test_table(boards, rate, latency_ms, tokens, star, ring, tree, direct):
    network = {"latency_s": latency_ms / 1e3, "bytes_per_s": rate * MBIT}
    for name, expected in {"star": star, "ring": ring, "tree": tree, "direct": direct}.items():
        got = 1e3 * allreduce_s(name, boards, WIDTH * tokens, **network)
        assert got == pytest.approx(expected, rel=0.025), name


def test_star_and_ring_cost_the_same_at_the_threshold():
    threshold = 49 / 48 * WIDTH / (300 * MBIT)
    assert threshold == pytest.approx(0.89e-3, rel=0.01)
    network = {"latency_s": threshold, "bytes_per_s": 300 * MBIT}
    assert allreduce_s("star", 8, WIDTH, **network) == pytest.approx(allreduce_s("ring", 8, WIDTH, **network))


@given(st.integers(2, 8), st.integers(4, 10**8), st.floats(1e-6, 1e-1), st.floats(1e5, 1e10))
def test_choice_is_the_cheapest_and_sums_in_rank_order(boards, size, latency_s, bytes_per_s):
    network = {"latency_s": latency_s, "bytes_per_s": bytes_per_s}
    costs = {name: allreduce_s(name, boards, size, **network) for name in ALGORITHMS}
    chosen = Network(boards, **network).choose(size)
    assert costs[chosen] == min(costs.values())
    assert chosen != "ring"
    if boards > 2 and abs(costs["star"] / costs["ring"] - 1) > 1e-9:
        assert star_beats_ring(boards, size, **network) == (costs["star"] < costs["ring"])


def test_what_was_timed_decides_over_the_forms():
    """Four boards whose processors are busy: star, two messages a worker, beats direct's three."""
    timed = {"direct": (2.0, 2.5, 5.0, 14.0), "star": (1.5, 1.8, 4.0, 11.0), "split": (4.5, 4.9, 5.8, 9.3)}
    network = Network(4, 8e-4, 1e8, timed)
    forms = Network(4, 8e-4, 1e8)
    assert [forms.choose(size) for size in SIZES] == ["direct", "direct", "split", "split"]
    assert [network.choose(size) for size in SIZES] == ["star", "star", "star", "split"]
    for name in CHOICES:
        got = [network.predicted_s(name, size) for size in (4, *SIZES, 1 << 20)]
        assert got[1:-1] == pytest.approx(timed[name])
        between = network.predicted_s(name, 1 << 17)
        assert between == pytest.approx(np.interp(1 << 17, SIZES, timed[name]))
        assert got == sorted(got)
    assert network.predicted_s("ring", SIZES[0]) == network.form_s("ring", SIZES[0])


def test_noise_never_makes_a_larger_message_cheaper():
    network = Network(2, 1e-3, 1e8, dict.fromkeys(CHOICES, (3.0, 2.0, 1.5, 1.0)))
    assert network.predicted_s("star", 1 << 22) == 1.0
    assert network.predicted_s("star", 4) == 2.0


def test_one_board_has_nothing_to_exchange():
    assert allreduce_s("star", 1, WIDTH, latency_s=1.0, bytes_per_s=1.0) == 0.0


class QuietLink:
    """Rank 0 of two boards that answer at once."""

    rank, ranks, algorithm = 0, 2, "auto"

    def exchange(self, array, peer):
        pass

    def send(self, to, *arrays):
        pass

    def reduce(self, values, how):
        pass


def test_the_choice_follows_a_network_that_changes(monkeypatch):
    taken = {"direct": 1.0, "star": 2.0, "split": 3.0}
    monkeypatch.setattr(probe, "turns", lambda *_, **__: dict(taken))
    found = probe.Probe(QuietLink())
    assert {found.network.choose(size) for size in SIZES} == {"direct"}
    taken["star"] = 9.0  # one sample that was disturbed
    found.again(QuietLink())
    assert set(found.network.measured_s["star"]) == {2.0}
    taken.update(direct=5.0, star=2.5)
    for _ in range(len(SIZES) * probe.SAMPLES[1]):
        found.again(QuietLink())
    assert {found.network.choose(size) for size in SIZES} == {"star"}
    assert found.network.measured_s == {name: (seconds,) * len(SIZES) for name, seconds in taken.items()}


def test_a_turn_leaves_the_wanted_algorithm():
    link = QuietLink()
    seconds = probe.turns(link, CHOICES, np.zeros(4, np.float32), chain=2)
    assert list(seconds) == list(CHOICES)
    assert link.algorithm == "auto"
