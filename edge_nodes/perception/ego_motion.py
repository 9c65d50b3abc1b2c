# SPDX-License-Identifier: Apache-2.0
"""The robot's own motion between scans: from TF or odometry where they cover them, else by matching the scans."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from edge_nodes.errors import State
from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.ground import Ground
from edge_nodes.perception.odometry import Motion2, ScanOdometry, standing_points
from edge_nodes.perception.transforms import FrameTree, Matrix4, PoseBuffer, matrix_of


class EgoMotion:
    """How the sensor moved from scan to scan.

    Args:
        config: `ego_motion`, the frames, and where the sensor sits on the base.

    Attributes:
        sensor_frame: frame of the scans, as TF names it.
        source: what the last motion came from: "tf", "odometry", "scan" or "none".
    """

    def __init__(self, config: BevConfig) -> None:
        self.config = config
        self.sensor_frame = ""
        self.source = "none"
        self.poses = PoseBuffer()
        self.frames = FrameTree()
        self._scans = ScanOdometry()
        self._before: tuple[str, Matrix4] | None = None

    def reset(self) -> None:
        """Forget the scan before; poses stay."""
        self._scans.reset()
        self._before = None

    def take(self, topic: str, message: Any) -> None:
        """Take a message of one of `MOTION_TOPICS`: nav_msgs/Odometry or tf2_msgs/TFMessage. Thread-safe.

        Raises:
            PerceptionError: BAD_INPUT, a pose is not finite or its quaternion has no length.
        """
        if topic != "odometry":
            self.frames.add(message, static=topic == "tf_static")
            return
        pose, stamp = message.pose.pose, message.header.stamp
        at = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
        self.poses.add(at, matrix_of(pose.position, pose.orientation))

    def update(self, xyz: npt.NDArray[np.float32], ground: Ground, *, stamp_ns: int, gap_s: float) -> Motion2:
        """Return the sensor's motion since the scan before, in the frame it had then.

        Args:
            xyz: (N, 3) float32, m, sensor frame.
            ground: under them.
            stamp_ns: of the scan.
            gap_s: seconds since the scan before; 0 for the first.

        Raises:
            PerceptionError: NO_TF, `ego_motion` asks for TF or odometry and neither covers the scan.
        """
        way = self.config.ego_motion
        if way == "none":
            return Motion2()
        now = self._sensor_pose(stamp_ns)
        before, self._before = self._before, now
        if now is not None and before is not None and before[0] == now[0]:
            self.source = now[0]
            self._scans.reset()
            return _planar(np.linalg.inv(before[1]) @ now[1])
        if way in ("tf", "odometry"):
            self.source = "none"
            if now is None:
                raise self._unknown(way, stamp_ns)
            return Motion2()
        self.source = "scan"
        return self._scans.update(standing_points(xyz, ground), gap_s)

    def _sensor_pose(self, stamp_ns: int) -> tuple[str, Matrix4] | None:
        """Return what tells the sensor's pose at a stamp, and the pose."""
        c = self.config
        if c.reads("tf") and self.sensor_frame:
            pose = self.frames.lookup(c.odom_frame, self.sensor_frame, stamp_ns)
            if pose is not None:
                return "tf", pose
        if c.reads("odometry"):
            base = self.poses.at(stamp_ns)
            if base is not None:
                mount = np.eye(4)
                mount[:3, :3] = Rotation.from_euler("z", c.mount_yaw_deg, degrees=True).as_matrix()
                mount[:2, 3] = c.mount_x_m, c.mount_y_m
                return "odometry", base @ mount
        return None

    def _unknown(self, way: str, stamp_ns: int) -> PerceptionError:
        """Return the error of a scan without a pose; where the robot is, is never guessed then."""
        if way == "tf":
            known = ", ".join(self.frames.frames()) or "none yet"
            return PerceptionError(
                f"no transform from {self.sensor_frame or 'a cloud without frame_id'} up to {self.config.odom_frame} "
                f"at {stamp_ns / 1e9:.3f} s",
                got=f"frames with a parent: {known}",
                expected="the way up on /tf and /tf_static",
                remedy="Start the robot's TF, set bev.odom_frame, or bev.ego_motion: auto.",
                state=State.NO_TF,
            )
        return PerceptionError(
            f"no odometry covers the scan at {stamp_ns / 1e9:.3f} s",
            got=f"{len(self.poses)} poses",
            expected="nav_msgs/Odometry on the topic odometry, no more than 0.2 s older",
            remedy="Start it, remap the topic, or set bev.ego_motion: auto.",
            state=State.NO_TF,
        )


def _planar(pose: Matrix4) -> Motion2:
    """Return the motion in the plane of a pose (4, 4)."""
    return Motion2(float(pose[0, 3]), float(pose[1, 3]), math.atan2(pose[1, 0], pose[0, 0]), True)
