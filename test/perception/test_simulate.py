# SPDX-License-Identifier: Apache-2.0
"""The simulator against geometry that can be worked out by hand."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

pytest.importorskip("train.perception.raycasting", reason="needs the [train] extra", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parents[2]))

from edge_nodes.perception import BevConfig
from train.perception import outdoors
from train.perception.scenes import KINDS, overgrown, random_scene, with_body
from train.perception.sensors import HDL_64, Sensor, outdoor_sensor, random_sensor
from train.perception.simulate import GROUND, OBSTACLE, PERSON, VEHICLE, WALL, Motion, Scene, Terrain, Thing, cast
from train.perception.truth import IGNORE, footprint, truth

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


def test_the_same_seed_gives_the_same_outdoor_scan():
    for i, kind in enumerate(outdoors.KINDS):
        sensor = outdoor_sensor(np.random.default_rng(i))
        one, two = (cast(outdoors.outdoor_scene(3, kind), sensor, 0.2) for _ in range(2))
        np.testing.assert_array_equal(one.cloud, two.cloud)
        assert np.isfinite(one.cloud[..., 0]).mean() > 0.02


def test_a_standing_robot_sees_what_a_fresh_one_sees_in_the_same_place():
    scene = Scene((Thing("person", Motion(6, 0, 1.6, 1.0)), Thing("wall", Motion(12, 0, 1.57))))
    cast(scene, SENSOR, 0.0)
    np.testing.assert_array_equal(cast(scene, SENSOR, 0.4).cloud, cast(Scene(scene.things), SENSOR, 0.4).cloud)


def test_the_64_ring_sensor_has_its_two_blocks_of_beams():
    ways = Sensor(rings=64, columns=2000, beams_deg=HDL_64).directions
    elevation = np.degrees(np.arcsin(ways[:, 0, 2]))
    assert (elevation[0], elevation[-1]) == pytest.approx((2.0, -24.33), abs=1e-3)
    steps = -np.diff(elevation)
    assert steps[:31] == pytest.approx(1 / 3, abs=2e-3)
    assert steps[32:] == pytest.approx(0.5, abs=2e-3)


def test_patterns_that_do_not_repeat():
    dome = Sensor(rings=8, columns=2500, elevation_deg=(-7, 52), pattern="dome")
    rosette = Sensor(rings=8, columns=3000, elevation_deg=(-35, 35), pattern="rosette")
    for sensor in (dome, rosette):
        one, two = sensor.rays(0.0).reshape(-1, 3), sensor.rays(0.1).reshape(-1, 3)
        assert np.linalg.norm(one, axis=1) == pytest.approx(1, abs=1e-5)
        # Most rays of the second scan fall between those of the first.
        gaps = cKDTree(one).query(two)[0]
        assert np.median(gaps) > 1e-3
    azimuth = np.degrees(np.arctan2(dome.rays(0.0)[..., 1], dome.rays(0.0)[..., 0]))
    assert np.histogram(azimuth, 36, (-180, 180))[0].min() > 300
    assert np.degrees(np.arccos(rosette.rays(0.3)[..., 0])).max() == pytest.approx(35, abs=0.5)


def test_leaves_return_some_rays_and_let_others_through():
    wall = Thing("wall", Motion(9, 0, math.pi / 2), (12, 0.4, 4), reflectivity=0.8)
    shrub = Thing("shrub", Motion(6, 0), (2, 2, 2), reflectivity=0.5, density=1.5)
    scan = cast(Scene((wall, shrub)), SENSOR, 0.0)
    leaves = scan.cloud[scan.thing == 1]
    assert (scan.label[scan.thing == 1] == OBSTACLE).all()
    assert np.ptp(leaves[:, 0]) > 1.0  # from all of its depth
    behind = (scan.thing == 0) & (np.abs(scan.cloud[..., 1]) < 1.0) & (scan.cloud[..., 2] < 0.8)
    assert len(leaves) > 50
    assert behind.sum() > 20


def test_windows_of_cars_return_less_than_their_doors():
    car = Thing("saloon", Motion(5, 0, math.pi / 2), (4.6, 1.8, 1.5), reflectivity=0.8)
    scan = cast(Scene((car,)), Sensor(rings=128, columns=1024, height=1.2, dropout=0.0, noise_m=0.0), 0.0)
    assert (scan.label[scan.thing == 0] == VEHICLE).all()
    share = (scan.cloud[..., 2][scan.thing == 0] + 1.2) / 1.5
    doors, windows = ((share > a) & (share < b) for a, b in ((0.3, 0.55), (0.65, 0.9)))
    assert windows.sum() < 0.6 * doors.sum()


def test_rain_adds_near_returns_and_takes_far_ones():
    wall = Thing("wall", Motion(40, 0, math.pi / 2), (60, 0.4, 20), reflectivity=0.3)
    dry, wet = (cast(Scene((wall,)), replace(SENSOR, rain=rain), 0.0) for rain in (0.0, 1.0))
    assert (wet.label == WALL).sum() < 0.9 * (dry.label == WALL).sum()
    drops = np.isfinite(wet.cloud[..., 0]) & (wet.label == 0)
    assert not (np.isfinite(dry.cloud[..., 0]) & (dry.label == 0)).any()
    assert drops.sum() > 50
    assert np.median(np.linalg.norm(wet.cloud[drops][:, :3], axis=1)) < 5


def test_a_bank_is_ground_whose_occupancy_nobody_asks():
    scene = Scene((), terrain=Terrain(left_m=4, right_m=4, left_rise_m=2.0, slope_m=2.0))
    assert scene.ground([0, 0, 0], [3, 5, 8]) == pytest.approx([0, 1, 2], abs=1e-6)
    scan = cast(scene, SENSOR, 0.0)
    assert np.nanmax(scan.cloud[..., 2]) > 0.5
    real = truth(scene, SENSOR, [(0.0, scan)], BevConfig())
    left, right = real.known[128, 128 - 32], real.known[128, 128 + 12]  # 8 m to the left, 3 m to the right
    assert (left, right) == (False, True)
    assert real.label[128, 128 - 24] == GROUND


def test_a_high_bank_in_view_is_ground():
    """What rays met there was once taken for things too high to tell anything."""
    scene = Scene((), terrain=Terrain(left_m=6, right_m=6, left_rise_m=5.0, slope_m=12.0))
    scan = cast(scene, SENSOR, 0.0)
    real = truth(scene, SENSOR, [(0.0, scan)], BevConfig())
    y = 32 - (np.arange(256) + 0.5) * 0.25
    at = (y > 11) & (y < 15)
    assert (scene.ground(0.0, y[at]) > 1.5).all()
    assert (real.label[100:156, at] == GROUND).mean() > 0.95


def test_hidden_things_that_move_are_not_asked_for():
    wall = Thing("wall", Motion(4, 0, math.pi / 2), (6, 0.3, 3), reflectivity=0.8)
    walks = Thing("person", Motion(8, -6.9, math.pi / 2, speed=4.0), reflectivity=0.8)
    stands = Thing("person", Motion(8, 0), reflectivity=0.8)
    scene = Scene((wall, walks, stands))
    scans = [(t, cast(scene, SENSOR, t)) for t in (0.0, 0.5, 1.0, 1.5)]
    assert (scans[0][1].thing == 1).sum() > 12
    assert not (scans[-1][1].thing > 0).any()
    real = truth(scene, SENSOR, scans, BevConfig())
    config = BevConfig()
    assert (real.label.ravel()[footprint(scene, 1, 1.5, 1.5, config)] == IGNORE).all()
    # Never seen: nor is it asked for.
    assert (real.label.ravel()[footprint(scene, 2, 1.5, 1.5, config)] == IGNORE).all()


def test_nothing_stands_in_a_car_or_on_the_robot():
    for kind in outdoors.KINDS:
        scene = outdoors.outdoor_scene(11, kind)
        cars = [t for t in scene.things if t.kind in ("saloon", "hatchback", "offroader", "racer")]
        for thing in scene.things:
            at = np.array([thing.motion.x, thing.motion.y])
            if max(thing.dimensions[:2]) < 1.0 and thing.dimensions[2] > 0.15:
                assert np.linalg.norm(at) > 0.7
                assert all(np.linalg.norm(at - (c.motion.x, c.motion.y)) > 0.6 for c in cars if c is not thing)
