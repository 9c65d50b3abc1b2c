# SPDX-License-Identifier: Apache-2.0
"""Poses over time and the tree of frames that TF spans, as 4 x 4 matrices. Thread-safe; no ROS imports.

tf2 has no wheels, and replaying a bag has no ROS at all: this holds the little of it that the nodes need, the way up
from a sensor to the odometry frame (REP 105).
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from edge_nodes.perception.errors import PerceptionError

Matrix4 = npt.NDArray[np.float64]
_KEPT, _STEP_BACK_NS = 2000, 1_000_000_000
_REACH_NS, _GAP_NS = 200_000_000, 500_000_000  # how far poses are carried on, and between which they are interpolated
_BASE_NS = 20_000_000  # two poses this far apart say how fast the robot is
_DEEPEST = 64


def matrix_of(translation: Any, rotation: Any) -> Matrix4:
    """Return the 4 x 4 matrix of a geometry_msgs Vector3 or Point (m) and Quaternion.

    Raises:
        PerceptionError: BAD_INPUT, a number is not finite or the quaternion has no length.
    """
    place = (float(translation.x), float(translation.y), float(translation.z))
    turn = (float(rotation.x), float(rotation.y), float(rotation.z), float(rotation.w))
    if not all(map(math.isfinite, (*place, *turn))):
        raise PerceptionError("a pose is not finite", got=f"{place}, {turn}", expected="metres and a unit quaternion")
    if not 0.5 < sum(v * v for v in turn) < 2.0:
        raise PerceptionError("a pose's orientation is no rotation", got=f"{turn}", expected="a unit quaternion")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_quat(turn).as_matrix(), place
    return matrix


class PoseBuffer:
    """The newest poses of one frame in another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        self._poses: list[Matrix4] = []

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp_ns: int, pose: Matrix4) -> None:
        """Add a pose (4, 4); one that is out of order is left out, a step back of over 1 s starts anew."""
        with self._lock:
            if self._stamps and stamp_ns <= self._stamps[-1]:
                if self._stamps[-1] - stamp_ns <= _STEP_BACK_NS:
                    return
                self._stamps.clear()
                self._poses.clear()
            self._stamps.append(stamp_ns)
            self._poses.append(pose)
            if len(self._stamps) > _KEPT:
                del self._stamps[: _KEPT // 2], self._poses[: _KEPT // 2]

    def at(self, stamp_ns: int) -> Matrix4 | None:
        """Return the pose at a stamp, interpolated, or carried on by up to 0.2 s; None if nothing is known."""
        with self._lock:
            after = bisect_left(self._stamps, stamp_ns)
            if after < len(self._stamps) and self._stamps[after] == stamp_ns:
                return self._poses[after]
            if after == 0:
                return None
            before = after - 1
            if after == len(self._stamps):
                if stamp_ns - self._stamps[before] > _REACH_NS:
                    return None
                after = before
                while before > 0 and self._stamps[after] - self._stamps[before] < _BASE_NS:
                    before -= 1
            if before == after:
                return self._poses[after]
            span = self._stamps[after] - self._stamps[before]
            if span > _GAP_NS:
                return None
            return _between(self._poses[before], self._poses[after], (stamp_ns - self._stamps[before]) / span)


class FrameTree:
    """What TF says of frames: for each its parent and its pose there, standing or over time."""

    def __init__(self) -> None:
        self._edges: dict[str, tuple[str, Matrix4 | PoseBuffer]] = {}

    def add(self, message: Any, *, static: bool) -> None:
        """Take a tf2_msgs/TFMessage.

        Args:
            message: of /tf or /tf_static.
            static: whether its transforms hold for ever.

        Raises:
            PerceptionError: BAD_INPUT, one of its transforms is not finite or no rotation; the others are taken.
        """
        bad: PerceptionError | None = None
        for each in message.transforms:
            try:
                pose = matrix_of(each.transform.translation, each.transform.rotation)
            except PerceptionError as error:
                bad = error
                continue
            child, parent = _name(each.child_frame_id), _name(each.header.frame_id)
            stamp = each.header.stamp
            if static:
                self._edges[child] = (parent, pose)
            else:
                known = self._edges.get(child)
                moving = known[1] if known is not None and known[0] == parent else None
                buffer = moving if isinstance(moving, PoseBuffer) else PoseBuffer()
                buffer.add(int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec), pose)
                self._edges[child] = (parent, buffer)
        if bad is not None:
            raise bad

    def lookup(self, target: str, source: str, stamp_ns: int) -> Matrix4 | None:
        """Return the pose (4, 4) of `source` in its ancestor `target` at a stamp; None if the way up is not known."""
        pose, frame, target = np.eye(4), _name(source), _name(target)
        for _ in range(_DEEPEST):
            if frame == target:
                return pose
            edge = self._edges.get(frame)
            if edge is None:
                return None
            frame, step = edge[0], edge[1].at(stamp_ns) if isinstance(edge[1], PoseBuffer) else edge[1]
            if step is None:
                return None
            pose = step @ pose
        return None

    def frames(self) -> Sequence[str]:
        """Return the names of all frames that have a parent."""
        return sorted(self._edges)


def _between(a: Matrix4, b: Matrix4, share: float) -> Matrix4:
    """Return the pose at a share of the way from `a` (0) to `b` (1), beyond 1 too: straight, turning evenly."""
    turn = Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).as_rotvec()
    pose = np.eye(4)
    pose[:3, :3] = a[:3, :3] @ Rotation.from_rotvec(share * turn).as_matrix()
    pose[:3, 3] = a[:3, 3] + share * (b[:3, 3] - a[:3, 3])
    return pose


def _name(frame: str) -> str:
    return frame.lstrip("/")  # as tf of ROS 1 wrote them
