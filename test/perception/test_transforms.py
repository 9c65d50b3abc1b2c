# SPDX-License-Identifier: Apache-2.0
"""The tree of frames against scipy's own interpolation and composition of rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from perception_messages import tf_message, transform
from scipy.spatial.transform import Rotation, Slerp

from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.transforms import FrameTree, PoseBuffer, matrix_of

MS = 1_000_000


def pose(x, yaw):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[0, 3] = Rotation.from_euler("z", yaw).as_matrix(), x
    return matrix


def yaw_of(matrix):
    return math.atan2(matrix[1, 0], matrix[0, 0])


def test_poses_are_carried_on_for_a_while_and_not_across_gaps():
    poses = PoseBuffer()
    assert poses.at(0) is None
    poses.add(1000 * MS, pose(1.0, 3.1))
    poses.add(1100 * MS, pose(1.1, -3.1))
    assert poses.at(999 * MS) is None
    after = poses.at(1200 * MS)
    assert after[0, 3] == pytest.approx(1.2)
    assert yaw_of(after) == pytest.approx(math.remainder(3.1 + 2 * (math.tau - 6.2), math.tau))
    assert poses.at(1301 * MS) is None
    poses.add(2000 * MS, pose(5.0, 0.0))
    assert poses.at(1500 * MS) is None
    poses.add(1900 * MS, pose(9.0, 0.0))  # out of order: left out
    assert poses.at(2000 * MS)[0, 3] == 5.0
    poses.add(100 * MS, pose(7.0, 0.0))  # the bag was started again
    assert poses.at(2000 * MS) is None
    assert poses.at(100 * MS)[0, 3] == 7.0


def test_the_newest_of_poses_close_together_are_carried_on_by_the_speed_over_20_ms():
    poses = PoseBuffer()
    for i in range(50):
        poses.add(i * MS, pose(0.001 * i + (1e-4 if i % 2 else 0.0), 0.0))
    assert poses.at(149 * MS)[0, 3] == pytest.approx(0.149, abs=0.002)


def test_way_up_through_moving_and_standing_frames():
    rng = np.random.default_rng(3)
    turns, places = Rotation.random(4, random_state=5), rng.normal(size=(4, 3))
    frames = FrameTree()
    frames.add(
        tf_message(
            transform("base_link", "mast", places[2], turns[2].as_quat()),
            transform("/mast", "/lidar", places[3], turns[3].as_quat()),
        ),
        static=True,
    )
    for i in range(2):
        moving = transform("odom", "base_link", places[i], turns[i].as_quat(), time_ns=i * 100 * MS)
        frames.add(tf_message(moving), static=False)
    for share in (0.0, 0.3, 1.0):
        base = Slerp([0, 1], turns[:2])(share)
        point = rng.normal(size=3)
        want = turns[3].apply(point) + places[3]
        want = turns[2].apply(want) + places[2]
        want = base.apply(want) + places[0] + share * (places[1] - places[0])
        got = frames.lookup("odom", "lidar", round(share * 100) * MS)
        np.testing.assert_allclose(got[:3, :3] @ point + got[:3, 3], want, atol=1e-9)
    assert frames.frames() == ["base_link", "lidar", "mast"]


def test_unknown_ways_give_nothing_and_loops_end():
    frames = FrameTree()
    assert frames.lookup("odom", "lidar", 0) is None
    np.testing.assert_array_equal(frames.lookup("odom", "/odom", 0), np.eye(4))
    frames.add(tf_message(transform("a", "b"), transform("b", "a")), static=True)
    assert frames.lookup("odom", "a", 0) is None
    frames.add(tf_message(transform("odom", "a", time_ns=0)), static=False)  # a new parent
    assert frames.lookup("odom", "b", 100 * MS) is not None
    assert frames.lookup("odom", "b", 900 * MS) is None, "nothing is known of then"


def test_bad_transforms_are_named_and_the_others_taken():
    frames = FrameTree()
    bad = tf_message(transform("odom", "a", quaternion=(0, 0, 0, 0)), transform("odom", "b"))
    with pytest.raises(PerceptionError, match="no rotation"):
        frames.add(bad, static=True)
    assert frames.frames() == ["b"]
    with pytest.raises(PerceptionError, match="not finite"):
        frames.add(tf_message(transform("odom", "a", xyz=(math.nan, 0, 0))), static=False)
    with pytest.raises(PerceptionError, match="not finite"):
        matrix_of(*vars(transform("a", "b", xyz=(math.inf, 0, 0)).transform).values())
