# SPDX-License-Identifier: Apache-2.0
"""Segmentation: what each cell of the bird's-eye-view map is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from edge_nodes.perception.clusters import VEHICLE, small_islands
from edge_nodes.perception.config import SegmentationConfig
from edge_nodes.perception.inference import Estimator

# Costs of unknown, ground, wall, vehicle, person, obstacle in a nav_msgs/OccupancyGrid.
_COST = np.array([-1, 0, 100, 90, 95, 85], np.int8)
# A fifth of a small car.
_SPECK_M2 = 1.0


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
        history = self.inference.history
        return Segments(class_ids(scores, history.config.resolution_m), history.ground.offset_m)


def class_ids(scores: torch.Tensor, resolution_m: float) -> npt.NDArray[np.uint8]:
    """Return the likeliest class of each cell, (H, W) uint8.

    What is connected, called a vehicle and smaller than one takes the class that comes second: such specks are corners
    of hedges and walls.

    Args:
        scores: (classes, H, W), on any device.
        resolution_m: side of a cell.
    """
    labels: npt.NDArray[np.uint8] = scores.argmax(0).to("cpu").numpy().astype(np.uint8)
    specks = small_islands(labels == VEHICLE, _SPECK_M2 / resolution_m**2)
    if specks.any():
        others = scores.cpu()[:, torch.from_numpy(specks)]
        others[VEHICLE] = -torch.inf
        labels[specks] = others.argmax(0).numpy()
    return labels


def occupancy_grid(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Return labels (H, W) as the (H, W) data of a nav_msgs/OccupancyGrid: row along +y, column along +x.

    Unknown is -1, ground 0; obstacle, vehicle, person, wall are 85, 90, 95, 100.
    """
    return np.ascontiguousarray(_COST[labels[::-1, ::-1].T])
