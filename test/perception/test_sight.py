# SPDX-License-Identifier: Apache-2.0
"""Line of sight against brute force, and as the history keeps it while the robot moves."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from edge_nodes.native import _kernels
from edge_nodes.perception import BevConfig, BevHistory, Ground
from edge_nodes.perception.bev import MOMENTS
from edge_nodes.perception.grid import metres
from edge_nodes.perception.history import DETAILS
from edge_nodes.perception.odometry import Motion2
from edge_nodes.perception.sight import BINS, reach, sight_map

GRID = BevConfig(range_m=8.0, resolution_m=0.25, sensor_height_m=1.0, ego_motion="odometry")
GROUND = Ground(0.02, -0.01, -1.0, np.linspace(0, 0.2, 64, dtype=np.float32).reshape(8, 8))
ALL = 2 * np.pi


def room(half: float = 5.0) -> np.ndarray:
    """Points (N, 3) of a square room's walls and floor, sensor 1 m above it."""
    rng = np.random.default_rng(0)
    along, side = rng.uniform(-half, half, 40_000), rng.integers(4, size=40_000)
    walls = np.choose(side, [half, -half, along, along]), np.choose(side, [along, along, half, -half])
    floor = rng.uniform(-half, half, (5000, 2))
    high = np.concatenate([rng.uniform(-0.9, 1.0, 40_000), np.full(5000, -1.0)])
    return np.column_stack([np.concatenate([np.column_stack(walls), floor]), high]).astype(np.float32)


def brute_force_reach(xyz, ground, top):
    xyz = xyz[np.isfinite(xyz).all(1)]
    xyz = xyz[ground.height_of(xyz) < top].astype(float)
    bins = np.floor(np.arctan2(xyz[:, 1], xyz[:, 0]) * BINS / ALL).astype(int) % BINS
    far = np.zeros(BINS)
    np.maximum.at(far, bins, np.hypot(xyz[:, 0], xyz[:, 1]))
    return np.maximum(far, np.maximum(np.roll(far, 1), np.roll(far, -1)))


def test_reach_is_the_farthest_low_point_of_each_direction():
    rng = np.random.default_rng(1)
    xyz = rng.normal([0, 0, 0.5], [20, 20, 1.5], (20_000, 3)).astype(np.float32)
    bad = np.array([[np.nan, 1, 0], [1, np.nan, 0], [1, 1, np.nan], [np.inf, 0, 0], [0, -np.inf, 0]], np.float32)
    # A point on the border of two directions may fall into either.
    turn = np.arctan2(xyz[:, 1], xyz[:, 0]).astype(float) * BINS / ALL
    xyz = xyz[np.abs(turn - np.round(turn)) > 0.01]
    got = reach(np.concatenate([bad, xyz]), GROUND, GRID)
    np.testing.assert_allclose(got, brute_force_reach(xyz, GROUND, GRID.max_height_m + 0.3), rtol=1e-5)


def test_nothing_is_in_reach_of_an_empty_scan():
    assert not reach(np.empty((0, 3), np.float32), GROUND, GRID).any()


def test_cells_are_coded_by_how_far_within_reach_they_lie():
    rng = np.random.default_rng(2)
    far = rng.uniform(0, 12, (3, BINS)).astype(np.float32)
    ways = [Motion2(), Motion2(1.0, -0.4, 0.3), Motion2(-2.0, 0.7, -2.5)]
    got = sight_map(list(zip(far, ways, strict=True)), GRID).astype(float)
    axis = metres(np.arange(GRID.cells), GRID)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    within, sure = [], np.ones_like(x, bool)
    for values, way in zip(far, ways, strict=True):
        c, s = math.cos(way.yaw), math.sin(way.yaw)
        u, v = way.x + c * x - s * y, way.y + s * x + c * y
        turn = np.arctan2(v, u) * BINS / ALL
        sure &= np.abs(turn - np.round(turn)) > 0.01
        within.append(values[np.floor(turn).astype(int) % BINS] - np.hypot(u, v))
    for channel, want in enumerate((within[0], np.max(within, axis=0))):
        code = np.clip(128 + want * 127 / 4, 0, 255)
        assert np.abs(got[..., channel] - code)[sure].max() <= 0.51
    assert sure.mean() > 0.9


def test_a_room_is_in_sight_and_what_lies_behind_its_walls_is_not():
    far = reach(room(), Ground(offset_m=-1.0), GRID)
    newest, every = np.moveaxis(sight_map([(far, Motion2())], GRID), 2, 0)
    np.testing.assert_array_equal(newest, every)
    axis = np.abs(metres(np.arange(GRID.cells), GRID))
    out = np.maximum(axis[:, None], axis[None])
    assert (newest[out < 4.5] > 128).all()
    assert (newest[out > 5.5] < 128).all()


def test_history_follows_what_was_in_sight_before():
    history = BevHistory(GRID, details=DETAILS)
    xyz, empty = room(), np.zeros((0, 3), np.float32)
    for i in range(7):
        pose = np.eye(4)
        pose[0, 3] = 0.5 * i
        history.ego_motion.poses.add(i * 10**8, pose)
        got = history.push(xyz if i == 1 else empty, i * 10**8)
    assert got.shape[2] == 6 + 2 * 15 + DETAILS
    assert not (got[..., -2] > 128).any()
    far = reach(xyz, Ground(offset_m=-1.0), GRID)
    # Five scans and 2.5 m ago.
    want = sight_map([(far, Motion2(2.5, 0, 0))], GRID)[..., 1]
    np.testing.assert_array_equal(got[..., -1] > 128, want > 128)
    assert (want > 128).sum() > 1000


def test_histories_without_sight_have_the_same_other_channels():
    xyz, config = room(), dataclasses.replace(GRID, ego_motion="none")
    every, some, none = (BevHistory(config, details=n).push(xyz, 0) for n in (DETAILS, MOMENTS, 0))
    np.testing.assert_array_equal(every[..., : some.shape[2]], some)
    np.testing.assert_array_equal(some[..., : none.shape[2]], none)


@pytest.mark.parametrize(
    ("far", "poses", "cells"),
    [((2, 8), (1, 3), 8), ((0, 8), (0, 3), 8), ((1, 0), (1, 3), 8), ((1, 8), (1, 2), 8), ((1, 8), (1, 3), 0)],
)
def test_shapes_that_do_not_fit_are_refused(far, poses, cells):
    with pytest.raises(ValueError, match=r"reach is|1 to 4096"):
        _kernels.sight_maps(np.zeros(far, np.float32), poses=np.zeros(poses), cells=cells, cell_m=0.25, steps_per_m=1)
