# SPDX-License-Identifier: Apache-2.0
"""The robot's own motion from scan to scan: point-to-plane ICP of what stands around it, for x, y and yaw.

Chen and Medioni, "Object modelling by registration of multiple range images", 1992, section 3; weights after
Geman and McClure. The kernel is `native/registration.cpp`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.native import _kernels as native
from edge_nodes.perception.ground import Ground

Points = npt.NDArray[np.float32]
# Reach of a match (m), scale of its robust weight (m), iterations.
_STAGES = ((1.2, 0.2, 5), (0.5, 0.08, 10))
# How many points are matched, how many must meet something, and how many the map of sparse scans is to have.
_MOST, _LEAST, _DENSE, _SCANS = 600, 40, 3000, 5
_LOW_M, _HIGH_M, _RANGE_M = 0.2, 3.0, 32.0
# Of the speed assumed where scans do not match, from scan to scan; how much it changes between scans at most.
_FADING, _CHANGE_M_S, _CHANGE_RAD_S = 0.9, 4.0, 3.0
# What is so near is the same thing. The farther a motion beyond so much, the more things it has to explain than
# standing still does: by this part of them for each metre, at most by half.
_SAME_M, _FAR_M, _MORE_PER_M, _MORE = 0.1, 0.12, 6.0, 0.5
_TURNS_RAD = (-0.12, -0.06, 0.06, 0.12)
_WIDE_M, _MAX_M, _MAX_RAD = 3.0, 3.0, 0.5
_SPACE = {"range": _RANGE_M, "low": _LOW_M, "high": _HIGH_M}


def standing_points(xyz: npt.NDArray[np.float32], ground: Ground) -> Points:
    """Return x, y and height above the ground (M, 3) of what stands within 32 m: the mean of each voxel's points.

    Args:
        xyz: (N, 3) float32, m, sensor frame; points that are not finite count nowhere.
        ground: under them.
    """
    return np.asarray(native.voxel_means(xyz, **ground.kernel, **_SPACE))


class Motion2(NamedTuple):
    """How the sensor moved since the scan before, in the frame it had then.

    Attributes:
        x, y: m.
        yaw: rad.
        trusted: False if the scans did not match; then the rest is what was assumed.
    """

    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0
    trusted: bool = False

    def then(self, later: Motion2) -> Motion2:
        """Return this motion followed by `later`."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        x, y = self.x + c * later.x - s * later.y, self.y + s * later.x + c * later.y
        return Motion2(x, y, self.yaw + later.yaw, self.trusted and later.trusted)

    def inverse(self) -> Motion2:
        """Return the motion back."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return Motion2(-c * self.x - s * self.y, s * self.x - c * self.y, -self.yaw, self.trusted)


class ScanOdometry:
    """Matches each scan's standing points with those of the scan before; of sparse scans, with those of some before."""

    def __init__(self) -> None:
        self._scans: deque[Points] = deque(maxlen=_SCANS)
        self._map: native.VoxelMap | None = None
        self._speed: npt.NDArray[np.float64] | None = None

    def reset(self) -> None:
        """Forget the scans before."""
        self._scans.clear()
        self._map = None
        self._speed = None

    def update(self, points: Points, seconds: float) -> Motion2:
        """Return the motion since the last call.

        Args:
            points: (N, 3) float32 m, as `standing_points` returns them.
            seconds: since the last call.
        """
        motion = Motion2()
        # A lone car in a field says nothing about the robot's motion.
        wide = len(points) >= _LEAST and float(np.sqrt(points[:, :2].var(0).sum())) > _WIDE_M
        if self._map is not None and wide and 0 < seconds < 1.0:
            motion = self._match(self._map, _some(points, _MOST), seconds)
        if motion.trusted and self._goes_on(motion, seconds):
            self._speed = np.array(motion[:3]) / seconds
        elif self._speed is not None and 0 < seconds < 1.0:
            # It goes on for a while.
            self._speed *= _FADING
            x, y, yaw = (float(v) for v in self._speed * seconds)
            motion = Motion2(x, y, yaw)
        self._remember(points, motion)
        return motion

    def _goes_on(self, motion: Motion2, seconds: float) -> bool:
        """Return whether a robot that went as before can have moved so; one that is beside a lorry seems to stand."""
        if self._speed is None:
            return True
        change = np.abs(np.array(motion[:3]) / seconds - self._speed)
        return bool(math.hypot(change[0], change[1]) < _CHANGE_M_S and change[2] < _CHANGE_RAD_S)

    def _match(self, scans: native.VoxelMap, points: Points, seconds: float) -> Motion2:
        # First guess: it goes on as it did, or it stands; if that is not known, it may turn. What fits best is kept.
        guesses = [(0.0, 0.0, 0.0)]
        if self._speed is None:
            guesses += [(0.0, 0.0, yaw) for yaw in _TURNS_RAD]
        elif np.abs(self._speed * seconds).max() > 0.05:
            guesses.append(tuple(self._speed * seconds))
        reach = _STAGES[0][0]
        guess = min(guesses, key=lambda g: scans.apart(points[::4], g, reach=reach))
        (x, y, yaw), apart, met = scans.align(points, guess, stages=_STAGES, least=_LEAST)
        if met < _LEAST or apart > 0.6 or math.hypot(x, y) > _MAX_M or abs(yaw) > _MAX_RAD:
            return Motion2()
        more = _MORE_PER_M * (math.hypot(x, y) - _FAR_M)
        if more > 0:
            # Most of what a robot sees that stands in traffic may move; but the rest is where it was.
            moving, standing = (scans.met(points, pose, reach=_SAME_M) for pose in ((x, y, yaw), (0.0, 0.0, 0.0)))
            if moving < (1 + min(more, _MORE)) * standing:
                return Motion2()
        return Motion2(x, y, yaw, True)

    def _remember(self, points: Points, motion: Motion2) -> None:
        if not motion.trusted:
            self._scans.clear()
        back = motion.inverse()
        for i, scan in enumerate(self._scans):
            self._scans[i] = _placed(scan, back)
        self._scans.appendleft(points)
        while len(self._scans) > 1 and sum(map(len, list(self._scans)[:-1])) >= _DENSE:
            self._scans.pop()
        together = self._scans[0]
        if len(self._scans) > 1:
            together = native.voxel_means(np.concatenate(self._scans), **Ground().kernel, **_SPACE)
        self._map = native.VoxelMap(together, **_SPACE) if len(together) >= _LEAST else None


def _some(points: Points, most: int) -> Points:
    if len(points) <= most:
        return points
    chosen: Points = points[np.linspace(0, len(points) - 1, most).astype(int)]
    return chosen


def _placed(points: Points, way: Motion2) -> Points:
    c, s = math.cos(way.yaw), math.sin(way.yaw)
    out = points.copy()
    out[:, 0] = c * points[:, 0] - s * points[:, 1] + way.x
    out[:, 1] = s * points[:, 0] + c * points[:, 1] + way.y
    return out
