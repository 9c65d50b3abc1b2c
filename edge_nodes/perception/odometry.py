# SPDX-License-Identifier: Apache-2.0
"""The robot's own motion from scan to scan, by matching what stands around it (point-to-line ICP in the plane)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.grid import cell_index
from edge_nodes.perception.ground import Ground

Points = npt.NDArray[np.float64]
# Reach of a match (m), scale of its robust weight (m), iterations.
_STEPS = ((1.2, 0.2, 4), (0.5, 0.06, 6))
_LEAST, _MOST = 40, 500
_WIDE_M, _MAX_M, _MAX_RAD = 3.0, 3.0, 0.5


def standing_points(xyz: npt.NDArray[np.float32], ground: Ground, config: BevConfig) -> Points:
    """Return the middle (x, y) of each cell's points higher than 0.3 m, (M, 2), of 500 cells at most.

    Args:
        xyz: (N, 3) float32, m.
        ground: under them.
        config: grid.
    """
    height = ground.height_of(xyz)
    high = np.flatnonzero((height > 0.3) & (height < 2.2))
    index = cell_index(xyz[high], config)
    count, x, y = (np.bincount(index, w, config.cells**2 + 1)[:-1] for w in (None, xyz[high, 0], xyz[high, 1]))
    chosen = np.flatnonzero(count)
    if len(chosen) > _MOST:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST).astype(int)]
    return np.column_stack([x[chosen], y[chosen]]) / count[chosen, None]


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
    """Matches each scan's standing points with the scan before."""

    def __init__(self) -> None:
        self._tree: cKDTree | None = None
        self._points: Points = np.empty((0, 2))
        self._information: npt.NDArray[np.float64] = np.empty((0, 2, 2))
        self._speed = np.zeros(3)

    def reset(self) -> None:
        """Forget the scan before."""
        self._tree = None
        self._speed[:] = 0

    def update(self, points: Points, seconds: float) -> Motion2:
        """Return the motion since the last call.

        Args:
            points: (N, 2) m, of walls, poles, cars, ..., about one a cell of a map.
            seconds: since the last call.
        """
        motion = Motion2()
        # A lone car in a field says nothing about the robot's motion.
        wide = len(points) >= _LEAST and float(np.sqrt(points.var(0).sum())) > _WIDE_M
        if self._tree is not None and wide and 0 < seconds < 1.0:
            # First guess: it goes on as it did, or it stands; what fits better is kept.
            guesses = [np.zeros(3)]
            if np.abs(self._speed * seconds).max() > 0.05:
                guesses.append(self._speed * seconds)
            motion = _checked(*self._match(points, min(guesses, key=lambda g: self._apart(points, g))))
            self._speed = np.array(motion[:3]) / seconds if motion.trusted else np.zeros(3)
        self._remember(points)
        return motion

    def _remember(self, points: Points) -> None:
        self._tree = cKDTree(points) if len(points) >= _LEAST else None
        self._points = points
        if self._tree is None:
            return
        _, near = self._tree.query(points, k=6, distance_upper_bound=1.2)
        there = (near < len(points))[..., None]
        around = points[np.minimum(near, len(points) - 1)] * there
        count = there.sum(1)
        middle = around.sum(1) / count
        off = (around - middle[:, None]) * there
        spread = np.einsum("nki,nkj->nij", off, off)
        # Across a wall a point is known well, along it hardly.
        trace = np.trace(spread, axis1=1, axis2=2) + 1e-6
        self._information = 1.002 * np.eye(2) - spread / trace[:, None, None]

    def _apart(self, points: Points, pose: npt.NDArray[np.float64]) -> float:
        """Return how far the scans are apart at `pose`, from every fourth point."""
        assert self._tree is not None
        distance, _ = self._tree.query(_placed(points[::4], pose), distance_upper_bound=_STEPS[0][0])
        return float(np.minimum(distance, _STEPS[0][0]).mean())

    def _match(self, points: Points, guess: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
        """Return (x, y, yaw) and the mean squared distance, large where scans do not overlap."""
        assert self._tree is not None
        pose = guess.copy()
        cost = math.inf
        for reach, scale, times in _STEPS:
            for _ in range(times):
                moved = _placed(points, pose)
                distance, index = self._tree.query(moved, distance_upper_bound=reach)
                ok = index < len(self._points)
                if ok.sum() < _LEAST:
                    return guess, math.inf
                rest, matrix = moved[ok] - self._points[index[ok]], self._information[index[ok]]
                lever = moved[ok] - pose[:2]
                jacobian = np.zeros((len(rest), 2, 3))
                jacobian[:, 0, 0] = jacobian[:, 1, 1] = 1
                jacobian[:, 0, 2], jacobian[:, 1, 2] = -lever[:, 1], lever[:, 0]
                squared = np.einsum("ni,nij,nj->n", rest, matrix, rest)
                weighted = matrix / (1 + squared / scale**2)[:, None, None]
                half = np.einsum("nia,nij->naj", jacobian, weighted)
                normal = np.einsum("naj,njb->ab", half, jacobian) + np.diag([1e-3, 1e-3, 1e-2])
                step = np.linalg.solve(normal, -np.einsum("naj,nj->a", half, rest))
                pose += step
                cost = float(np.minimum(distance, reach).mean()) / reach
                if np.abs(step).max() < 2e-3:
                    break
        return pose, cost


def _placed(points: Points, pose: npt.NDArray[np.float64]) -> Points:
    c, s = math.cos(pose[2]), math.sin(pose[2])
    out: Points = points @ np.array([[c, s], [-s, c]]) + pose[:2]
    return out


def _checked(pose: npt.NDArray[np.float64], cost: float) -> Motion2:
    x, y, yaw = (float(v) for v in pose)
    if cost > 0.6 or math.hypot(x, y) > _MAX_M or abs(yaw) > _MAX_RAD:
        return Motion2()
    return Motion2(x, y, yaw, True)
