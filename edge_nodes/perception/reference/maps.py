# SPDX-License-Identifier: Apache-2.0
"""The published network's maps: binary, seen from above, in the cloud's own frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_nodes.perception.errors import PerceptionError

RESOLUTION_M = 0.2
SIZE = 1000
HISTORY = 16
"""Maps the networks see, oldest first."""
_LEVELS = 50
"""Height levels, each as high as a cell is wide, half of them below the frame's origin."""


def bev(points: npt.ArrayLike, resolution: float = RESOLUTION_M, size: int = SIZE) -> npt.NDArray[np.float32]:
    """Return the published binary map of one cloud.

    A cell is 1 where a point lies above the frame's origin and no higher than 25 cells' width (0 < z < 5 m), so that
    nothing at or below the origin ever shows.

    Args:
        points: (N, 3 or more), m; x, y, z come first. NaN and infinite points are left out.
        resolution: side of a cell, m.
        size: cells along a side.

    Returns:
        (size, size) float32, 0 or 1. The row grows with x, the column with y; the origin is the lower corner of cell
        (size / 2, size / 2).

    Raises:
        PerceptionError: no such list of points, or no such map.
    """
    xyz = np.asarray(points)
    if xyz.ndim != 2 or xyz.shape[1] < 3 or not np.issubdtype(xyz.dtype, np.number):
        raise PerceptionError("not a list of points", got=f"{xyz.dtype} {xyz.shape}", expected="(N, 3 or more) numbers")
    if not (np.isfinite(resolution) and resolution > 0) or size < 1:
        raise PerceptionError("not a map", got=f"{size} cells of {resolution} m", expected="1 or more of more than 0 m")
    # In float32 and by division, as published: else points on a border change cells.
    cell = np.float32(resolution)
    with np.errstate(over="ignore", invalid="ignore"):
        x, y, z = (xyz[:, axis].astype(np.float32) for axis in range(3))
        row, column = (np.floor(values / cell + np.float32(size / 2)) for values in (x, y))
        kept = (z > 0) & (z / cell + np.float32(_LEVELS / 2) < _LEVELS)
        kept &= (row >= 0) & (row < size) & (column >= 0) & (column < size)
    out = np.zeros((size, size), np.float32)
    out[row[kept].astype(np.intp), column[kept].astype(np.intp)] = 1
    return out


class MapHistory:
    """The newest 16 maps on the network's device; only the newest is computed and copied there.

    Args:
        size: cells along a side.
        resolution: side of a cell, m.
        device: torch's name of the device.
    """

    def __init__(self, size: int = SIZE, resolution: float = RESOLUTION_M, *, device: str = "cpu") -> None:
        self.size, self.resolution = size, resolution
        self.maps = torch.zeros(1, HISTORY, size, size, dtype=torch.uint8, device=device)

    def reset(self) -> None:
        """Start with empty maps."""
        self.maps = torch.zeros_like(self.maps)

    def push(self, points: npt.ArrayLike) -> Tensor:
        """Add a scan (N, 3 or more), m; return the maps, (1, 16, size, size) uint8, oldest first.

        Raises:
            PerceptionError: no such list of points; the maps stay as they were.
        """
        newest = torch.from_numpy(bev(points, self.resolution, self.size).astype(np.uint8))
        self.maps = torch.cat([self.maps[:, 1:], newest.to(self.maps.device)[None, None]], 1)
        return self.maps
