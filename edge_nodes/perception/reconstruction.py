# SPDX-License-Identifier: Apache-2.0
"""Reconstruction: which cells are occupied, without the scan's gaps, now and half a second ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.config import ReconstructionConfig
from edge_nodes.perception.inference import Inference

HORIZON_S = 0.5


class Occupancy(NamedTuple):
    """Probabilities that something stands in each cell, in the robot's height band.

    Attributes:
        now: (H, W) float32, 0..1; row 0 is farthest ahead, column 0 farthest left.
        ahead: the same `HORIZON_S` later, in the sensor's present frame.
    """

    now: npt.NDArray[np.float32]
    ahead: npt.NDArray[np.float32]


class Reconstructor:
    """The reconstruction network with its history of maps.

    Args:
        config: model, device, maps.
        progress: told what loading does, one line a step.

    Raises:
        ModelError, PerceptionError: see `Inference`.
    """

    def __init__(self, config: ReconstructionConfig, progress: Callable[[str], None] = lambda _: None) -> None:
        self.inference = Inference(
            config.model,
            config.bev,
            device=config.device,
            threads=config.threads,
            precision=config.precision,
            progress=progress,
        )

    def reconstruct(self, xyz: npt.NDArray[np.float32], *, stamp_ns: int) -> Occupancy:
        """Return the occupancy around the sensor after one more scan.

        Args:
            xyz: (N, 3) float32, m, sensor frame.
            stamp_ns: of the scan.
        """
        now, ahead = self.inference.run(xyz, stamp_ns).sigmoid().to("cpu").contiguous().numpy()
        return Occupancy(now, ahead)

    def configure(self, config: ReconstructionConfig) -> None:
        """Take changed run-time parameters."""
        self.inference.history.configure(config.bev)
