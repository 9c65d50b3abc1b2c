# SPDX-License-Identifier: Apache-2.0
"""Exact maps of a simulated scene: what is in each cell now and in half a second, and which cells can be known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, maximum_filter1d

from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.evaluation import IGNORE
from edge_nodes.perception.grid import metres
from edge_nodes.perception.sight import ABOVE_M
from train.perception.sensors import Sensor
from train.perception.shapes import KINDS, Array
from train.perception.simulate import GROUND, LEAFY, OBSTACLE, PERSON, UNKNOWN, VEHICLE, WALL, Scan, Scene

HORIZON_S = 0.5
_BINS, _LARGE_M = 720, 3.0
# What is labelled as far as it is in sight if it is large.
_LONG = {*LEAFY, "hedge", "guard_rail", "block"}
_PRIORITY = {WALL: 0, OBSTACLE: 1, VEHICLE: 2, PERSON: 3}
Mask = npt.NDArray[np.bool_]


class Truth(NamedTuple):
    """Truth of one stamp; all (H, W), rows from far ahead, columns from left.

    Attributes:
        label: uint8 class id, `IGNORE` where something stands that the sensor hardly saw, or moves where it does not
            see it now.
        occupied: whether something in the robot's height band stands there now.
        forecast: the same `HORIZON_S` later, in the sensor's present frame.
        known: whether the cell was in view in the last scans or belongs to something seen.
    """

    label: npt.NDArray[np.uint8]
    occupied: Mask
    forecast: Mask
    known: Mask


def footprint(scene: Scene, index: int, ego_s: float, time_s: float, config: BevConfig) -> npt.NDArray[np.intp]:
    """Return the flat indices of the cells one thing covers within the robot's height band.

    Args:
        scene: the world.
        index: of the thing.
        ego_s: time whose sensor frame the map is in.
        time_s: time at which the thing is looked at.
        config: grid and height band.
    """
    thing = scene.things[index]
    ex, ey, eyaw = scene.ego.at(ego_s)
    x, y, yaw = thing.motion.at(time_s)
    cells: list[npt.NDArray[np.intp]] = []
    for part in KINDS[thing.kind](thing.dimensions):
        low, high = part.offset[2] + thing.z, part.offset[2] + thing.z + part.size[2]
        if high <= config.min_height_m or low >= config.max_height_m:
            continue
        shrink = _cut(low, high, config.max_height_m) if part.solid == "ball" else 1.0
        c, s = math.cos(yaw), math.sin(yaw)
        px, py = x + c * part.offset[0] - s * part.offset[1] - ex, y + s * part.offset[0] + c * part.offset[1] - ey
        u = math.cos(eyaw) * px + math.sin(eyaw) * py
        v = -math.sin(eyaw) * px + math.cos(eyaw) * py
        half = (part.size[0] * shrink / 2, part.size[1] * shrink / 2)
        cells.append(_covered(u, v, yaw - eyaw, half, part.solid in {"cylinder", "ball"}, config))
    return np.unique(np.concatenate(cells)) if cells else np.empty(0, np.intp)


def _cut(low: float, high: float, top: float) -> float:
    middle, half = (low + high) / 2, (high - low) / 2
    return 1.0 if top >= middle else math.sqrt(max(0.0, 1 - ((middle - top) / half) ** 2))


def _covered(
    u: float, v: float, yaw: float, half: tuple[float, float], is_round: bool, config: BevConfig
) -> npt.NDArray[np.intp]:
    """Return the cells that an oriented rectangle or ellipse at (u, v) touches, about."""
    n, res = config.cells, config.resolution_m
    reach = math.hypot(*half) + res
    rows = np.arange(max(0, int(n / 2 - (u + reach) / res)), min(n, int(n / 2 - (u - reach) / res) + 1))
    columns = np.arange(max(0, int(n / 2 - (v + reach) / res)), min(n, int(n / 2 - (v - reach) / res) + 1))
    dx = metres(rows, config)[:, None] - u
    dy = metres(columns, config)[None] - v
    c, s = math.cos(yaw), math.sin(yaw)
    along, across = np.abs(c * dx + s * dy), np.abs(-s * dx + c * dy)
    a, b = half[0] + 0.45 * res, half[1] + 0.45 * res
    inside = (along / a) ** 2 + (across / b) ** 2 <= 1 if is_round else (along <= a) & (across <= b)
    r, k = np.nonzero(inside)
    return rows[r] * n + columns[k]


def visible(scans: Sequence[tuple[float, Scan]], scene: Scene, sensor: Sensor, config: BevConfig) -> Mask:
    """Return the cells in line of sight in any of the scans, on the map of the last one's frame."""
    n, res = config.cells, config.resolution_m
    wx, wy = _cells_in_world(scene, scans[-1][0], config)
    seen = np.zeros((n, n), bool)
    for time_s, scan in scans:
        px, py, yaw = scene.ego.at(time_s)
        azimuth = np.arctan2(wy - py, wx - px) - yaw
        bin_of = (np.floor(azimuth * _BINS / (2 * np.pi)).astype(int)) % _BINS
        seen |= np.hypot(wx - px, wy - py) <= _profile(scan, scene, sensor, time_s, config)[bin_of] + res
    return seen


def _profile(scan: Scan, scene: Scene, sensor: Sensor, time_s: float, config: BevConfig) -> npt.NDArray[np.float32]:
    points = scan.cloud.reshape(-1, 4)[:, :3]
    points = points[np.isfinite(points[:, 0])]
    rotation, origin = scene.pose(sensor, time_s)
    x, y, z = (points @ rotation.T + origin).T
    points = points[z - scene.ground(x, y) < config.max_height_m + ABOVE_M]
    bins = np.floor(np.arctan2(points[:, 1], points[:, 0]) * _BINS / (2 * np.pi)).astype(int) % _BINS
    reach = np.zeros(_BINS, np.float32)
    np.maximum.at(reach, bins, np.hypot(points[:, 0], points[:, 1]))
    # A lost return does not hide what lies beside it.
    return maximum_filter1d(reach, 3, mode="wrap")


def _cells_in_world(scene: Scene, time_s: float, config: BevConfig) -> tuple[Array, Array]:
    """Return world x and y of the middles of all cells, (H, W) each, as the robot stands at `time_s`."""
    axis = metres(np.arange(config.cells), config)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    ex, ey, eyaw = scene.ego.at(time_s)
    return ex + math.cos(eyaw) * x - math.sin(eyaw) * y, ey + math.sin(eyaw) * x + math.cos(eyaw) * y


def _bank(scene: Scene, time_s: float, config: BevConfig) -> Array:
    """Return how high the terrain lies above the lane in each cell, (H * W,) m."""
    assert scene.terrain is not None
    x, y = _cells_in_world(scene, time_s, config)
    return scene.terrain.height(x, y).ravel()


def truth(scene: Scene, sensor: Sensor, scans: Sequence[tuple[float, Scan]], config: BevConfig) -> Truth:
    """Return the truth at the last of some scans.

    Args:
        scene: the world.
        sensor: the LiDAR.
        scans: (time, scan), oldest first; the older ones widen what counts as known.
        config: grid and height band.
    """
    now, last = scans[-1]
    area = config.cells**2
    seen = np.bincount(last.thing.ravel() + 1, minlength=len(scene.things) + 1)[1:] >= 3
    before = sum(np.bincount(s.thing.ravel() + 1, minlength=len(scene.things) + 1)[1:] for _, s in scans)
    sight = visible(scans, scene, sensor, config).ravel()
    near_sight = binary_dilation(sight.reshape(config.cells, -1), iterations=2).ravel()
    label = np.where(sight, GROUND, UNKNOWN).astype(np.uint8)
    occupied, forecast = np.zeros(area, bool), np.zeros(area, bool)
    known = sight.copy()
    for i in sorted(range(len(scene.things)), key=lambda j: _PRIORITY.get(scene.things[j].class_id, 9)):
        thing = scene.things[i]
        here = footprint(scene, i, now, now, config)
        later = footprint(scene, i, now, now + HORIZON_S, config) if thing.motion.moves else here
        if thing.class_id == UNKNOWN:
            # The robot itself: nobody asks.
            label[here] = IGNORE
            known[here] = False
            continue
        if thing.class_id == GROUND:
            # Grass that stands high: an obstacle to some, not to others.
            known[here] = False
            continue
        occupied[here] = forecast[later] = True
        if thing.class_id == WALL or (thing.kind in _LONG and max(thing.dimensions[:2]) > _LARGE_M):
            label[here[near_sight[here]]] = thing.class_id
            known[here[near_sight[here]]] = True
        elif seen[i] or (before[i] >= 12 and not thing.motion.moves):
            # Where something went that is hidden now, no one can say by the cell.
            label[here] = thing.class_id
            known[here] = known[later] = True
        else:
            label[here] = IGNORE
            known[here] = known[later] = False
    if scene.terrain is not None:
        known &= occupied | forecast | (np.abs(_bank(scene, now, config)) < config.min_height_m)
    shape = (config.cells, config.cells)
    return Truth(label.reshape(shape), occupied.reshape(shape), forecast.reshape(shape), known.reshape(shape))
