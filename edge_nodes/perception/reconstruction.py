# SPDX-License-Identifier: Apache-2.0
"""Reconstruction: which cells are occupied, without the scan's gaps, now and half a second ahead."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.inference import Estimator

HORIZON_S = 0.5


class Occupancy(NamedTuple):
    """Probabilities that something stands in each cell, in the robot's height band.

    Attributes:
        now: (H, W) float32, 0..1; row 0 is farthest ahead, column 0 farthest left.
        ahead: the same `HORIZON_S` later, in the sensor's present frame.
    """

    now: npt.NDArray[np.float32]
    ahead: npt.NDArray[np.float32]


class Reconstructor(Estimator):
    """The reconstruction network with its history of maps; see `Estimator`."""

    def reconstruct(self, xyz: npt.NDArray[np.float32], *, stamp_ns: int) -> Occupancy:
        """Return the occupancy around the sensor after one more scan.

        Args:
            xyz: (N, 3) float32, m, sensor frame.
            stamp_ns: of the scan.
        """
        now, ahead = self.inference.run(xyz, stamp_ns).sigmoid().to("cpu").contiguous().numpy()
        return Occupancy(now, ahead)
