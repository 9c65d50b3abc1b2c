# SPDX-License-Identifier: Apache-2.0
"""Clouds to bird's-eye-view maps (after arXiv 2412.18165).

Instead of the paper's binary maps, a map counts the points of each cell in slices of height above the ground, and may
say where in the cell they lie, by their moments in the ground plane as in normal distributions transform maps (Biber
and Strasser, "The Normal Distributions Transform", IROS 2003, section 3). Row 0 is farthest ahead (+x), column 0
farthest left (+y); the sensor is at the corner of the four middle cells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.native import _kernels as native
from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.grid import cell_index
from edge_nodes.perception.ground import Ground

Codes = npt.NDArray[np.uint8]
SLICES = 6
"""Ground, four slices of the band that blocks the robot, overhead."""
MOMENTS = 6
"""Channels of `BevMap.detail`."""
_BOTTOM_M, _TOP_M, _STEP_M = -1.0, 4.0, 0.05
_STEPS = round((_TOP_M - _BOTTOM_M) / _STEP_M)
_FULL = 63
# Counts as codes: 255 log(1 + n) / log(1 + 63).
_CODE = np.round(255 * np.log1p(np.arange(_FULL + 1)) / np.log1p(_FULL)).astype(np.uint8)


class BevMap(NamedTuple):
    """One scan seen from above.

    Attributes:
        slices: (H, W, 6) uint8 logarithmic point counts: below `min_height_m`, four slices up to `max_height_m`,
            above it.
        obstacle: (H, W) uint8, the count of the four middle slices together.
        detail: (H, W, 6) uint8, first and second moments of the points that `obstacle` counts: mean offset from the
            cell's middle along rows, the same along columns, and the signed root of their covariance, with 128 for 0
            and 1 and 255 for half a cell; standard deviation along rows and along columns, 255 for half a cell;
            greatest height, 255 for `max_height_m`. Empty cells have 128, 128, 128, 0, 0, 0. None if not asked for.
    """

    slices: Codes
    obstacle: Codes
    detail: Codes | None


def slice_edges(config: BevConfig) -> npt.NDArray[np.float64]:
    """Return the five heights (m above ground) between the six slices."""
    low, high = config.min_height_m, config.max_height_m
    return low + (high - low) * np.array([0.0, 0.12, 0.32, 0.61, 1.0])


def bev_map(xyz: npt.NDArray[np.float32], ground: Ground, config: BevConfig, *, detail: bool = False) -> BevMap:
    """Return the map of a cloud; points that are not finite count nowhere.

    Args:
        xyz: (N, 3) or (N, 4) float32, m, sensor frame.
        ground: its ground.
        config: grid and height band.
        detail: whether the moments are wanted.
    """
    slices, obstacle, moments = native.bev_maps(
        xyz,
        cells=config.cells,
        cells_per_m=1 / config.resolution_m,
        **ground.kernel,
        bottom=_BOTTOM_M,
        steps_per_m=1 / _STEP_M,
        slice=slice_of_step(config),
        reach=_reach_of_step(config),
        code=_CODE,
        detail=detail,
    )
    return BevMap(slices, obstacle, moments)


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


def slice_of_step(config: BevConfig) -> Codes:
    """Return the slice that each step of `_STEP_M` above `_BOTTOM_M` lies in."""
    middle = _BOTTOM_M + (np.arange(_STEPS) + 0.5) * _STEP_M
    return np.searchsorted(slice_edges(config), middle).astype(np.uint8)


def _reach_of_step(config: BevConfig) -> Codes:
    """Return the code of each step's upper end, 255 for `max_height_m`."""
    upper = _BOTTOM_M + (np.arange(_STEPS) + 1) * _STEP_M
    return np.clip(np.round(upper * (255 / config.max_height_m)), 0, 255).astype(np.uint8)
