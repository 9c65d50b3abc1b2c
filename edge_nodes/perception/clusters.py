# SPDX-License-Identifier: Apache-2.0
"""Maps and points to things: connected cells of a class, with a box around each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edge_nodes.perception.config import CLASSES, SceneConfig
from edge_nodes.perception.grid import cell_index, metres
from edge_nodes.perception.ground import Ground

WALL, VEHICLE, PERSON, OBSTACLE = (CLASSES.index(c) for c in ("wall", "vehicle", "person", "obstacle"))
_NEIGHBOURS = np.ones((3, 3), int)
_ANGLES = np.radians(np.arange(0, 90, 5))
_SMALL_M, _LORRY_M = 1.3, 12.0
# Half of a small car (3.5 m by 1.6 m), m^2: on simulated scenes, where precision times recall is about best.
_VEHICLE_AREA = 2.8
# Votes of a cell for its class within a thing: a third of a person makes it one.
_VOTE = {VEHICLE: 1.0, PERSON: 2.2, OBSTACLE: 1.0}


@dataclass(frozen=True)
class Detection:
    """A thing in one scan, in the sensor's frame.

    Attributes:
        label: class id.
        x, y: middle of its box, m.
        z: of its foot, m.
        length, width, height: of its box, m; length >= width.
        yaw: of the length, rad, -pi/2..pi/2.
        near_m: distance of its nearest cell.
        confidence: mean probability of occupancy, 0..1.
        points: that hit it.
    """

    label: int
    x: float
    y: float
    z: float
    length: float
    width: float
    height: float
    yaw: float
    near_m: float
    confidence: float
    points: int


def sized_vehicles(labels: npt.NDArray[np.uint8], resolution_m: float) -> npt.NDArray[np.uint8]:
    """Return labels (H, W) in which vehicles of impossible size are other obstacles.

    Networks call the odd patch of a hedge or a wall a vehicle. What is connected and smaller than half a small car is
    none.

    Args:
        labels: (H, W) class ids.
        resolution_m: side of a cell.
    """
    return np.where(small_islands(labels == VEHICLE, _VEHICLE_AREA / resolution_m**2), np.uint8(OBSTACLE), labels)


def small_islands(mask: npt.NDArray[np.bool_], cells: float) -> npt.NDArray[np.bool_]:
    """Return where a mask (H, W) has connected islands, corners included, of fewer than some cells."""
    islands, count = ndimage.label(mask, _NEIGHBOURS)
    small = np.bincount(islands.ravel(), minlength=count + 1) < cells
    small[0] = False
    return np.asarray(small[islands])


def detect(
    labels: npt.NDArray[np.uint8],
    occupancy: npt.NDArray[np.float32],
    xyz: npt.NDArray[np.float32],
    ground: Ground,
    config: SceneConfig,
) -> list[Detection]:
    """Return vehicles, persons and other obstacles, nearest first.

    Args:
        labels: (H, W) class ids.
        occupancy: (H, W) probability now.
        xyz: (N, 3) float32 points of the same stamp, m.
        ground: under them.
        config: limits.
    """
    labels = sized_vehicles(labels, config.bev.resolution_m)
    groups = _groups(labels, occupancy, config)
    count = int(groups.max())
    if not count:
        return []
    of_point = np.append(groups.ravel(), 0)[cell_index(xyz, config.bev)]
    hit = np.flatnonzero(of_point)
    height = ground.height_of(xyz[hit])
    inside = (height > config.bev.min_height_m) & (height < 4.0)
    of_point, height, z = of_point[hit][inside], height[inside], xyz[hit, 2][inside]
    points = np.bincount(of_point, minlength=count + 1)
    # Above a head there is nothing up to the ceiling; a pole goes on.
    above = np.bincount(of_point[(height > 2.0) & (height < 2.4)], minlength=count + 1)
    top, foot = np.zeros(count + 1, np.float32), np.full(count + 1, np.inf, np.float32)
    np.maximum.at(top, of_point, height)
    np.minimum.at(foot, of_point, z - height)
    found = []
    for group, window in enumerate(ndimage.find_objects(groups), start=1):
        if window is None or points[group] < config.min_points:
            continue
        rows, columns = np.nonzero(groups[window] == group)
        rows, columns = rows + window[0].start, columns + window[1].start
        sizes = (float(top[group]), float(foot[group]), int(points[group]), int(above[group]))
        found.append(_detection(rows, columns, labels, occupancy, sizes, config))
    return sorted(found, key=lambda d: d.near_m)


def _groups(
    labels: npt.NDArray[np.uint8], occupancy: npt.NDArray[np.float32], config: SceneConfig
) -> npt.NDArray[np.int32]:
    """Return connected cells, (H, W), numbered from 1.

    A small island of any classes is one thing; a large one falls apart into its own things, and what is left of less
    than a person's size belongs to none.
    """
    solid = (labels >= VEHICLE) & (occupancy >= 0.5 * config.occupied)
    axis = np.abs(np.arange(config.bev.cells) - (config.bev.cells - 1) / 2) * config.bev.resolution_m
    solid &= axis[:, None] ** 2 + axis[None] ** 2 > config.robot_radius_m**2
    islands, _ = ndimage.label(solid, _NEIGHBOURS)
    out = np.zeros(labels.shape, np.int32)
    number = 0
    for island, window in enumerate(ndimage.find_objects(islands), start=1):
        mine = islands[window] == island
        if mine.sum() < config.min_cells:
            continue
        for cells in _things(mine, labels[window], config):
            number += 1
            out[window][cells] = number
    return out


def _things(
    island: npt.NDArray[np.bool_], labels: npt.NDArray[np.uint8], config: SceneConfig
) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield the cells of each thing of an island: persons apart, cars with the clutter labels in them."""
    if max(island.shape) * config.bev.resolution_m <= _SMALL_M or len(np.unique(labels[island])) == 1:
        yield island
        return
    yield from _parts(island & (labels == PERSON), 2, config)
    for rest in _parts(island & (labels != PERSON), 4, config):
        length = max(rest.any(0).sum(), rest.any(1).sum()) * config.bev.resolution_m
        share = float((labels[rest] == VEHICLE).mean())
        if length <= _LORRY_M and not 0.15 < share < 0.4:
            yield rest
        else:
            yield from _parts(rest & (labels == VEHICLE), 6, config)
            yield from _parts(rest & (labels == OBSTACLE), 4, config)


def _parts(mask: npt.NDArray[np.bool_], least: int, config: SceneConfig) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield the connected parts of a mask that have `least` cells or more."""
    parts, count = ndimage.label(mask, _NEIGHBOURS)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    for part in range(1, count + 1):
        if sizes[part] >= max(least, config.min_cells):
            yield parts == part


def _detection(
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    labels: npt.NDArray[np.uint8],
    occupancy: npt.NDArray[np.float32],
    sizes: tuple[float, float, int, int],
    config: SceneConfig,
) -> Detection:
    x, y = metres(rows, config.bev), metres(columns, config.bev)
    cx, cy, length, width, yaw = box(x, y, config.bev.resolution_m)
    kinds = labels[rows, columns]
    label = max(_VOTE, key=lambda k: _VOTE[k] * int((kinds == k).sum()))
    height = round(sizes[0], 2)
    if not _plausible(label, length, height, sizes[2], sizes[3]):
        label = OBSTACLE
    if label == PERSON:
        height = min(height, 2.0)
    return Detection(
        label=label,
        x=cx,
        y=cy,
        z=sizes[1],
        length=length,
        width=width,
        height=height,
        yaw=yaw,
        near_m=float(np.hypot(x, y).min()),
        confidence=float(occupancy[rows, columns].mean()),
        points=sizes[2],
    )


def _plausible(label: int, length: float, height: float, points: int, above: int) -> bool:
    """Return whether a vehicle or a person may have these sizes (m), points, and points 2.0 to 2.4 m high."""
    if label == VEHICLE:
        return length >= 1.2 and height >= 0.6
    if label == PERSON:
        # Few points may all have missed the head.
        low = 0.9 if points >= 20 else 0.5
        return length <= 3.0 and height >= low and above < max(2, 0.04 * points)
    return True


def box(
    x: npt.NDArray[np.floating[Any]], y: npt.NDArray[np.floating[Any]], cell_m: float
) -> tuple[float, float, float, float, float]:
    """Return the smallest oriented box around cells: middle x, y, length, width (m), yaw of the length (rad)."""
    c, s = np.cos(_ANGLES), np.sin(_ANGLES)
    u, v = np.outer(c, x) + np.outer(s, y), np.outer(c, y) - np.outer(s, x)
    sides = np.stack([np.ptp(u, axis=1), np.ptp(v, axis=1)])
    best = int(np.argmin((sides[0] + cell_m) * (sides[1] + cell_m)))
    mu, mv = (u[best].max() + u[best].min()) / 2, (v[best].max() + v[best].min()) / 2
    cx, cy = c[best] * mu - s[best] * mv, s[best] * mu + c[best] * mv
    length, width = sides[:, best] + 0.8 * cell_m
    yaw = float(_ANGLES[best])
    if width > length:
        length, width, yaw = width, length, yaw - math.pi / 2
    return float(cx), float(cy), float(length), float(width), yaw
