# SPDX-License-Identifier: Apache-2.0
"""Segmentation: what each cell of the bird's-eye-view map is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.config import SegmentationConfig
from edge_nodes.perception.inference import Estimator

# Costs of unknown, ground, wall, vehicle, person, obstacle in a nav_msgs/OccupancyGrid.
_COST = np.array([-1, 0, 100, 90, 95, 85], np.int8)


class Segments(NamedTuple):
    """Classes of one scan's map.

    Attributes:
        labels: (H, W) uint8 class id (`CLASSES`); row 0 is farthest ahead, column 0 farthest left.
        ground_m: height of the ground under the sensor in the sensor's frame.
    """

    labels: npt.NDArray[np.uint8]
    ground_m: float


class Segmenter(Estimator):
    """The segmentation network with its history of maps; see `Estimator`."""

    def __init__(self, config: SegmentationConfig, progress: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(config, progress)
        self.inference.mirrored = config.mirrored

    def configure(self, config: SegmentationConfig) -> None:  # type: ignore[override]
        """Take changed run-time parameters."""
        super().configure(config)
        self.inference.mirrored = config.mirrored

    def segment(self, xyz: npt.NDArray[np.float32], *, stamp_ns: int) -> Segments:
        """Return the classes of the map around the sensor after one more scan.

        Args:
            xyz: (N, 3) float32, m, sensor frame.
            stamp_ns: of the scan.
        """
        scores = self.inference.run(xyz, stamp_ns)
        labels = scores.argmax(0).to("cpu").numpy().astype(np.uint8)
        return Segments(labels, self.inference.history.ground.offset_m)


def occupancy_grid(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Return labels (H, W) as the (H, W) data of a nav_msgs/OccupancyGrid: row along +y, column along +x.

    Unknown is -1, ground 0; obstacle, vehicle, person, wall are 85, 90, 95, 100.
    """
    return np.ascontiguousarray(_COST[labels[::-1, ::-1].T])
