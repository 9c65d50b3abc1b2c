# SPDX-License-Identifier: Apache-2.0
"""Clouds to bird's-eye-view maps, and the history of maps the networks see (after arXiv 2412.18165).

Instead of the paper's binary maps, a map counts the points of each cell in slices of height above the ground. Row 0
is farthest ahead (+x), column 0 farthest left (+y); the sensor is at the corner of the four middle cells.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.ego_motion import EgoMotion
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.grid import cell_index, moved
from edge_nodes.perception.ground import Ground, GroundEstimator
from edge_nodes.perception.odometry import Motion2

Codes = npt.NDArray[np.uint8]
SLICES = 6
"""Ground, four slices of the band that blocks the robot, overhead."""
_BOTTOM_M, _TOP_M, _STEP_M = -1.0, 4.0, 0.05
_FULL = 63
# Counts as codes: 255 log(1 + n) / log(1 + 63).
_CODE = np.round(255 * np.log1p(np.arange(_FULL + 1)) / np.log1p(_FULL)).astype(np.uint8)


class BevMap(NamedTuple):
    """One scan seen from above.

    Attributes:
        slices: (H, W, 6) uint8 logarithmic point counts: below `min_height_m`, four slices up to `max_height_m`,
            above it.
        obstacle: (H, W) uint8, the count of the four middle slices together.
    """

    slices: Codes
    obstacle: Codes


def slice_edges(config: BevConfig) -> npt.NDArray[np.float64]:
    """Return the five heights (m above ground) between the six slices."""
    low, high = config.min_height_m, config.max_height_m
    return low + (high - low) * np.array([0.0, 0.12, 0.32, 0.61, 1.0])


def bev_map(xyz: npt.NDArray[np.float32], ground: Ground, config: BevConfig) -> BevMap:
    """Return the map of a cloud.

    Args:
        xyz: (N, 3) float32, m, sensor frame.
        ground: its ground.
        config: grid and height band.
    """
    n = config.cells
    area = n * n
    index = cell_index(xyz, config)
    height = ground.height_of(xyz)
    height -= np.float32(_BOTTOM_M)
    height *= np.float32(1 / _STEP_M)
    steps = round((_TOP_M - _BOTTOM_M) / _STEP_M)
    np.clip(height, -1, steps, out=height)
    offset = _slice_table(config, area)[np.floor(height).astype(np.int32)]
    index *= SLICES
    offset += index
    # Off the map or outside all slices: the last bin.
    counts = np.bincount(np.minimum(offset, SLICES * area), minlength=SLICES * area + 1)[:-1]
    np.minimum(counts, _FULL, out=counts)
    counts = counts.reshape(n, n, SLICES)
    obstacle = counts[..., 1] + counts[..., 2] + counts[..., 3] + counts[..., 4]
    np.minimum(obstacle, _FULL, out=obstacle)
    return BevMap(_CODE[counts], _CODE[obstacle])


def intensity_map(points: npt.NDArray[np.float32], ground: Ground, config: BevConfig) -> Codes:
    """Return the mean intensity in each cell, of the ground's points and of those in the band that blocks the robot.

    Args:
        points: (N, 4) float32, m and the sensor's unit of intensity.
        ground: under them.
        config: grid, height band and `intensity_full`, which becomes 255.

    Returns:
        (H, W, 2) uint8.
    """
    n = config.cells
    height = ground.height_of(points)
    bins = 2 * cell_index(points, config) + (height >= config.min_height_m)
    within = (height >= _BOTTOM_M) & (height < config.max_height_m) & np.isfinite(points[:, 3])
    bins = np.minimum(bins[within], 2 * n * n)
    count = np.bincount(bins, minlength=2 * n * n + 1)[:-1]
    total = np.bincount(bins, points[within, 3], 2 * n * n + 1)[:-1]
    mean = total / np.maximum(count, 1) * (255 / config.intensity_full)
    return np.clip(np.round(mean), 0, 255).astype(np.uint8).reshape(n, n, 2)


def _slice_table(config: BevConfig, area: int) -> npt.NDArray[np.int32]:
    """Return the slice that each height step lies in; the last two entries are no slice."""
    steps = round((_TOP_M - _BOTTOM_M) / _STEP_M)
    middle = _BOTTOM_M + (np.arange(steps) + 0.5) * _STEP_M
    table = np.searchsorted(slice_edges(config), middle).astype(np.int32)
    # Index `steps` is too high, -1 (the last entry) too low.
    return np.concatenate([table, np.full(2, SLICES * area, np.int32)])


class BevHistory:
    """The newest map whole and the ones before it as two channels each, kept from scan to scan.

    Args:
        config: grid, height band, history length, and how older maps follow the robot's motion.
    """

    def __init__(self, config: BevConfig) -> None:
        self.config = config
        n = config.cells
        self._older_end = SLICES + 2 * (config.history - 1)
        self._input = np.zeros((n, n, self._older_end + 2 * (config.intensity_full > 0)), np.uint8)
        self._older: deque[tuple[npt.NDArray[np.uint16], Motion2]] = deque(maxlen=config.history - 1)
        self._estimator = GroundEstimator(config.range_m)
        self.ego_motion = EgoMotion(config)
        self.ground = Ground()
        self.motion = Motion2()
        self._stamp_ns: int | None = None

    @property
    def channels(self) -> int:
        """Channels of the input: 6 + 2 (history - 1), and 2 more with intensity."""
        return int(self._input.shape[2])

    def configure(self, config: BevConfig) -> None:
        """Take changed run-time parameters."""
        self.config = self.ego_motion.config = config

    def reset(self) -> None:
        """Start with empty maps, as after a gap in the stream."""
        self._input[:] = 0
        self._older.clear()
        self._estimator.reset()
        self.ego_motion.reset()
        self._stamp_ns = None

    def push(self, xyz: npt.NDArray[np.float32], stamp_ns: int) -> Codes:
        """Add a scan and return the networks' input.

        Args:
            xyz: (N, 3) float32, m, sensor frame; with `intensity_full` (N, 4), the intensity last.
            stamp_ns: its stamp; one that lies back in time or far ahead starts the history anew.

        Returns:
            (H, W, channels) uint8: the six slices of this scan, then obstacle and ground count of each older one,
            newest first, in this scan's frame, then `intensity_map` if wanted; channels last, as the networks run
            fastest. Valid until the next call.

        Raises:
            PerceptionError: the intensity is wanted and not there; see also `EgoMotion.update`.
        """
        if self.config.intensity_full > 0 and xyz.shape[1] < 4:
            raise PerceptionError(
                "the scan has no intensity",
                got=f"{xyz.shape[1]} columns",
                expected="x, y, z, intensity",
                remedy="Set bev.intensity_full: 0 for a network that does without.",
            )
        gap = 0 if self._stamp_ns is None else stamp_ns - self._stamp_ns
        if gap < 0 or gap > self.config.max_gap_s * 1e9:
            self.reset()
        if self.config.sensor_height_m > 0:
            self.ground = Ground(offset_m=-self.config.sensor_height_m)
        else:
            self.ground = self._estimator.estimate(xyz)
        self.motion = self.ego_motion.update(xyz, self.ground, stamp_ns=stamp_ns, gap_s=gap / 1e9)
        new = bev_map(xyz, self.ground, self.config)
        self._age(self.motion)
        self._input[..., :SLICES] = new.slices
        if self.config.intensity_full > 0:
            self._input[..., self._older_end :] = intensity_map(xyz, self.ground, self.config)
        pair = np.dstack([new.obstacle, new.slices[..., 0]]).view(np.uint16)[..., 0]
        self._older.appendleft((np.ascontiguousarray(pair), Motion2()))
        self._stamp_ns = stamp_ns
        return self._input

    def _age(self, motion: Motion2) -> None:
        """Write the older maps, two channels at a time as one 16-bit number, as they lie after `motion`."""
        pairs = self._input.view(np.uint16)
        for age in range(len(self._older)):
            values, way = self._older[age]
            way = way.then(motion)
            self._older[age] = (values, way)
            # Less than half a cell at the rim is no motion: standing robots' maps stay sharp.
            if math.hypot(way.x, way.y) + abs(way.yaw) * self.config.range_m > 0.5 * self.config.resolution_m:
                values = moved(values, way.x, way.y, way.yaw, self.config)
            pairs[..., SLICES // 2 + age] = values
