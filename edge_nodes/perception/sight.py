# SPDX-License-Identifier: Apache-2.0
"""Line of sight: which cells of a map a scan looked at, as a map of how far within its reach they lie.

A map of points does not tell what is free from what nobody looked at; rays do (Hu, Ziglar, Held and Ramanan, "What You
See is What You Get", CVPR 2020, section 3.1). Here rays are gathered by direction: a scan reaches as far as the
farthest of a direction's points that are low enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d

from edge_nodes.native import _kernels as native
from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.ground import Ground
from edge_nodes.perception.odometry import Motion2

SIGHT = 2
"""Channels of `sight_map`."""
BINS = 720
AGES = (5, 10, 15)
"""How many scans ago those came that widen what is in sight."""
ABOVE_M = 0.3
"""What is so much above the band that blocks the robot neither hides nor shows anything."""
_SPAN_M = 4.0
Reach = npt.NDArray[np.float32]


def reach(xyz: npt.NDArray[np.float32], ground: Ground, config: BevConfig) -> Reach:
    """Return how far a scan reaches in each direction.

    Args:
        xyz: (N, 3) or (N, 4) float32, m, sensor frame; points that are not finite count nowhere.
        ground: under them.
        config: height band; what is higher hides nothing and shows nothing.

    Returns:
        (BINS,) float32, m, from straight ahead to the left; 0 where nothing returned.
    """
    found = native.sight_reach(
        xyz,
        **ground.kernel,
        top=config.max_height_m + ABOVE_M,
        bins=BINS,
    )
    # A lost return does not hide what lies beside it.
    return np.asarray(maximum_filter1d(found, 3, mode="wrap"))


def sight_map(scans: Sequence[tuple[Reach, Motion2]], config: BevConfig) -> npt.NDArray[np.uint8]:
    """Return how far within reach each cell lies.

    Args:
        scans: reach of each, and the way from its place to the newest one's; the newest first.
        config: grid.

    Returns:
        (H, W, 2) uint8, of the newest scan and the most of all: 128 at the end of sight, 255 for 4 m within it.
    """
    codes: npt.NDArray[np.uint8] = native.sight_maps(
        np.stack([r for r, _ in scans]),
        poses=np.array([way[:3] for _, way in scans], np.float32),
        cells=config.cells,
        cell_m=config.resolution_m,
        steps_per_m=127 / _SPAN_M,
    )
    return codes
