# SPDX-License-Identifier: Apache-2.0
"""Ego motion from odometry against poses known by formula; what happens where odometry does not reach."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from perception_messages import odometry_message, tf_message, transform

from edge_nodes.errors import State
from edge_nodes.perception import BevConfig, BevHistory, Ground
from edge_nodes.perception.ego_motion import EgoMotion
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.odometry import Motion2

MS = 1_000_000
EMPTY = np.zeros((0, 3), np.float32)


def matrix(x, y, yaw):
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]])


def pose(stamp_ns):
    """A robot that drives a circle of 4 m with 1 m/s; yaw passes pi."""
    angle = 2.8 + stamp_ns / 1e9 / 4
    return 4 * math.sin(angle), -4 * math.cos(angle), angle


def fed(config, stamps):
    motion = EgoMotion(config)
    for t in stamps:
        motion.take("odometry", odometry_message(*pose(t), time_ns=t))
    return motion


def test_motion_of_a_mounted_sensor_between_odometry_stamps():
    config = BevConfig(ego_motion="odometry", mount_x_m=0.4, mount_y_m=-0.1, mount_yaw_deg=90.0)
    motion = fed(config, range(0, 4000 * MS, 20 * MS))
    mount, before = matrix(0.4, -0.1, math.pi / 2), None
    for stamp in range(7 * MS, 3900 * MS, 103 * MS):
        got = motion.update(EMPTY, Ground(), stamp_ns=stamp, gap_s=0.103)
        now = matrix(*pose(stamp)) @ mount
        if before is not None:
            np.testing.assert_allclose(matrix(*got[:3]), np.linalg.inv(before) @ now, atol=1e-3)
            assert got.trusted
        before = now
    assert motion.source == "odometry"


def test_inverse_motion():
    way = Motion2(1.0, -2.0, 0.7, True)
    np.testing.assert_allclose(way.inverse().then(way)[:3], 0, atol=1e-12)
    np.testing.assert_allclose(way.then(way.inverse())[:3], 0, atol=1e-12)


def test_history_does_not_grow_and_bad_messages_change_nothing():
    motion = fed(BevConfig(), range(0, 100_000 * MS, 20 * MS))
    assert len(motion.poses) <= 2000
    last = motion.poses.at(99_980 * MS)
    bad = odometry_message(math.nan, 0, 0, time_ns=100_000 * MS)
    with pytest.raises(PerceptionError, match="not finite"):
        motion.take("odometry", bad)
    bad = odometry_message(1, 0, 0, time_ns=100_000 * MS)
    bad.pose.pose.orientation.w = 0.0
    with pytest.raises(PerceptionError, match="no rotation"):
        motion.take("odometry", bad)
    np.testing.assert_array_equal(motion.poses.at(99_980 * MS), last)


def scans_of_a_wall():
    """Scans of a robot that drives 0.5 m a scan towards a pole, and the poses."""
    for i in range(6):
        yield i * 100 * MS, np.array([[6.0 - 0.5 * i + e, e, 0.5] for e in (0.01, 0.02, 0.03)], np.float32), 0.5 * i


@pytest.mark.parametrize(("way", "used"), [("odometry", True), ("auto", True), ("scan", False), ("none", False)])
def test_older_maps_follow_odometry(way, used):
    config = dataclasses.replace(
        BevConfig(range_m=8.0, resolution_m=0.5, history=4, sensor_height_m=1.0), ego_motion=way
    )
    history = BevHistory(config)
    for stamp, xyz, x in scans_of_a_wall():
        history.ego_motion.take("odometry", odometry_message(x, 0.0, 0.0, time_ns=stamp))
        maps = history.push(xyz, stamp)
    newest = np.argwhere(maps[..., 1:5].any(-1))
    rows = [np.argwhere(maps[..., 6 + 2 * age])[:, 0] for age in range(3)]
    if used:
        assert all((r == newest[0, 0]).all() and len(r) for r in rows)
    else:
        assert [int(newest[0, 0] - r[0]) for r in rows] == [1, 2, 3]


def test_auto_falls_back_to_scans_without_odometry():
    motion = EgoMotion(BevConfig())
    rng = np.random.default_rng(0)
    wall = rng.uniform(-15, 15, (4000, 3)).astype(np.float32)
    wall[:2000, 0], wall[2000:, 1] = 10, -8
    wall[:, 2] = np.abs(wall[:, 2]) / 10
    ground = Ground(offset_m=-1.0)
    for i in range(3):
        got = motion.update(wall - np.float32([0.1 * i, 0, 0]), ground, stamp_ns=i * 100 * MS, gap_s=0.1)
    assert motion.source == "scan"
    assert got.x == pytest.approx(0.1, abs=0.02)


def test_tf_brings_the_mount_along_and_goes_before_odometry():
    motion = EgoMotion(BevConfig(odom_frame="world"))
    motion.sensor_frame = "lidar"
    mount = matrix(0.4, -0.1, math.pi / 2)
    turn = (0.0, 0.0, math.sin(math.pi / 4), math.cos(math.pi / 4))
    motion.take("tf_static", tf_message(transform("base_link", "lidar", (0.4, -0.1, 1.2), turn)))
    before = None
    for i, stamp in enumerate(range(0, 2000 * MS, 100 * MS)):
        x, y, yaw = pose(stamp)
        quaternion = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
        motion.take("tf", tf_message(transform("world", "base_link", (x, y, 0.1 * i), quaternion, time_ns=stamp)))
        motion.take("odometry", odometry_message(7.0 * i, 0.0, 0.0, time_ns=stamp))  # wrong, so it shows
        got = motion.update(EMPTY, Ground(), stamp_ns=stamp, gap_s=0.1)
        now = matrix(x, y, yaw) @ mount
        if before is not None:
            np.testing.assert_allclose(matrix(*got[:3]), np.linalg.inv(before) @ now, atol=1e-9)
            assert motion.source == "tf"
        before = now


def test_a_sensor_upside_down_turns_the_other_way():
    motion = EgoMotion(BevConfig(ego_motion="tf"))
    motion.sensor_frame = "lidar"
    motion.take("tf_static", tf_message(transform("base_link", "lidar", quaternion=(1.0, 0.0, 0.0, 0.0))))
    for i in range(2):
        yaw = 0.2 * i
        quaternion = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
        motion.take("tf", tf_message(transform("odom", "base_link", (0, 0.5 * i, 0), quaternion, i * 100 * MS)))
        got = motion.update(EMPTY, Ground(), stamp_ns=i * 100 * MS, gap_s=0.1)
    np.testing.assert_allclose(got[:3], (0, -0.5, -0.2), atol=1e-9)


@pytest.mark.parametrize("way", ["tf", "odometry"])
def test_a_scan_without_a_pose_is_an_error_where_one_is_asked_for(way):
    config = dataclasses.replace(BevConfig(range_m=8.0, resolution_m=0.5, history=4), ego_motion=way)
    history = BevHistory(config)
    history.ego_motion.sensor_frame = "lidar"
    cloud = np.array([[3.0, 0.0, 0.0]], np.float32)
    with pytest.raises(PerceptionError, match=r"no transform from lidar up to odom|no odometry covers") as caught:
        history.push(cloud, 0)
    assert caught.value.state is State.NO_TF
    if way == "tf":
        history.ego_motion.take("tf", tf_message(transform("odom", "lidar", time_ns=50 * MS)))
    else:
        history.ego_motion.take("odometry", odometry_message(0.0, 0.0, 0.0, time_ns=50 * MS))
    assert history.push(cloud, 100 * MS)[..., :6].any(), "the next scan with a pose is taken"


def test_only_what_is_of_use_is_read():
    read = {way: BevConfig(ego_motion=way).reads for way in ("auto", "tf", "odometry", "scan", "none")}
    used = {way: [t for t in ("odometry", "tf", "tf_static", "points") if f(t)] for way, f in read.items()}
    assert used == {
        "auto": ["odometry", "tf", "tf_static"],
        "tf": ["tf", "tf_static"],
        "odometry": ["odometry"],
        "scan": [],
        "none": [],
    }
