# SPDX-License-Identifier: Apache-2.0
"""LiDAR scans of made-up scenes by ray casting, with the truth about every point.

A scene is a list of `Thing`s on a gently uneven ground, and the way the sensor moves through it:

    walker = Thing("person", motion=Motion(x=6, y=2, yaw=-1.6, speed=1.2))
    scene = Scene((walker, Thing("wall", size=(20, 0.3, 3), motion=Motion(x=10, y=8))))
    scan = cast(scene, Sensor(rings=64, columns=1024), 0.5)

World frame: x, y on the ground, z up, m, s, rad. Scans are in the sensor's frame: x ahead, y left, z up, origin in
the sensor. All rays of a scan start at the same time (no motion distortion).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from train.perception.raycasting import o3d
from train.perception.shapes import KINDS, Array, Mesh

UNKNOWN, GROUND, WALL, VEHICLE, PERSON, OBSTACLE = range(6)
CLASSES = {"wall": WALL, "fence": WALL, "car": VEHICLE, "van": VEHICLE, "person": PERSON, "cyclist": PERSON}
SIZES = {
    "box": (0.6, 0.6, 0.6),
    "cylinder": (0.5, 0.5, 0.9),
    "wall": (10.0, 0.3, 3.0),
    "pole": (0.12, 0.12, 4.0),
    "bush": (1.2, 1.0, 1.0),
    "hedge": (6.0, 1.0, 1.5),
    "fence": (8.0, 0.08, 1.6),
    "car": (4.4, 1.8, 1.5),
    "van": (5.6, 2.0, 2.3),
    "person": (0.35, 0.5, 1.75),
    "cyclist": (1.7, 0.5, 1.75),
    "tree": (3.0, 3.0, 5.0),
    "bench": (1.5, 0.45, 0.85),
}
SOFT = {"bush", "tree", "hedge", "fence"}


@dataclass(frozen=True)
class Motion:
    """Where something is at time t: constant speed and turn rate, or along waypoints.

    Attributes:
        x, y, yaw: pose at t = 0.
        speed: m/s along yaw.
        turn: yaw rate, rad/s.
        path: rows (time_s, x, y), linear between them and still outside; replaces all of the above but `yaw`,
            which is kept where the path stands still.
    """

    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0
    speed: float = 0.0
    turn: float = 0.0
    path: tuple[tuple[float, float, float], ...] = ()

    def at(self, time_s: float) -> tuple[float, float, float]:
        """Return x, y (m) and yaw (rad) at `time_s`."""
        if self.path:
            return self._on_path(time_s)
        yaw = self.yaw + self.turn * time_s
        if abs(self.turn) < 1e-6:
            step = self.speed * time_s
            return self.x + step * math.cos(yaw), self.y + step * math.sin(yaw), yaw
        radius = self.speed / self.turn
        x = self.x + radius * (math.sin(yaw) - math.sin(self.yaw))
        return x, self.y - radius * (math.cos(yaw) - math.cos(self.yaw)), yaw

    def _on_path(self, time_s: float) -> tuple[float, float, float]:
        times, x, y = np.array(self.path).T
        i = int(np.clip(np.searchsorted(times, time_s, side="right") - 1, 0, len(times) - 2))
        dx, dy = x[i + 1] - x[i], y[i + 1] - y[i]
        yaw = math.atan2(dy, dx) if math.hypot(dx, dy) > 1e-3 else self.yaw
        return float(np.interp(time_s, times, x)), float(np.interp(time_s, times, y)), yaw

    @property
    def moves(self) -> bool:
        """Whether the pose changes with time."""
        return bool(self.path) or self.speed != 0 or self.turn != 0


@dataclass(frozen=True)
class Thing:
    """Something that stands on the ground.

    Attributes:
        kind: key of `shapes.KINDS`.
        motion: where its middle is.
        size: length, width, height, m; () for the kind's usual size.
        z: height of its foot above the ground, m.
        label: class id; -1 for the kind's (5, other obstacle, if it has none), 0 for a part of the robot itself.
        reflectivity: 0..1.
    """

    kind: str
    motion: Motion = field(default_factory=Motion)
    size: tuple[float, ...] = ()
    z: float = 0.0
    label: int = -1
    reflectivity: float = 0.4

    @property
    def dimensions(self) -> tuple[float, float, float]:
        """Length, width, height, m."""
        length, width, height = self.size or SIZES[self.kind]
        return length, width, height

    @property
    def class_id(self) -> int:
        """Class of its points and cells."""
        return self.label if self.label >= 0 else CLASSES.get(self.kind, OBSTACLE)

    def mesh(self, time_s: float, ground: float) -> Mesh:
        """Return world vertices (V, 3) and triangles (T, 3) at `time_s`, standing on height `ground`."""
        x, y, yaw = self.motion.at(time_s)
        phase = 7.0 * time_s + self.motion.x if self.motion.moves else 0.6
        vertices, faces, count = [], [], 0
        for part in KINDS[self.kind](self.dimensions):
            v, f = part.mesh(phase)
            vertices.append(v)
            faces.append(f + np.uint32(count))
            count += len(v)
        c, s = math.cos(yaw), math.sin(yaw)
        turned = np.concatenate(vertices) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
        return turned + np.array([x, y, ground + self.z]), np.concatenate(faces)


@dataclass(frozen=True)
class Sensor:
    """A spinning LiDAR.

    Attributes:
        rings: beams.
        columns: firings a turn.
        elevation_deg: lowest and highest beam.
        height: of its origin above the ground, m.
        noise_m: standard deviation of range.
        max_range: m.
        min_range: nearer returns are lost, m.
        dropout: share of returns lost at random.
        tilt_deg: roll and pitch of its mounting.
        uneven: beams are spaced closer around the horizon, as in VLS-128 and Pandar-40P.
    """

    rings: int = 128
    columns: int = 1024
    elevation_deg: tuple[float, float] = (-22.5, 22.5)
    height: float = 0.9
    noise_m: float = 0.015
    max_range: float = 100.0
    min_range: float = 0.4
    dropout: float = 0.02
    tilt_deg: tuple[float, float] = (0.0, 0.0)
    uneven: bool = False

    @cached_property
    def directions(self) -> npt.NDArray[np.float32]:
        """Unit vectors (rings, columns, 3) in the sensor's frame, top ring first, clockwise from behind."""
        low, high = np.radians(self.elevation_deg)
        share = np.linspace(-1, 1, self.rings)
        if self.uneven:
            share = 0.5 * share + 0.5 * share**3
        elevation = ((low + high) / 2 + share * (high - low) / 2)[::-1, None]
        azimuth = np.pi - (np.arange(self.columns) + 0.5)[None] * 2 * np.pi / self.columns
        flat = np.cos(elevation)
        z = np.broadcast_to(np.sin(elevation), (self.rings, self.columns))
        return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), z], -1).astype(np.float32)


class Scan(NamedTuple):
    """One turn of the sensor.

    Attributes:
        cloud: (rings, columns, 4) float32: x, y, z (m) and intensity (0..255); all NaN where nothing returns.
        label: (rings, columns) uint8 class of each point, 0 where nothing returns.
        thing: (rings, columns) int32 index into `scene.things`, -1 for the ground and for nothing.
    """

    cloud: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    thing: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Scene:
    """Things, the ground they stand on, and the sensor's way.

    Attributes:
        things: what stands there; indices are the ids in `Scan.thing`.
        ego: the way of the sensor's foot point over the ground.
        slope: of the ground along x and y.
        bumps_m: amplitude of the ground's waves.
        ceiling_m: height of a flat ceiling, 0 for open sky.
        seed: of noise and dropout.
    """

    things: Sequence[Thing]
    ego: Motion = field(default_factory=Motion)
    slope: tuple[float, float] = (0.0, 0.0)
    bumps_m: float = 0.0
    ceiling_m: float = 0.0
    seed: int = 0

    def ground(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Array:
        """Return the ground's height at world x, y, m."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        waves = np.sin(0.23 * x + self.seed % 7) * np.cos(0.19 * y + self.seed % 5)
        return np.asarray(self.slope[0] * x + self.slope[1] * y + self.bumps_m * waves)

    def thing_mesh(self, index: int, time_s: float) -> Mesh:
        """Return the world mesh of one thing at `time_s`."""
        thing = self.things[index]
        x, y, _ = thing.motion.at(time_s)
        return thing.mesh(time_s, float(self.ground(x, y)))

    def pose(self, sensor: Sensor, time_s: float) -> tuple[Array, Array]:
        """Return rotation (3, 3) and origin (3,) of the sensor's frame in the world."""
        x, y, yaw = self.ego.at(time_s)
        roll, pitch = np.radians(sensor.tilt_deg)
        rotation = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix()
        return rotation, np.array([x, y, float(self.ground(x, y)) + sensor.height])

    @cached_property
    def _still(self) -> tuple[Mesh, npt.NDArray[np.int32]]:
        meshes = [(self._floor(), -1)]
        if self.ceiling_m:
            x, y, _ = self.ego.at(0.0)
            corners = [(x + dx, y + dy, self.ceiling_m) for dx, dy in ((-60, -60), (60, -60), (60, 60), (-60, 60))]
            meshes.append(((np.array(corners), np.array([(0, 1, 2), (0, 2, 3)], np.uint32)), -2))
        meshes += [(self.thing_mesh(i, 0.0), i) for i, t in enumerate(self.things) if not t.motion.moves]
        return _join(meshes)

    def _floor(self) -> Mesh:
        x0, y0, _ = self.ego.at(0.0)
        line = np.linspace(-120, 120, 61)
        x, y = np.meshgrid(x0 + line, y0 + line)
        i, j = np.meshgrid(np.arange(60), np.arange(60))
        a = (i * 61 + j).ravel()
        faces = np.concatenate([np.stack([a, a + 1, a + 62], -1), np.stack([a, a + 62, a + 61], -1)])
        return np.stack([x.ravel(), y.ravel(), self.ground(x, y).ravel()], -1), faces.astype(np.uint32)

    def mesh(self, time_s: float) -> tuple[Mesh, npt.NDArray[np.int32]]:
        """Return the world's mesh at `time_s` and the thing of each triangle (-1 ground, -2 ceiling)."""
        moving = [(self.thing_mesh(i, time_s), i) for i, t in enumerate(self.things) if t.motion.moves]
        still, ids = self._still
        if not moving:
            return still, ids
        more, more_ids = _join(moving)
        faces = np.concatenate([still[1], more[1] + np.uint32(len(still[0]))])
        return (np.concatenate([still[0], more[0]]), faces), np.concatenate([ids, more_ids])


def _join(meshes: list[tuple[Mesh, int]]) -> tuple[Mesh, npt.NDArray[np.int32]]:
    start = np.cumsum([0] + [len(v) for (v, _), _ in meshes])
    faces = [f + np.uint32(s) for ((_, f), _), s in zip(meshes, start, strict=False)]
    ids = np.concatenate([np.full(len(f), i, np.int32) for (_, f), i in meshes])
    return (np.concatenate([v for (v, _), _ in meshes]), np.concatenate(faces)), ids


def cast(scene: Scene, sensor: Sensor, time_s: float) -> Scan:
    """Return the scan that starts at `time_s`; the same arguments give the same scan.

    Args:
        scene: the world.
        sensor: the LiDAR, at `scene.ego`.
        time_s: s.
    """
    (vertices, faces), ids = scene.mesh(time_s)
    world = o3d.t.geometry.RaycastingScene(nthreads=1)
    world.add_triangles(vertices.astype(np.float32), faces)
    rotation, origin = scene.pose(sensor, time_s)
    rays = np.empty((*sensor.directions.shape[:2], 6), np.float32)
    rays[..., :3] = origin
    rays[..., 3:] = sensor.directions @ rotation.T.astype(np.float32)
    hit = world.cast_rays(o3d.core.Tensor(rays), nthreads=1)
    distance, triangle = hit["t_hit"].numpy(), hit["primitive_ids"].numpy()
    facing = np.abs((hit["primitive_normals"].numpy() * rays[..., 3:]).sum(-1))
    thing = np.where(np.isfinite(distance), ids[np.minimum(triangle, len(ids) - 1)], -3)
    return _measure(scene, sensor, time_s, distance, thing, facing)


def _measure(
    scene: Scene,
    sensor: Sensor,
    time_s: float,
    distance: npt.NDArray[np.float32],
    thing: npt.NDArray[np.int32],
    facing: npt.NDArray[np.float32],
) -> Scan:
    """Add noise, intensity and lost returns."""
    rng = np.random.default_rng((scene.seed, round(time_s * 1000)))
    shape = distance.shape
    # Last entries serve the indices -3 (nothing), -2 (ceiling), -1 (ground).
    table = np.array([*(t.reflectivity for t in scene.things), 0.0, 0.5, 0.2], np.float32)
    soft = np.array([*(t.kind in SOFT for t in scene.things), False, False, False])
    classes = np.array([*(t.class_id for t in scene.things), 0, OBSTACLE, GROUND], np.uint8)
    echo = table[thing] * np.where(soft[thing], 0.7, facing)
    reach = sensor.max_range * np.clip(np.sqrt(echo / 0.1), 0.05, 1.0)
    lost = (distance < sensor.min_range) | (distance > reach) | (rng.random(shape) < sensor.dropout)
    lost |= soft[thing] & (rng.random(shape) < 0.35)
    # Leaves return from somewhere behind the hull.
    depth = np.where(soft[thing], rng.random(shape) * 0.3, 0.0) + rng.normal(0, sensor.noise_m, shape)
    measured = np.where(lost, np.nan, distance + depth).astype(np.float32)
    cloud = np.empty((*shape, 4), np.float32)
    cloud[..., :3] = sensor.directions * measured[..., None]
    cloud[..., 3] = np.where(lost, np.nan, np.clip(255 * echo + rng.normal(0, 4, shape), 0, 255))
    label = np.where(lost, 0, classes[thing]).astype(np.uint8)
    return Scan(cloud, label, np.where(lost | (thing < 0), -1, thing).astype(np.int32))
