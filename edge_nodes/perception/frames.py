# SPDX-License-Identifier: Apache-2.0
"""Packed real clouds, with boxes or a class for each point where somebody labelled them.

A pack is an .npz: `xyz_delta_lo`, `xyz_delta_hi` (3, N) uint8, low and high byte of the differences of successive
points in units of `resolution_m`; `intensity` (N,); `offsets` (F + 1,), where each frame starts; maybe `boxes`
(M, 9): frame, kind, x, y, z of the middle, length, width, height, yaw; maybe `semantic` and `instance` (N,).
"""

from __future__ import annotations

import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.errors import PerceptionError

CAR, PEDESTRIAN = 0, 3
VEHICLE_BOXES = (0, 1, 2, 6)
"""Car, van, truck, tram."""
_NEEDED = ("xyz_delta_lo", "xyz_delta_hi", "resolution_m", "offsets")


class Frame(NamedTuple):
    """One cloud and its labels; None for what nobody labelled.

    Attributes:
        xyz: (N, 3) float32, m, sensor frame.
        boxes: (M, 8) float32: kind, x, y, z, length, width, height (m), yaw (rad).
        semantic: (N,) SemanticKITTI class ids.
        instance: (N,) which thing of its class.
    """

    xyz: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32] | None
    semantic: npt.NDArray[np.integer[Any]] | None
    instance: npt.NDArray[np.integer[Any]] | None


def read_frames(path: Path) -> list[Frame]:
    """Return the frames of a pack.

    Raises:
        PerceptionError: there is no such file, or it is no pack.
    """
    if not path.is_file():
        raise PerceptionError("there is no such pack", got=path, expected="an .npz of packed clouds")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "meta"}
        return _frames(arrays)
    except (ValueError, KeyError, IndexError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise PerceptionError(
            f"{path} is no pack of clouds", got=str(error)[:200], expected="the arrays " + ", ".join(_NEEDED)
        ) from None


def _frames(arrays: dict[str, npt.NDArray[Any]]) -> list[Frame]:
    low, high, resolution, offsets = (arrays[name] for name in _NEEDED)
    if low.ndim != 2 or low.shape[0] != 3 or low.shape != high.shape or offsets[-1] != low.shape[1]:
        raise ValueError(f"shapes {low.shape}, {high.shape}, last offset {offsets[-1]}")
    steps = low.astype(np.uint16) | (high.astype(np.uint16) << 8)
    # The sums wrap around as the differences did.
    ticks = np.cumsum(steps, axis=1, dtype=np.uint16).view(np.int16)
    xyz = np.ascontiguousarray(ticks.T, np.float32) * np.float32(resolution)
    boxes, semantic, instance = (arrays.get(name) for name in ("boxes", "semantic", "instance"))
    found = []
    for i, (begin, end) in enumerate(pairwise(offsets)):
        there = np.linalg.norm(xyz[begin:end], axis=1) > 1e-3
        found.append(
            Frame(
                xyz[begin:end][there],
                None if boxes is None else boxes[boxes[:, 0].astype(int) == i, 1:].astype(np.float32),
                None if semantic is None else semantic[begin:end][there],
                None if instance is None else instance[begin:end][there],
            )
        )
    return found
