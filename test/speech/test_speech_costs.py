# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from edge_nodes.speech.costs import LayerCosts


def test_medians_of_the_newest_for_a_second_of_audio():
    costs = LayerCosts(range(1, 4), kept=3)
    assert costs.until(3) == 0.0
    costs.add([100.0, 200.0, 300.0], 1.0)  # pushed out by the three below
    costs.add([0.02, 0.04, 0.08], 2.0)
    costs.add([0.02], 1.0)
    costs.add([0.06, 0.16], 2.0)
    assert costs.until(1) == pytest.approx(0.02)
    assert costs.until(2) == pytest.approx(0.02 + 0.05)
    assert costs.until(9) == costs.until(3)


def test_exits_that_are_not_every_layer():
    costs = LayerCosts((2, 4, 6))
    costs.add([1.0, 3.0, 6.0], 1.0)
    assert [costs.until(n) for n in range(1, 7)] == [1.0, 1.0, 3.0, 3.0, 6.0, 6.0]


def test_hardly_any_audio_says_nothing():
    costs = LayerCosts(range(1, 3))
    costs.add([1.0, 2.0], 0.1)
    assert costs.until(2) == 0.0
