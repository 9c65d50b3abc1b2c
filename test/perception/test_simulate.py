# SPDX-License-Identifier: Apache-2.0
"""The simulator against geometry that can be worked out by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("train.perception.raycasting", reason="needs the [train] extra", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parents[2]))

from edge_nodes.perception import BevConfig
from train.perception.scenes import KINDS, overgrown, random_scene, random_sensor, with_body
from train.perception.simulate import GROUND, PERSON, WALL, Motion, Scene, Sensor, Thing, cast
from train.perception.truth import footprint, truth

SENSOR = Sensor(rings=32, columns=720, height=1.0, noise_m=0.0, dropout=0.0)


def test_ground_wall_and_person_are_where_they_were_put():
    person = Thing("person", Motion(5, 1), reflectivity=0.8)
    wall = Thing("wall", Motion(10, 0, math.pi / 2), (12, 0.4, 4), reflectivity=0.8)
    scan = cast(Scene((person, wall)), SENSOR, 0.0)
    assert scan.cloud.shape == (32, 720, 4)
    x, y, z, _ = np.moveaxis(scan.cloud, -1, 0)
    assert np.allclose(z[scan.label == GROUND], -1.0, atol=1e-4)
    front = (scan.label == WALL) & (np.abs(y) < 5.5)
    assert front.sum() > 500
    assert np.allclose(x[front], 9.8, atol=1e-4)
    assert np.abs(np.array([x, y])[:, scan.thing == 0].mean(1) - (5, 1)).max() < 0.25
    assert set(np.unique(scan.label[scan.thing == 0])) == {PERSON}
    assert np.isnan(scan.cloud[scan.label == 0]).all()


def test_the_same_arguments_give_the_same_scan():
    rng = np.random.default_rng(0)
    sensor = random_sensor(rng)
    for kind in KINDS:
        scene = with_body(overgrown(random_scene(7, kind)), sensor)
        one, two = cast(scene, sensor, 0.3), cast(scene, sensor, 0.3)
        np.testing.assert_array_equal(one.cloud, two.cloud)
        assert np.isfinite(one.cloud[..., 0]).mean() > 0.1


def test_motion_on_arcs_and_paths():
    arc = Motion(speed=1.0, turn=math.pi / 2)
    assert arc.at(1.0) == pytest.approx((2 / math.pi, 2 / math.pi, math.pi / 2))
    path = Motion(path=((0, 0, 0), (1, 2, 0), (2, 2, 3)))
    assert path.at(0.5) == pytest.approx((1, 0, 0))
    assert path.at(1.5) == pytest.approx((2, 1.5, math.pi / 2))
    assert path.at(9.0)[:2] == (2, 3)


def test_a_moving_robot_sees_standing_things_come():
    scene = Scene((Thing("box", Motion(6, 0), (1, 1, 1), reflectivity=0.9),), Motion(speed=2.0))
    near = [np.nanmin(cast(scene, SENSOR, t).cloud[..., 0][cast(scene, SENSOR, t).thing == 0]) for t in (0.0, 1.0)]
    assert near == pytest.approx([5.5, 3.5], abs=0.05)


def test_truth_of_a_box_that_moves():
    config = BevConfig()
    box = Thing("box", Motion(8, 4, speed=2.0), (2.0, 1.0, 1.0), reflectivity=0.8)
    scene = Scene((box,))
    cells = footprint(scene, 0, 0.0, 0.0, config)
    rows, columns = np.divmod(cells, config.cells)
    assert 32 <= len(cells) <= 60  # 2 m by 1 m touch 8 x 4 to 10 x 6 cells of 0.25 m
    assert (128 - rows.mean() - 0.5) * 0.25 == pytest.approx(8, abs=0.15)
    assert (128 - columns.mean() - 0.5) * 0.25 == pytest.approx(4, abs=0.15)
    real = truth(scene, SENSOR, [(0.0, cast(scene, SENSOR, 0.0))], config)
    moved = np.argwhere(real.forecast).mean(0) - np.argwhere(real.occupied).mean(0)
    assert moved == pytest.approx([-4, 0], abs=0.5)
    assert real.known[real.occupied].all()
    assert (real.label[real.occupied] == 5).all()
    assert real.label[100, 128] == GROUND
