# SPDX-License-Identifier: Apache-2.0
"""From scores to the labels that the node publishes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from edge_nodes.perception.segmentation import class_ids  # noqa: E402

GROUND, VEHICLE, PERSON = 1, 3, 4


def test_specks_of_vehicle_take_their_second_class():
    scores = torch.rand(6, 40, 40, generator=torch.Generator().manual_seed(4))
    scores[GROUND] += 2
    scores[VEHICLE, 2:6, 2:5] = 9  # 12 cells of 0.25 m: 0.75 m^2
    scores[PERSON, 2:6, 2:5] = 5
    scores[VEHICLE, 20:26, 20:23] = 9  # 18 cells: 1.1 m^2
    before = scores.clone()
    want = np.full((40, 40), GROUND)
    want[2:6, 2:5], want[20:26, 20:23] = PERSON, VEHICLE
    np.testing.assert_array_equal(class_ids(scores, 0.25), want)
    torch.testing.assert_close(scores, before)


def test_cells_without_specks_have_their_best_class():
    scores = torch.rand(6, 40, 40, generator=torch.Generator().manual_seed(5))
    scores[VEHICLE] -= 1
    np.testing.assert_array_equal(class_ids(scores, 0.25), scores.argmax(0).numpy())
