# SPDX-License-Identifier: Apache-2.0
"""Where points lie on the map, and where a map lies after the robot has moved."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from edge_nodes.perception.config import BevConfig

_Number = TypeVar("_Number", np.uint8, np.uint16)


def cell_index(xyz: npt.NDArray[np.float32], config: BevConfig) -> npt.NDArray[np.int32]:
    """Return row * cells + column of each point (N, 3), cells * cells for points off the map."""
    n, scale = config.cells, np.float32(1.0 / config.resolution_m)
    middle = np.float32(n / 2)
    row = middle - xyz[:, 0] * scale
    column = middle - xyz[:, 1] * scale
    inside = (row >= 0) & (row < n) & (column >= 0) & (column < n)
    row[~inside] = 0
    column[~inside] = 0
    # int32 arithmetic would round halves of large floats: truncate each on its own.
    index = row.astype(np.int32) * np.int32(n) + column.astype(np.int32)
    index[~inside] = n * n
    return index


def metres(index: npt.NDArray[Any], config: BevConfig) -> npt.NDArray[np.float64]:
    """Return how far ahead of the sensor the middles of rows lie, or how far to the left those of columns, m."""
    place: npt.NDArray[np.float64] = (config.cells / 2 - index - 0.5) * config.resolution_m
    return place


def moved(values: npt.NDArray[_Number], x: float, y: float, yaw: float, config: BevConfig) -> npt.NDArray[_Number]:
    """Return an older map as it lies around the sensor now, by the nearest cell; 0 where it did not reach.

    Args:
        values: (H, W) or (H, W, C) uint8 or uint16.
        x: of the sensor's present place in the older map's frame, m.
        y: the same to the left, m.
        yaw: of its present heading there, rad.
        config: grid.
    """
    c, s, middle, res = math.cos(yaw), math.sin(yaw), config.cells / 2 - 0.5, config.resolution_m
    # From a present (column, row) to the older one; both grow against y and x.
    back = np.array([[c, s, middle * (1 - s - c) - y / res], [-s, c, middle * (1 - c + s) - x / res]])
    size = (config.cells, config.cells)
    out = cv2.warpAffine(values, back, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return np.asarray(out, values.dtype)
