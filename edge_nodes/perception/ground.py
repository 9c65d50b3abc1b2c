# SPDX-License-Identifier: Apache-2.0
"""Height of the ground under a scan: a plane, and how the ground departs from it patch by patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Array = npt.NDArray[np.float32]
PATCH_M = 2.0
_SAMPLE = 30_000
_MAX_SLOPE = 0.25
# The lowest of many noisy points of a patch lies below the ground.
_BIAS_M = 0.03
# A plane so much higher or lower than the one before is something else, the ground being hidden, unless it is found
# in so many scans in a row.
_JUMP_M, _AGAIN = 0.3, 30


@dataclass(frozen=True)
class Ground:
    """z = slope_x x + slope_y y + offset_m + patches, in the sensor's frame.

    Attributes:
        slope_x, slope_y: of the plane.
        offset_m: height of the plane under the sensor, normally negative.
        patches: (n, n) float32 departures from the plane on a square of n patches of `PATCH_M` around the sensor,
            row along x, column along y, both growing; None for none.
    """

    slope_x: float = 0.0
    slope_y: float = 0.0
    offset_m: float = 0.0
    patches: Array | None = None

    @property
    def kernel(self) -> dict[str, Any]:
        """Itself as arguments of the C++ kernels."""
        plane = (self.offset_m, self.slope_x, self.slope_y)
        return {"plane": plane, "patches": self.patches, "patches_per_m": 1 / PATCH_M}

    def height_of(self, xyz: Array) -> Array:
        """Return the height above the ground of points (N, 3), float32 (N,)."""
        height = xyz[:, 2] - np.float32(self.offset_m)
        height -= np.float32(self.slope_x) * xyz[:, 0]
        height -= np.float32(self.slope_y) * xyz[:, 1]
        if self.patches is not None:
            height -= self.patches.ravel()[_patch_index(xyz, len(self.patches))]
        return height


def _patch_index(xyz: Array, n: int) -> npt.NDArray[np.int32]:
    half = np.float32(n / 2)
    scale = np.float32(1 / PATCH_M)
    row: npt.NDArray[np.int32] = np.clip(xyz[:, 0] * scale + half, 0, n - 1).astype(np.int32)
    row *= n
    row += np.clip(xyz[:, 1] * scale + half, 0, n - 1).astype(np.int32)
    return row


class GroundEstimator:
    """Finds the ground in each scan and follows it from scan to scan.

    Args:
        range_m: half the side of the square that patches cover.
        smoothing: weight of the newest plane.
    """

    def __init__(self, range_m: float, *, smoothing: float = 0.3) -> None:
        self._n = 2 * max(1, int(np.ceil(range_m / PATCH_M)))
        self._smoothing = smoothing
        self._plane: npt.NDArray[np.float64] | None = None
        self._elsewhere = 0

    def reset(self) -> None:
        """Forget the ground of the scans so far."""
        self._plane, self._elsewhere = None, 0

    def estimate(self, xyz: Array) -> Ground:
        """Return the ground under `xyz` (N, 3).

        The lowest point of each patch is a candidate; the plane goes through the lowest height at which many
        candidates agree (trimmed least squares); patches near the plane may then depart from it, smoothly.
        """
        points = xyz[:: max(1, len(xyz) // _SAMPLE)]
        index = _patch_index(points, self._n)
        low = np.full(self._n * self._n, np.inf, np.float32)
        np.minimum.at(low, index, points[:, 2])
        x, y = np.zeros(low.size), np.zeros(low.size)
        lowest = points[:, 2] == low[index]
        x[index[lowest]], y[index[lowest]] = points[lowest, 0], points[lowest, 1]
        # The outermost patches also hold all that lies beyond them.
        inside = np.maximum(np.abs(x), np.abs(y)) < self._n / 2 * PATCH_M
        used = np.isfinite(low) & inside
        plane = self._plane = self._followed(_fit(x[used], y[used], low[used].astype(float)))
        return Ground(float(plane[0]), float(plane[1]), float(plane[2]), self._departures(low, used, x, y, plane))

    def _followed(self, found: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        """Return the plane of all scans so far after one more has been `found`."""
        before = self._plane
        if before is None or found is None:
            return next((plane for plane in (before, found) if plane is not None), np.array([0.0, 0.0, -1.0]))
        self._elsewhere = self._elsewhere + 1 if abs(found[2] - before[2]) > _JUMP_M else 0
        if self._elsewhere == 0:
            return before + self._smoothing * (found - before)
        if self._elsewhere < _AGAIN:
            return before
        self._elsewhere = 0
        return found

    def _departures(
        self,
        low: Array,
        used: npt.NDArray[np.bool_],
        x: npt.NDArray[np.float64],
        y: npt.NDArray[np.float64],
        plane: npt.NDArray[np.float64],
    ) -> Array:
        rest = np.where(used, low, 0.0) - (plane[0] * x + plane[1] * y + plane[2])
        limit = 0.12 + 0.025 * np.hypot(x, y)
        near = (used & (np.abs(rest) < limit)).astype(float).reshape(self._n, self._n)
        value = gaussian_filter(near * rest.reshape(self._n, self._n), 1.0, mode="constant")
        weight = gaussian_filter(near, 1.0, mode="constant")
        out: Array = (value / (weight + 0.05) + _BIAS_M).astype(np.float32)
        return out


def _fit(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], z: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Return (slope_x, slope_y, offset) of the lowest well-supported plane, None if there is too little."""
    if len(z) < 6:
        return None
    near = np.exp(-np.hypot(x, y) / 15.0)
    bins = np.arange(-5.0, 3.0, 0.1)
    votes, _ = np.histogram(z, bins, weights=near)
    votes = np.convolve(votes, [1, 2, 1], "same")
    if votes.max() <= 0:
        return None
    level = bins[np.flatnonzero(votes >= 0.35 * votes.max())[0]] + 0.05
    plane = np.array([0.0, 0.0, level])
    columns = np.column_stack([x, y, np.ones_like(x)])
    for tolerance in (0.5, 0.3, 0.2, 0.15):
        rest = z - columns @ plane
        # Far off, a small slope makes a large difference: allow it while the slope is not known yet.
        ok = np.abs(rest) < tolerance + 0.03 * np.hypot(x, y) * (tolerance / 0.5)
        if ok.sum() < 6:
            break
        weight = near[ok, None]
        # A weak pull towards level ground keeps one-sided views from tilting it.
        normal = columns[ok].T @ (weight * columns[ok]) + np.diag([2.0, 2.0, 0.0])
        plane = np.linalg.solve(normal, columns[ok].T @ (weight[:, 0] * z[ok]))
        plane[:2] = np.clip(plane[:2], -_MAX_SLOPE, _MAX_SLOPE)
    return plane
