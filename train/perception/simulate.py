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

from train.perception.foliage import leaves
from train.perception.raycasting import o3d
from train.perception.sensors import Directions, Sensor
from train.perception.shapes import KINDS, Array, Mesh, Part

UNKNOWN, GROUND, WALL, VEHICLE, PERSON, OBSTACLE = range(6)
CLASSES = {
    **dict.fromkeys(("wall", "fence", "railing"), WALL),
    **dict.fromkeys(("car", "van", "saloon", "hatchback", "offroader", "racer", "lorry", "trailer"), VEHICLE),
    **dict.fromkeys(("person", "cyclist", "seated"), PERSON),
    **dict.fromkeys(("grass", "kerb"), GROUND),
}
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
    "saloon": (4.6, 1.8, 1.45),
    "hatchback": (4.1, 1.75, 1.5),
    "offroader": (4.6, 1.9, 1.75),
    "racer": (4.9, 1.9, 1.2),
    "lorry": (8.0, 2.5, 3.3),
    "trailer": (3.2, 1.6, 1.6),
    "seated": (0.4, 0.5, 1.75),
    "bicycle": (1.75, 0.55, 1.0),
    "sign": (0.1, 0.6, 2.6),
    "railing": (8.0, 0.04, 1.3),
    "guard_rail": (20.0, 0.2, 0.75),
    "leafy_tree": (4.0, 4.0, 7.0),
    "shrub": (1.5, 1.5, 1.3),
    "clipped_hedge": (6.0, 1.0, 1.5),
    "thicket": (10.0, 4.0, 3.0),
    "grass": (4.0, 3.0, 0.3),
    "kerb": (20.0, 0.15, 0.12),
    "block": (2.0, 2.0, 1.5),
}
SOFT = {"bush", "tree", "hedge", "fence"}
LEAFY = {"leafy_tree", "shrub", "clipped_hedge", "thicket", "grass"}
GLAZED = {"saloon", "hatchback", "offroader"}


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
        density: leaf area in a volume, m^2 / m^3, of what has leaves.
    """

    kind: str
    motion: Motion = field(default_factory=Motion)
    size: tuple[float, ...] = ()
    z: float = 0.0
    label: int = -1
    reflectivity: float = 0.4
    density: float = 2.0

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
            v, f = self._leaves(part) if part.leafy else part.mesh(phase)
            vertices.append(v)
            faces.append(f + np.uint32(count))
            count += len(v)
        c, s = math.cos(yaw), math.sin(yaw)
        turned = np.concatenate(vertices) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
        return turned + np.array([x, y, ground + self.z]), np.concatenate(faces)

    def _leaves(self, part: Part) -> Mesh:
        seed = (round(1e3 * self.motion.x) % 2**32, round(1e3 * self.motion.y) % 2**32)
        v, f = leaves(part.size, density=self.density, is_round=part.solid == "ball", seed=seed)
        return v + np.array(part.offset), f


@dataclass(frozen=True)
class Terrain:
    """Banks beside a lane through the origin, and rough ground on them.

    Attributes:
        yaw: of the lane.
        left_m, right_m: how far the lane reaches to either side of the origin.
        left_rise_m, right_rise_m: height of the bank on either side; negative for a ditch.
        slope_m: width over which a bank rises.
        rough_m: amplitude of bumps beside the lane.
        seed: of the bumps.
    """

    yaw: float = 0.0
    left_m: float = 5.0
    right_m: float = 5.0
    left_rise_m: float = 0.0
    right_rise_m: float = 0.0
    slope_m: float = 4.0
    rough_m: float = 0.0
    seed: int = 0

    def height(self, x: Array, y: Array) -> Array:
        """Return the height above the plane at world x, y, m."""
        across = -math.sin(self.yaw) * x + math.cos(self.yaw) * y
        out = np.zeros(np.broadcast(x, y).shape)
        away = np.zeros_like(out)
        for beyond, rise in ((across - self.left_m, self.left_rise_m), (-across - self.right_m, self.right_rise_m)):
            share = np.clip(beyond / self.slope_m, 0, 1)
            out += rise * share * share * (3 - 2 * share)
            away += np.clip(beyond / 1.5, 0, 1)
        rng = np.random.default_rng(self.seed)
        for wave in (2.5, 3.7, 5.3, 8.1, 13.0):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            ways = 2 * np.pi / wave * (math.cos(angle) * x + math.sin(angle) * y) + phase
            out += away * self.rough_m * 0.45 * np.sin(ways)
        return out


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
        terrain: banks and rough ground, None for none.
    """

    things: Sequence[Thing]
    ego: Motion = field(default_factory=Motion)
    slope: tuple[float, float] = (0.0, 0.0)
    bumps_m: float = 0.0
    ceiling_m: float = 0.0
    seed: int = 0
    terrain: Terrain | None = None

    def ground(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Array:
        """Return the ground's height at world x, y, m."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        waves = np.sin(0.23 * x + self.seed % 7) * np.cos(0.19 * y + self.seed % 5)
        plane = np.asarray(self.slope[0] * x + self.slope[1] * y + self.bumps_m * waves)
        return plane if self.terrain is None else plane + self.terrain.height(x, y)

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
        if self.terrain is not None:
            line = np.concatenate([line[line < -44], np.linspace(-44, 44, 89), line[line > 44]])
        n = len(line)
        x, y = np.meshgrid(x0 + line, y0 + line)
        i, j = np.meshgrid(np.arange(n - 1), np.arange(n - 1))
        a = (i * n + j).ravel()
        faces = np.concatenate([np.stack([a, a + 1, a + n + 1], -1), np.stack([a, a + n + 1, a + n], -1)])
        return np.stack([x.ravel(), y.ravel(), self.ground(x, y).ravel()], -1), faces.astype(np.uint32)

    @cached_property
    def still(self) -> Surfaces:
        """What never moves, built once: ground, ceiling, standing things."""
        return Surfaces(*self._still)

    def still_hits(self, sensor: Sensor, rays: npt.NDArray[np.float32]) -> Hits:
        """Return what `rays` of `sensor` meet of `still`; the same for every scan of a robot that stands."""
        key = sensor if not self.ego.moves and sensor.pattern == "spinning" else None
        if key is None:
            return self.still.meet(rays)
        if key not in self._kept:
            self._kept[key] = self.still.meet(rays)
        return self._kept[key]

    @cached_property
    def _kept(self) -> dict[Sensor, Hits]:
        return {}

    def moving(self, time_s: float) -> Surfaces | None:
        """Return what moves, as it stands at `time_s`; None for nothing."""
        meshes = [(self.thing_mesh(i, time_s), i) for i, t in enumerate(self.things) if t.motion.moves]
        return Surfaces(*_join(meshes)) if meshes else None


class Hits(NamedTuple):
    """What rays (N, 6) meet first; all (N,).

    Attributes:
        distance: m, inf for nothing.
        thing: -1 ground, -2 ceiling, -3 nothing.
        facing: cosine between ray and surface normal.
    """

    distance: npt.NDArray[np.float32]
    thing: npt.NDArray[np.int32]
    facing: npt.NDArray[np.float32]


class Surfaces:
    """Triangles to cast rays at.

    Args:
        mesh: vertices and triangles in the world.
        ids: thing of each triangle.
    """

    def __init__(self, mesh: Mesh, ids: npt.NDArray[np.int32]) -> None:
        self._world = o3d.t.geometry.RaycastingScene(nthreads=1)
        self._world.add_triangles(mesh[0].astype(np.float32), mesh[1])
        self._ids = ids

    def meet(self, rays: npt.NDArray[np.float32]) -> Hits:
        """Return what rays (..., 6) meet first."""
        hit = self._world.cast_rays(o3d.core.Tensor(rays), nthreads=1)
        distance, triangle = hit["t_hit"].numpy(), hit["primitive_ids"].numpy()
        facing = np.abs((hit["primitive_normals"].numpy() * rays[..., 3:]).sum(-1))
        thing = np.where(np.isfinite(distance), self._ids[np.minimum(triangle, len(self._ids) - 1)], -3)
        return Hits(distance, thing, facing)


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
    rotation, origin = scene.pose(sensor, time_s)
    directions = sensor.rays(time_s)
    rays = np.empty((*directions.shape[:2], 6), np.float32)
    rays[..., :3] = origin
    rays[..., 3:] = directions @ rotation.T.astype(np.float32)
    hits = scene.still_hits(sensor, rays)
    moving = scene.moving(time_s)
    if moving is not None:
        other = moving.meet(rays)
        nearer = other.distance < hits.distance
        hits = Hits(*(np.where(nearer, b, a) for a, b in zip(hits, other, strict=True)))
    scan = _measure(scene, sensor, time_s, directions, rays, hits)
    if not sensor.rain:
        return scan
    return rained(scan, sensor, directions, np.random.default_rng((scene.seed, round(time_s * 1000), 1)))


def _measure(
    scene: Scene, sensor: Sensor, time_s: float, directions: Directions, rays: npt.NDArray[np.float32], hits: Hits
) -> Scan:
    """Add noise, intensity and lost returns."""
    distance, thing, facing = hits
    rng = np.random.default_rng((scene.seed, round(time_s * 1000)))
    shape = distance.shape
    # Last entries serve the indices -3 (nothing), -2 (ceiling), -1 (ground).
    table = np.array([*(t.reflectivity for t in scene.things), 0.0, 0.5, 0.2], np.float32)
    soft = _of_kinds(scene, SOFT)
    leafy = _of_kinds(scene, LEAFY)
    classes = np.array([*(t.class_id for t in scene.things), 0, OBSTACLE, GROUND], np.uint8)
    echo = table[thing] * np.where(soft[thing], 0.7, np.where(leafy[thing], 0.3 + 0.5 * facing, facing))
    reach = sensor.max_range * np.clip(np.sqrt(echo / 0.1), 0.05, 1.0)
    lost = (distance < sensor.min_range) | (distance > reach) | (rng.random(shape) < sensor.dropout)
    lost |= soft[thing] & (rng.random(shape) < 0.35)
    # Leaves return from somewhere behind the hull.
    depth = np.where(soft[thing], rng.random(shape) * 0.3, 0.0) + rng.normal(0, sensor.noise_m, shape)
    if any(t.kind in GLAZED for t in scene.things):
        lost |= _through_glass(scene, time_s, rays, hits) & (rng.random(shape) < 0.65)
    measured = np.where(lost, np.nan, distance + depth).astype(np.float32)
    cloud = np.empty((*shape, 4), np.float32)
    cloud[..., :3] = directions * measured[..., None]
    cloud[..., 3] = np.where(lost, np.nan, np.clip(255 * echo + rng.normal(0, 4, shape), 0, 255))
    label = np.where(lost, 0, classes[thing]).astype(np.uint8)
    return Scan(cloud, label, np.where(lost | (thing < 0), -1, thing).astype(np.int32))


def _of_kinds(scene: Scene, kinds: set[str]) -> npt.NDArray[np.bool_]:
    return np.array([*(t.kind in kinds for t in scene.things), False, False, False])


def _through_glass(scene: Scene, time_s: float, rays: npt.NDArray[np.float32], hits: Hits) -> npt.NDArray[np.bool_]:
    """Return which rays meet a car between its waist and its roof."""
    glazed = _of_kinds(scene, GLAZED)
    foot, high = np.zeros(len(glazed)), np.ones(len(glazed))
    for i, thing in enumerate(scene.things):
        if glazed[i]:
            x, y, _ = thing.motion.at(time_s)
            foot[i], high[i] = float(scene.ground(x, y)) + thing.z, thing.dimensions[2]
    which = glazed[hits.thing]
    out = np.zeros(hits.thing.shape, bool)
    z = rays[which][:, 2] + rays[which][:, 5] * hits.distance[which]
    share = (z - foot[hits.thing[which]]) / high[hits.thing[which]]
    out[which] = (share > 0.62) & (share < 0.94)
    return out


def rained(scan: Scan, sensor: Sensor, directions: Directions, rng: np.random.Generator) -> Scan:
    """Return the scan in rain: drops return some rays, far and wet surfaces no longer do.

    Args:
        scan: a dry one.
        sensor: its `rain` says how hard.
        directions: of the rays, (rings, columns, 3).
        rng: of the drops.
    """
    cloud, label, thing = (a.copy() for a in scan)
    shape = label.shape
    distance = np.linalg.norm(cloud[..., :3], axis=-1)
    # Water mirrors what comes in flat.
    reach = np.where(label == GROUND, 45.0, 90.0) / (0.6 + sensor.rain)
    lost = np.isfinite(distance) & (rng.exponential(1.0, shape) < (distance / reach) ** 2 * 0.7)
    drop = rng.exponential(3.0, shape) + sensor.min_range
    struck = (rng.random(shape) < 0.012 * sensor.rain) & ~(drop > distance)
    cloud[lost], label[lost], thing[lost] = np.nan, 0, -1
    cloud[struck, :3] = directions[struck] * drop[struck, None]
    cloud[struck, 3] = rng.uniform(0, 12, int(struck.sum()))
    label[struck], thing[struck] = UNKNOWN, -1
    return Scan(cloud, label, thing)
