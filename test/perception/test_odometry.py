# SPDX-License-Identifier: Apache-2.0
"""The robot's motion from scans of a place whose true motion is known, and maps moved along with it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_nodes.perception import BevConfig, BevHistory
from edge_nodes.perception.grid import moved
from edge_nodes.perception.odometry import Motion2, ScanOdometry


def place():
    """Two walls at a corner and some poles, (N, 2)."""
    rng = np.random.default_rng(0)
    x, y = np.arange(-15, 15, 0.25), np.arange(-10, 12, 0.25)
    walls = [np.column_stack([x, np.full(x.size, 10.0)]), np.column_stack([np.full(y.size, 14.0), y])]
    return np.concatenate([*walls, rng.uniform(-12, 9, (60, 2))])


def seen_from(points, pose):
    c, s = math.cos(pose[2]), math.sin(pose[2])
    return (points - pose[:2]) @ np.array([[c, -s], [s, c]])


@pytest.mark.parametrize("speed", [(0.0, 0.0, 0.0), (1.5, 0.0, 0.4), (6.0, 0.5, -0.8)])
def test_motion_is_found_among_noise_and_walkers(speed):
    odometry, rng = ScanOdometry(), np.random.default_rng(1)
    pose, step = np.zeros(3), np.array(speed) * 0.1
    for i in range(8):
        walkers = np.array([[5 - 0.12 * i, 2], [5.2 - 0.12 * i, 2], [-4, 0.15 * i]])
        scan = seen_from(np.concatenate([place(), walkers]), pose)
        got = odometry.update(scan + rng.normal(0, 0.02, scan.shape), 0.1)
        c, s = math.cos(pose[2]), math.sin(pose[2])
        pose = pose + np.array([c * step[0] - s * step[1], s * step[0] + c * step[1], step[2]])
        if i > 1:
            assert got.trusted
            assert got[:3] == pytest.approx(step, abs=0.02)


def test_what_says_nothing_is_not_trusted():
    odometry = ScanOdometry()
    lone = np.random.default_rng(2).uniform(-1, 1, (100, 2)) + np.array([5, 0])
    odometry.update(lone, 0.1)
    assert not odometry.update(lone + 0.3, 0.1).trusted
    assert not odometry.update(np.empty((0, 2)), 0.1).trusted


def test_motions_follow_one_another():
    a, b = Motion2(1, 2, math.pi / 2, True), Motion2(3, 0, 0.5, True)
    assert a.then(b)[:3] == pytest.approx((1, 5, math.pi / 2 + 0.5))


@pytest.mark.parametrize("way", [(1.0, 0.0, 0.0), (0.0, -1.5, 0.0), (0.5, 1.0, 0.6)])
def test_maps_move_like_points(way):
    config = BevConfig(range_m=16.0, resolution_m=0.5)
    n = config.cells
    points = np.random.default_rng(3).uniform(-8, 8, (40, 2))

    def draw(p):
        out = np.zeros((n, n), np.uint8)
        rows, columns = ((n / 2 - p / 0.5).astype(int)).T
        out[rows, columns] = 255
        return out

    want, got = draw(seen_from(points, way)), moved(draw(points), *way, config)
    for cells, others in ((np.argwhere(want), np.argwhere(got)), (np.argwhere(got), np.argwhere(want))):
        apart = np.abs(cells[:, None] - others[None]).max(-1).min(1)
        # Nearest-cell turning may move or swallow single cells.
        assert (apart <= 1).mean() > 0.9


def test_older_maps_of_a_moving_robot_stay_in_place():
    config = BevConfig(range_m=16.0, history=4, sensor_height_m=1.0)
    history = BevHistory(config)
    for i in range(6):
        flat = seen_from(place(), (0.15 * i, 0.0, 0.03 * i))
        points = [np.column_stack([flat, np.full(len(flat), z)]) for z in (-0.5, 0.0, 0.5)]
        maps = history.push(np.concatenate(points).astype(np.float32), i * 10**8)
    now, then = (np.argwhere(maps[..., c] > 0) for c in (3, 10))
    apart = np.abs(then[:, None] - now[None]).max(-1).min(1)
    assert (apart <= 1).mean() > 0.9
