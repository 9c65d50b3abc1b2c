# SPDX-License-Identifier: Apache-2.0
"""The robot's own motion between scans: from odometry where it covers them, else by matching the scans."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.ground import Ground
from edge_nodes.perception.odometry import Motion2, ScanOdometry, standing_points

_KEPT, _STEP_BACK_NS = 2000, 1_000_000_000
_REACH_NS, _GAP_NS = 200_000_000, 500_000_000  # how far poses are carried on, and between which they are interpolated
_BASE_NS = 20_000_000  # two poses this far apart say how fast the robot is


class PoseBuffer:
    """The newest planar poses of the robot's base in the odometry frame. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        self._poses: list[tuple[float, float, float]] = []

    def add(self, stamp_ns: int, x: float, y: float, yaw: float) -> None:
        """Add a pose (m, m, rad); one that is out of order is left out, a step back of over 1 s starts anew."""
        if not all(map(math.isfinite, (x, y, yaw))):
            raise PerceptionError("a pose is not finite", got=f"({x}, {y}, {yaw})", expected="metres and radians")
        with self._lock:
            if self._stamps and stamp_ns <= self._stamps[-1]:
                if self._stamps[-1] - stamp_ns <= _STEP_BACK_NS:
                    return
                self._stamps.clear()
                self._poses.clear()
            if self._poses:  # yaw goes on beyond pi, so that it can be interpolated
                last = self._poses[-1][2]
                yaw = last + math.remainder(yaw - last, math.tau)
            self._stamps.append(stamp_ns)
            self._poses.append((x, y, yaw))
            if len(self._stamps) > _KEPT:
                del self._stamps[: _KEPT // 2], self._poses[: _KEPT // 2]

    def at(self, stamp_ns: int) -> Motion2 | None:
        """Return the pose at a stamp, interpolated, or carried on by up to 0.2 s; None if nothing is known."""
        with self._lock:
            after = bisect_left(self._stamps, stamp_ns)
            if after < len(self._stamps) and self._stamps[after] == stamp_ns:
                return Motion2(*self._poses[after], True)
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
                return Motion2(*self._poses[after], True)
            span = self._stamps[after] - self._stamps[before]
            if span > _GAP_NS:
                return None
            share = (stamp_ns - self._stamps[before]) / span
            a, b = self._poses[before], self._poses[after]
            x, y, yaw = (u + (v - u) * share for u, v in zip(a, b, strict=True))
            return Motion2(x, y, yaw, True)


class EgoMotion:
    """How the sensor moved from scan to scan.

    Args:
        config: `ego_motion` and where the sensor sits on the base.
    """

    def __init__(self, config: BevConfig) -> None:
        self.config = config
        self.poses = PoseBuffer()
        self.source = "none"
        self._scans = ScanOdometry()
        self._before: Motion2 | None = None

    def reset(self) -> None:
        """Forget the scan before; poses stay."""
        self._scans.reset()
        self._before = None

    def add(self, message: Any) -> None:
        """Take a nav_msgs/Odometry.

        Raises:
            PerceptionError: BAD_INPUT, its pose is not finite or its quaternion has no length.
        """
        p, q = message.pose.pose.position, message.pose.pose.orientation
        if not 0.5 < q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w < 2.0:
            raise PerceptionError(
                "the orientation of an odometry message is no rotation",
                got=f"({q.x}, {q.y}, {q.z}, {q.w})",
                expected="a unit quaternion",
            )
        yaw = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))
        stamp = message.header.stamp
        self.poses.add(int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec), p.x, p.y, yaw)

    def update(self, xyz: npt.NDArray[np.float32], ground: Ground, *, stamp_ns: int, gap_s: float) -> Motion2:
        """Return the sensor's motion since the scan before, in the frame it had then.

        Args:
            xyz: (N, 3) float32, m, sensor frame.
            ground: under them.
            stamp_ns: of the scan.
            gap_s: seconds since the scan before; 0 for the first.
        """
        way = self.config.ego_motion
        if way == "none":
            return Motion2()
        now = self._sensor_pose(stamp_ns) if way in ("auto", "odometry") else None
        before, self._before = self._before, now
        if now is not None and before is not None:
            self.source = "odometry"
            self._scans.reset()
            return before.inverse().then(now)
        if way == "odometry":
            self.source = "none"
            return Motion2()
        self.source = "scan"
        return self._scans.update(standing_points(xyz, ground, self.config), gap_s)

    def _sensor_pose(self, stamp_ns: int) -> Motion2 | None:
        base = self.poses.at(stamp_ns)
        c = self.config
        mount = Motion2(c.mount_x_m, c.mount_y_m, math.radians(c.mount_yaw_deg), True)
        return None if base is None else base.then(mount)
