# SPDX-License-Identifier: Apache-2.0
"""The robot's motion from scans of a place whose true motion is known, and maps moved along with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from edge_nodes.native import _kernels as native
from edge_nodes.perception import BevConfig, BevHistory, Ground, GroundEstimator
from edge_nodes.perception.frames import read_frames
from edge_nodes.perception.grid import moved
from edge_nodes.perception.odometry import Motion2, ScanOdometry, standing_points

SPACE = {"range": 32.0, "low": 0.2, "high": 3.0}


def place():
    """Two walls at a corner and some poles, (N, 2)."""
    rng = np.random.default_rng(0)
    x, y = np.arange(-15, 15, 0.25), np.arange(-10, 12, 0.25)
    walls = [np.column_stack([x, np.full(x.size, 10.0)]), np.column_stack([np.full(y.size, 14.0), y])]
    return np.concatenate([*walls, rng.uniform(-12, 9, (60, 2))])


def upright(flat):
    """Return points (N, 2) as columns of points of five heights, (5 N, 3) float32."""
    return np.concatenate(
        [np.column_stack([flat, np.full(len(flat), z)]) for z in np.arange(0.4, 2.4, 0.4)], dtype="f4"
    )


def seen_from(points, pose):
    c, s = math.cos(pose[2]), math.sin(pose[2])
    return (points - pose[:2]) @ np.array([[c, -s], [s, c]])


@pytest.mark.parametrize("speed", [(0.0, 0.0, 0.0), (1.5, 0.0, 0.4), (6.0, 0.5, -0.8)])
def test_motion_is_found_among_noise_and_walkers(speed):
    odometry, rng = ScanOdometry(), np.random.default_rng(1)
    pose, step = np.zeros(3), np.array(speed) * 0.1
    for i in range(8):
        walkers = np.array([[5 - 0.12 * i, 2], [5.2 - 0.12 * i, 2], [-4, 0.15 * i]])
        scan = upright(seen_from(np.concatenate([place(), walkers]), pose))
        scan += rng.normal(0, 0.02, scan.shape).astype(np.float32)
        got = odometry.update(standing_points(scan, Ground()), 0.1)
        c, s = math.cos(pose[2]), math.sin(pose[2])
        pose = pose + np.array([c * step[0] - s * step[1], s * step[0] + c * step[1], step[2]])
        if i > 0:
            assert got.trusted
            assert got[:3] == pytest.approx(step, abs=0.01)


@pytest.mark.parametrize("seed", [97024, 97008, 97006])
def test_motion_is_found_among_leaves_and_banks(seed):
    """Cells of leaves meet others by chance: matched as points they said that the robot stands, or nothing at all."""
    pytest.importorskip("train.perception.raycasting", reason="needs the [train] extra", exc_type=ImportError)
    from train.perception.dataset import points_of, setting
    from train.perception.simulate import cast

    sensor, scene = setting(seed)
    odometry, way = ScanOdometry(), Motion2(trusted=True)
    for i in range(5):
        scan = points_of(cast(scene, sensor, 0.1 * i))
        motion = odometry.update(standing_points(scan, Ground(offset_m=-sensor.height)), 0.1)
        way = way.then(motion) if i else way
    x, y, yaw = scene.ego.at(0.0)
    late = np.array(scene.ego.at(0.4))
    want = *seen_from(late[None, :2], (x, y, yaw))[0], late[2] - yaw
    assert way.trusted
    assert way[:3] == pytest.approx(want, abs=0.04)


def test_registration_finds_the_pose_that_open3d_finds():
    o3d = pytest.importorskip("open3d")
    scan, step = upright(place()), (0.4, -0.2, 0.05)
    scan += np.random.default_rng(3).normal(0, 0.01, scan.shape).astype(np.float32)
    later = upright(seen_from(place(), step))
    clouds = [o3d.geometry.PointCloud(o3d.utility.Vector3dVector(p.astype(float))) for p in (later, scan)]
    clouds[1].estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(1.2, 8))
    plane = o3d.pipelines.registration.TransformationEstimationPointToPlane()
    found = o3d.pipelines.registration.registration_icp(*clouds, 1.0, np.eye(4), plane).transformation
    want = found[0, 3], found[1, 3], math.atan2(found[1, 0], found[0, 0])
    stages = ((1.2, 0.2, 5), (0.5, 0.08, 10))
    scans = native.VoxelMap(standing_points(scan, Ground()), **SPACE)
    pose, apart, met = scans.align(standing_points(later, Ground()), (0.0, 0.0, 0.0), stages=stages, least=40)
    assert pose == pytest.approx(want, abs=0.005)
    assert pose == pytest.approx(step, abs=0.005)
    assert apart < 0.1
    assert met > 1000


def recorded(path):
    """Return the motion at each step of a recorded pack as the nodes find it."""
    estimator, odometry = GroundEstimator(32.0), ScanOdometry()
    return [odometry.update(standing_points(f.xyz, estimator.estimate(f.xyz)), 0.1) for f in read_frames(path)][1:]


def test_a_recorded_drive_is_matched_throughout(data_dir):
    motions = recorded(data_dir / "lidar_nc" / "kitti_city_b_040f.npz")
    assert all(m.trusted for m in motions)
    # It drives at 3 to 4 m/s; its stamps are those of the pack, 0.1 s apart, within some milliseconds.
    assert np.abs(np.diff([m.x for m in motions])).max() < 0.04
    assert np.mean([m.x for m in motions]) == pytest.approx(0.335, abs=0.01)


def test_a_recorded_sensor_beside_a_road_stands(data_dir):
    motions = recorded(data_dir / "lidar" / "ouster_osf_fw_3.2_10scans.npz")
    assert max(math.hypot(m.x, m.y) for m in motions) < 0.1


def test_standing_points_are_the_means_of_voxels():
    rng = np.random.default_rng(4)
    xyz = rng.uniform((-40, -40, -2), (40, 40, 3), (30_000, 3)).astype(np.float32)
    xyz[::1000] = np.nan
    height = xyz[:, 2] + np.float32(1.5)
    inside = (np.abs(xyz[:, :2]) < 32).all(1) & (height >= 0.2) & (height < 3.0)
    want = np.column_stack([xyz[:, :2], height])[inside]
    voxel = np.floor((want - (-32, -32, np.float32(0.2))) / np.float32([0.25, 0.25, 0.4])).astype(int)
    _, index = np.unique(voxel, axis=0, return_inverse=True)
    count = np.bincount(index.ravel())
    means = np.column_stack([np.bincount(index.ravel(), w) / count for w in want.T])
    got = standing_points(xyz, Ground(offset_m=-1.5))
    # Points at a border may fall to either side.
    assert abs(len(got) - len(means)) <= 3
    same = np.abs(got[:, None, :2] - means[None, :500, :2]).max(-1).min(0) < 1e-3
    assert same.mean() > 0.99


def test_the_nearest_point_is_the_nearest():
    rng = np.random.default_rng(5)
    low, high = (-30, -30, 0.3), (30, 30, 2.9)
    points = standing_points(rng.uniform(low, high, (4000, 3)).astype(np.float32), Ground())
    others = rng.uniform(low, high, (500, 3)).astype(np.float32)
    scans = native.VoxelMap(points, **SPACE)
    for reach in (0.5, 1.2):
        distance, _ = cKDTree(points).query(others)
        want = np.minimum(distance, reach).mean()
        assert scans.apart(others, (0.0, 0.0, 0.0), reach=reach) == pytest.approx(want, rel=1e-5)


def test_what_says_nothing_is_not_trusted():
    odometry = ScanOdometry()
    lone = upright(np.random.default_rng(2).uniform(-1, 1, (100, 2)) + np.array([5, 0]))
    odometry.update(lone, 0.1)
    assert not odometry.update(lone + np.float32(0.3), 0.1).trusted
    assert not odometry.update(np.empty((0, 3), np.float32), 0.1).trusted


def test_a_robot_that_stands_in_traffic_stands():
    """Cars fill the view and go by in step; little of what is seen stands."""
    rng, odometry = np.random.default_rng(7), ScanOdometry()
    x, y = np.arange(0, 4.5, 0.25), np.arange(0, 1.75, 0.25)
    ends = [np.column_stack([np.full(len(y), at), y]) for at in (0.0, 4.5)]
    car = np.concatenate([np.column_stack([x, np.zeros(len(x))]), *ends])
    cars = np.concatenate([car + np.array([7 * i - 24, lane]) for i in range(7) for lane in (3.0, 6.5, -5.0)])
    posts = rng.uniform(-20, 20, (30, 2)) * (1, 0.2) - (0, 12)
    for i in range(8):
        scan = upright(np.concatenate([cars - (0.75 * i, 0), posts]))
        scan += rng.normal(0, 0.02, scan.shape).astype(np.float32)
        got = odometry.update(standing_points(scan, Ground()), 0.1)
        assert got[:3] == pytest.approx((0, 0, 0), abs=0.05)


def test_a_robot_goes_on_when_its_scans_say_nothing_for_a_moment():
    odometry, nothing = ScanOdometry(), np.empty((0, 3), np.float32)
    for i in range(4):
        seen = odometry.update(standing_points(upright(seen_from(place(), (0.2 * i, 0, 0))), Ground()), 0.1)
    assert seen[:3] == pytest.approx((0.2, 0, 0), abs=0.01)
    blind = [odometry.update(nothing, 0.1) for _ in range(8)]
    assert blind[0].x == pytest.approx(0.18, abs=0.02)
    assert blind[-1].x < 0.1
    assert not any(m.trusted for m in blind)


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
