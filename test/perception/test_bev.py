# SPDX-License-Identifier: Apache-2.0
"""Maps against a brute-force count, ground against known planes, history against rebuilding it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_nodes.perception import BevConfig, BevHistory, Ground, GroundEstimator, PerceptionError, bev_map
from edge_nodes.perception.bev import slice_edges

SMALL = BevConfig(range_m=4.0, resolution_m=0.5, history=4)


def brute_force(xyz, ground, config):
    n, edges = config.cells, slice_edges(config)
    counts = np.zeros((n, n, 6), int)
    for x, y, z in xyz.astype(float):
        height = z - ground.offset_m - ground.slope_x * x - ground.slope_y * y
        row, column = (
            np.floor((config.range_m - x) / config.resolution_m),
            np.floor((config.range_m - y) / config.resolution_m),
        )
        if 0 <= row < n and 0 <= column < n and -1 <= height < 4:
            # Heights are looked up in steps of 5 cm.
            middle = (np.floor((height + 1) / 0.05) + 0.5) * 0.05 - 1
            counts[int(row), int(column), np.searchsorted(edges, middle)] += 1
    return counts


def test_map_counts_points_by_cell_and_height():
    rng = np.random.default_rng(1)
    xyz = rng.uniform([-6, -6, -3], [6, 6, 4], (5000, 3)).astype(np.float32)
    ground = Ground(0.02, -0.01, -0.8)
    counts = brute_force(xyz, ground, SMALL)
    got = bev_map(xyz, ground, SMALL)
    code = np.round(255 * np.log1p(np.minimum(counts, 63)) / np.log(64)).astype(np.uint8)
    # Float32 rounding may move a point across a border.
    assert (got.slices != code).mean() < 0.01
    total = np.minimum(counts[..., 1:5].sum(-1), 63)
    assert (got.obstacle != np.round(255 * np.log1p(total) / np.log(64))).mean() < 0.01


def cloud_of_clusters(rng):
    """Points in bunches, some cells with one, some with many, some at the same place."""
    middles = rng.uniform([-4.2, -4.2, -0.5], [4.2, 4.2, 2.5], (300, 3))
    points = np.repeat(middles, rng.integers(1, 30, 300), axis=0)
    return (points + rng.normal(0, 0.1, points.shape) * (rng.random((len(points), 1)) < 0.9)).astype(np.float32)


def test_detail_is_the_moments_of_each_cell():
    xyz = cloud_of_clusters(np.random.default_rng(6))
    got = bev_map(xyz, Ground(), SMALL, detail=True).detail.astype(int)
    places = SMALL.cells / 2 - xyz[:, :2].astype(float) / SMALL.resolution_m
    low, high = SMALL.min_height_m, SMALL.max_height_m
    band = (xyz[:, 2] >= low) & (xyz[:, 2] < high)
    clear = np.abs(xyz[:, 2:] - np.array([low, high])).min(1) > 1e-4
    for cell in np.ndindex(SMALL.cells, SMALL.cells):
        here = band & (np.floor(places) == cell).all(1)
        if not here.any():
            assert got[cell].tolist() == [128, 128, 128, 0, 0, 0]
            continue
        off = places[here] - cell - 0.5  # -0.5 to 0.5
        both = np.mean(off[:, 0] * off[:, 1]) - off[:, 0].mean() * off[:, 1].mean()
        reach = (np.floor((xyz[here, 2].max() + 1) * np.float32(20)) + 1) * 0.05 - 1
        want = np.array(
            [
                *(128 + 254 * off.mean(0)),
                128 + 254 * np.sign(both) * np.sqrt(abs(both)),
                *(510 * off.std(0)),
                255 * min(1, reach / high),
            ]
        )
        # The root of a covariance near 0 is steep: it may be off by what its points' places are rounded by.
        allowed = np.array([1.1, 1.1, 3 + 254 * 0.004 / max(0.05, np.sqrt(abs(both))), 2, 2, 1.1])
        assert clear[here].all()
        assert (np.abs(got[cell] - want) <= allowed).all(), (cell, got[cell], want)


def test_detail_of_one_point_says_where_it_is():
    # Row 4, column 11 of cells of 0.5 m: a tenth from its front, a tenth from its right side.
    xyz = np.array([[4.0 - 0.5 * 4.1, 4.0 - 0.5 * 11.9, 0.52]], np.float32)
    got = bev_map(xyz, Ground(), SMALL, detail=True).detail
    np.testing.assert_allclose(got[4, 11], [128 - 0.4 * 254, 128 + 0.4 * 254, 128, 0, 0, 255 * 0.55 / 2.2], atol=1)
    assert (got != [128, 128, 128, 0, 0, 0]).any(-1).sum() == 1
    assert bev_map(xyz, Ground(), SMALL).detail is None


def test_points_that_are_not_finite_count_nowhere():
    xyz = cloud_of_clusters(np.random.default_rng(7))
    ground = Ground(0.02, -0.01, -0.1, np.full((4, 4), 0.05, np.float32))
    want = bev_map(xyz, ground, SMALL, detail=True)
    bad = np.array([[np.nan, 0, 0], [0, np.nan, 0], [0, 0, np.nan], [np.inf, 0, 0], [0, -np.inf, 0], [0, 0, np.inf]])
    mixed = np.concatenate([bad, xyz, bad]).astype(np.float32)
    for a, b in zip(bev_map(mixed, ground, SMALL, detail=True), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_columns_beside_the_coordinates_change_nothing():
    xyz = cloud_of_clusters(np.random.default_rng(8))
    ground = GroundEstimator(4.0).estimate(xyz)
    more = np.column_stack([xyz, np.arange(len(xyz), dtype=np.float32)])
    for points in (more, np.ascontiguousarray(more)[:, :3], np.asfortranarray(more)):
        for a, b in zip(
            bev_map(points, ground, SMALL, detail=True), bev_map(xyz, ground, SMALL, detail=True), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("point", "cell"),
    [
        ((3.9, 3.9), (0, 0)),
        ((3.9, -3.9), (0, 15)),
        ((-3.9, 3.9), (15, 0)),
        ((0.1, 0.1), (7, 7)),
        ((-0.1, -0.1), (8, 8)),
    ],
)
def test_ahead_is_up_and_left_is_left(point, cell):
    got = bev_map(np.array([[*point, 0.5]], np.float32), Ground(), SMALL)
    assert np.argwhere(got.obstacle).tolist() == [list(cell)]


def test_points_at_the_far_border_stay_out():
    xyz = np.array([[-4.0, 0, 0.5], [0, -4.0, 0.5], [4.001, 0, 0.5], [1e9, 0, 0.5]], np.float32)
    assert not bev_map(xyz, Ground(), SMALL).obstacle.any()


def test_history_equals_maps_made_anew():
    rng = np.random.default_rng(2)
    config = dataclasses.replace(SMALL, sensor_height_m=1.0, ego_motion="none")
    scans = [rng.uniform([-4, -4, -1.1], [4, 4, 2], (300, 3)).astype(np.float32) for _ in range(7)]
    history = BevHistory(config)
    for i, scan in enumerate(scans):
        got = history.push(scan, i * 10**8)
        maps = [bev_map(s, Ground(offset_m=-1.0), config) for s in scans[max(0, i - 3) : i + 1]][::-1]
        want = np.zeros_like(got)
        want[..., :6] = maps[0].slices
        for age, older in enumerate(maps[1:]):
            want[..., 6 + 2 * age] = older.obstacle
            want[..., 7 + 2 * age] = older.slices[..., 0]
        np.testing.assert_array_equal(got, want)


def test_intensity_is_the_mean_of_each_cell_by_ground_and_band():
    rng = np.random.default_rng(5)
    config = dataclasses.replace(SMALL, intensity_full=100.0, sensor_height_m=1.0, ego_motion="none")
    points = rng.uniform([-4.5, -4.5, -1.5, 0], [4.5, 4.5, 3, 150], (3000, 4)).astype(np.float32)
    history = BevHistory(config)
    history.push(points[::-1], 0)
    got = history.push(points, 10**8)
    assert got.shape == (SMALL.cells, SMALL.cells, 6 + 2 * (SMALL.history - 1) + 2)
    cells = np.floor(SMALL.cells / 2 - points[:, :2] / SMALL.resolution_m).astype(int)
    height = points[:, 2] + 1.0
    for row, column in np.ndindex(got.shape[:2]):
        here = (cells == (row, column)).all(1)
        for channel, (low, high) in enumerate(
            ((-1.0, config.min_height_m), (config.min_height_m, config.max_height_m))
        ):
            values = points[here & (height >= low) & (height < high), 3]
            want = min(255, 255 * values.mean() / 100) if len(values) else 0
            assert got[row, column, channel - 2] == pytest.approx(want, abs=0.51)


def test_intensity_that_is_wanted_must_be_there():
    history = BevHistory(dataclasses.replace(SMALL, intensity_full=255.0))
    with pytest.raises(PerceptionError, match="no intensity; got 3 columns"):
        history.push(np.ones((10, 3), np.float32), 0)


@pytest.mark.parametrize("jump_s", [-0.2, 5.0])
def test_gaps_and_steps_back_start_the_history_anew(jump_s):
    history = BevHistory(SMALL)
    xyz = np.random.default_rng(3).uniform(-4, 4, (500, 3)).astype(np.float32)
    for i in range(3):
        history.push(xyz, 10**10 + i * 10**8)
    assert history.push(xyz, 10**10 + round(jump_s * 1e9))[..., 6:].max() == 0


def test_ground_stays_where_it_was_while_it_is_hidden():
    """Between two lorries nothing but their decks returns; the robot has not sunk."""
    rng = np.random.default_rng(6)
    flat = rng.uniform(-20, 20, (20_000, 2)).astype(np.float32)
    ground, decks = (np.column_stack([flat, np.full(len(flat), z, np.float32)]) for z in (-1.2, -0.5))
    estimator = GroundEstimator(32.0)
    for scan in (ground, ground, *[decks] * 10):
        assert estimator.estimate(scan).offset_m == pytest.approx(-1.2, abs=0.05)
    for _ in range(30):  # it has, after all
        offset = estimator.estimate(decks).offset_m
    assert offset == pytest.approx(-0.5, abs=0.05)


@pytest.mark.parametrize("height", [0.3, 0.9, 2.0])
@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.03, -0.02)])
def test_ground_is_found_under_clutter(height, slope):
    rng = np.random.default_rng(4)
    floor = rng.uniform(-25, 25, (8000, 2))
    z = slope[0] * floor[:, 0] + slope[1] * floor[:, 1] - height + rng.normal(0, 0.02, 8000)
    things = np.column_stack([rng.uniform(-25, 25, (8000, 2)), rng.uniform(-height + 0.5, 3, 8000)])
    xyz = np.concatenate([np.column_stack([floor, z]), things]).astype(np.float32)
    ground = GroundEstimator(32.0).estimate(xyz)
    assert abs(ground.offset_m + height) < 0.08
    above = ground.height_of(xyz[:8000])
    assert np.percentile(np.abs(above), 95) < 0.18


def test_too_few_points_for_a_ground_do_no_harm():
    ground = GroundEstimator(32.0).estimate(np.array([[1, 2, 3]], np.float32))
    assert np.isfinite(ground.height_of(np.array([[1, 2, 3]], np.float32))).all()
