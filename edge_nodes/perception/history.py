# SPDX-License-Identifier: Apache-2.0
"""The history of bird's-eye-view maps that the networks see (after arXiv 2412.18165)."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.bev import MOMENTS, SLICES, Codes, bev_map, intensity_map
from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.ego_motion import EgoMotion
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.grid import moved
from edge_nodes.perception.ground import Ground, GroundEstimator
from edge_nodes.perception.odometry import Motion2
from edge_nodes.perception.sight import AGES, SIGHT, Reach, reach, sight_map

DETAILS = MOMENTS + SIGHT
"""Channels that say more of the newest scan: `BevMap.detail`, then `sight_map`."""


class BevHistory:
    """The newest map whole and the ones before it as two channels each, kept from scan to scan.

    Args:
        config: grid, height band, history length, and how older maps follow the robot's motion.
        details: how many of the `DETAILS` channels the network wants: none, the moments, or all.
    """

    def __init__(self, config: BevConfig, *, details: int = 0) -> None:
        self.config = config
        n = config.cells
        self._older_end = SLICES + 2 * (config.history - 1)
        self._detail_from = self._older_end + 2 * (config.intensity_full > 0)
        self._input = np.zeros((n, n, self._detail_from + details), np.uint8)
        self._older: deque[tuple[npt.NDArray[np.uint16], Reach | None, Motion2]] = deque(maxlen=config.history - 1)
        self._estimator = GroundEstimator(config.range_m)
        self.ego_motion = EgoMotion(config)
        self.ground = Ground()
        self.motion = Motion2()
        self._stamp_ns: int | None = None

    @property
    def channels(self) -> int:
        """Channels of the input: 6 + 2 (history - 1), 2 more with intensity, and the details."""
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
            newest first, in this scan's frame, then `intensity_map` and the details if wanted; channels last, as the
            networks run fastest. Valid until the next call.

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
        details = self.channels - self._detail_from
        new = bev_map(xyz, self.ground, self.config, detail=details > 0)
        self._age(self.motion)
        self._input[..., :SLICES] = new.slices
        if self.config.intensity_full > 0:
            self._input[..., self._older_end : self._detail_from] = intensity_map(xyz, self.ground, self.config)
        if new.detail is not None:
            self._input[..., self._detail_from : self._detail_from + MOMENTS] = new.detail
        far = reach(xyz, self.ground, self.config) if details > MOMENTS else None
        if far is not None:
            self._input[..., -SIGHT:] = sight_map([(far, Motion2()), *self._lookouts()], self.config)
        pair = np.dstack([new.obstacle, new.slices[..., 0]]).view(np.uint16)[..., 0]
        self._older.appendleft((np.ascontiguousarray(pair), far, Motion2()))
        self._stamp_ns = stamp_ns
        return self._input

    def _lookouts(self) -> list[tuple[Reach, Motion2]]:
        """Return reach and way of the older scans that widen what is in sight."""
        chosen = [self._older[age - 1] for age in AGES if age <= len(self._older)]
        return [(far, way) for _, far, way in chosen if far is not None]

    def _age(self, motion: Motion2) -> None:
        """Write the older maps, two channels at a time as one 16-bit number, as they lie after `motion`."""
        pairs = self._input.view(np.uint16)
        for age in range(len(self._older)):
            values, far, way = self._older[age]
            way = way.then(motion)
            self._older[age] = (values, far, way)
            # Less than half a cell at the rim is no motion: standing robots' maps stay sharp.
            if math.hypot(way.x, way.y) + abs(way.yaw) * self.config.range_m > 0.5 * self.config.resolution_m:
                values = moved(values, way.x, way.y, way.yaw, self.config)
            pairs[..., SLICES // 2 + age] = values
