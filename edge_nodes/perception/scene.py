# SPDX-License-Identifier: Apache-2.0
"""Both networks' maps to a scene: tracked objects, free distances, a description, an alarm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.clusters import WALL, detect
from edge_nodes.perception.config import CLASSES, SceneConfig
from edge_nodes.perception.description import describe
from edge_nodes.perception.ego_motion import EgoMotion
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.grid import metres
from edge_nodes.perception.ground import Ground, GroundEstimator
from edge_nodes.perception.odometry import Motion2
from edge_nodes.perception.tracking import Track, Tracker

_MISS_M, _LEFT_OVER = 1.2, 0.25
_DIRECTIONS = ("ahead", "left", "behind", "right")


@dataclass(frozen=True)
class SceneObject:
    """A tracked thing in the sensor's frame (x ahead, y left, z up).

    Attributes:
        id: stable while it is tracked.
        kind: "vehicle", "person" or "obstacle".
        range_m: distance of its nearest side.
        bearing_deg: of its middle from ahead, positive to the left.
        center_m: middle of its box.
        size_m: length, width, height.
        yaw_deg: heading of the length, from ahead; along the motion if it moves.
        velocity_mps: x and y, over ground; zero if it cannot be told from standing.
        confidence: 0..1.
        age_s: since it was first seen.
    """

    id: int
    kind: str
    range_m: float
    bearing_deg: float
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    yaw_deg: float
    velocity_mps: tuple[float, float]
    confidence: float
    age_s: float

    @property
    def speed_mps(self) -> float:
        """Length of the velocity."""
        return math.hypot(*self.velocity_mps)

    @property
    def closing_mps(self) -> float:
        """Speed at which it comes nearer; negative when it goes away."""
        x, y = self.center_m[:2]
        return -(x * self.velocity_mps[0] + y * self.velocity_mps[1]) / max(math.hypot(x, y), 1e-6)

    @property
    def miss_m(self) -> float:
        """Distance at which it would pass the robot if it went on like this; its present one if it stands."""
        x, y = self.center_m[:2]
        speed = self.speed_mps
        if speed == 0 or self.closing_mps <= 0:
            return math.hypot(x, y)
        return abs(x * self.velocity_mps[1] - y * self.velocity_mps[0]) / speed


@dataclass(frozen=True)
class Alarm:
    """Something that needs attention now: why, and which object, if it is one."""

    text: str
    object: int | None


@dataclass(frozen=True)
class SceneState:
    """What is around the robot at one stamp.

    Attributes:
        objects: nearest first.
        free_m: distance to the first occupied cell "ahead", "left", "right", "behind".
        wall_m: distance of the nearest wall in the same quarters, without those that have none.
        text: the scene in a few short sentences.
        alarm: None if all is well.
    """

    objects: tuple[SceneObject, ...]
    free_m: dict[str, float]
    wall_m: dict[str, float]
    text: str
    alarm: Alarm | None


class SceneBuilder:
    """Makes scenes from scan to scan.

    Args:
        config: limits.
    """

    def __init__(self, config: SceneConfig) -> None:
        self.config = config
        self._ground = GroundEstimator(config.bev.range_m)
        self._tracker = Tracker(config)
        self.ego_motion = EgoMotion(config.bev)
        self._stamp_ns: int | None = None

    def configure(self, config: SceneConfig) -> None:
        """Take changed limits; tracks go on."""
        self.config = self._tracker.config = config
        self.ego_motion.config = config.bev

    def update(
        self,
        labels: npt.NDArray[np.uint8],
        occupancy: npt.NDArray[np.float32],
        forecast: npt.NDArray[np.float32],
        xyz: npt.NDArray[np.float32],
        *,
        stamp_ns: int,
    ) -> SceneState:
        """Return the scene at one stamp.

        Args:
            labels: (H, W) class ids.
            occupancy: (H, W) probability now.
            forecast: (H, W) probability half a second ahead.
            xyz: (N, 3) float32 points, m, sensor frame.
            stamp_ns: of all of them.

        Raises:
            PerceptionError: a map has another size than `config.bev` says.
        """
        n = self.config.bev.cells
        for name, values in (("labels", labels), ("occupancy", occupancy), ("forecast", forecast)):
            if values.shape != (n, n):
                raise PerceptionError(
                    f"the map of {name} has the wrong size",
                    got=" x ".join(map(str, values.shape)),
                    expected=f"{n} x {n}",
                    remedy="Give all perception nodes the same bev parameters.",
                )
        height = self.config.bev.sensor_height_m
        ground = Ground(offset_m=-height) if height > 0 else self._ground.estimate(xyz)
        found = detect(labels, occupancy, xyz, ground, self.config)
        motion, speed = self._moved(xyz, ground, stamp_ns)
        tracks = self._tracker.update(found, stamp_ns, motion)
        # What is left of the robot's own motion must not make standing things move.
        slow = self.config.moving_mps + _LEFT_OVER * speed
        objects = sorted((_object(t, slow) for t in tracks), key=lambda o: o.range_m)
        objects = objects[: self.config.max_objects]
        free = free_distances(blocked(labels, occupancy, self.config), self.config)
        later = free_distances(forecast >= self.config.occupied + 0.25, self.config)
        walls = wall_distances(labels, self.config)
        alarm = find_alarm(objects, free["ahead"], later["ahead"], self.config)
        text = describe(objects, free, walls, self.config)
        return SceneState(tuple(objects), free, walls, text, alarm)

    def _moved(self, xyz: npt.NDArray[np.float32], ground: Ground, stamp_ns: int) -> tuple[Motion2, float]:
        """Return the robot's motion since the last scan and its speed in m/s."""
        gap_ns = 0 if self._stamp_ns is None else stamp_ns - self._stamp_ns
        self._stamp_ns = stamp_ns
        if gap_ns < 0:
            self.ego_motion.reset()
        motion = self.ego_motion.update(xyz, ground, stamp_ns=stamp_ns, gap_s=gap_ns / 1e9)
        return motion, math.hypot(motion.x, motion.y) / max(gap_ns / 1e9, 1e-3)


def _object(track: Track, slow_mps: float) -> SceneObject:
    d = track.detection
    x, y = float(track.state[0]), float(track.state[1])
    velocity = track.velocity
    if math.hypot(*velocity) < slow_mps:
        velocity = (0.0, 0.0)
    yaw = d.yaw
    if velocity != (0.0, 0.0):
        heading = math.atan2(velocity[1], velocity[0])
        # The box knows its axis, the motion its front.
        turned = round((heading - yaw) / math.pi) * math.pi
        yaw = heading if d.length < 1.0 else yaw + turned
    return SceneObject(
        id=track.id,
        kind=CLASSES[track.label],
        range_m=d.near_m,
        bearing_deg=math.degrees(math.atan2(y, x)),
        center_m=(x, y, d.z + d.height / 2),
        size_m=(d.length, d.width, d.height),
        yaw_deg=math.degrees(math.atan2(math.sin(yaw), math.cos(yaw))),
        velocity_mps=velocity,
        confidence=min(1.0, d.confidence),
        age_s=(track.last_ns - track.first_ns) / 1e9,
    )


def blocked(
    labels: npt.NDArray[np.uint8], occupancy: npt.NDArray[np.float32], config: SceneConfig
) -> npt.NDArray[np.bool_]:
    """Return the cells (H, W) that block the robot: where both networks agree, or occupancy is sure."""
    return np.asarray(occupancy + 0.5 * (labels >= WALL) >= config.occupied + 0.25)


def free_distances(mask: npt.NDArray[np.bool_], config: SceneConfig) -> dict[str, float]:
    """Return the distance to the first set cell of (H, W) ahead, left, behind and right.

    The way looked at is a straight corridor of the robot's width; it ends at the edge of the map.
    """
    bev = config.bev
    n, half = bev.cells, max(1, round(config.robot_width_m / bev.resolution_m / 2))
    start = int(config.robot_radius_m / bev.resolution_m)
    out = {}
    for turn, name in enumerate(_DIRECTIONS):
        # Turned so that the direction is up.
        turned = np.rot90(mask, -turn)
        way = np.flip(np.any(turned[: n // 2 - start, n // 2 - half : n // 2 + half], axis=1))
        first = int(way.argmax()) if way.any() else len(way)
        out[name] = round((first + start) * bev.resolution_m, 2)
    return out


def wall_distances(labels: npt.NDArray[np.uint8], config: SceneConfig) -> dict[str, float]:
    """Return the distance of the nearest wall cell in each quarter that has one."""
    rows, columns = np.nonzero(labels == WALL)
    x, y = metres(rows, config.bev), metres(columns, config.bev)
    distance = np.hypot(x, y)
    quarter = np.round(np.arctan2(y, x) / (np.pi / 2)).astype(int) % 4
    out = {}
    for i, name in enumerate(_DIRECTIONS):
        mine = distance[(quarter == i) & (distance > config.robot_radius_m)]
        # One stray cell is no wall.
        if mine.size >= 4:
            out[name] = round(float(np.partition(mine, 2)[2]), 2)
    return out


def find_alarm(objects: Sequence[SceneObject], free_m: float, later_m: float, config: SceneConfig) -> Alarm | None:
    """Return the most urgent reason for alarm, if there is one.

    Args:
        objects: nearest first.
        free_m: free distance ahead now.
        later_m: the same half a second later.
        config: limits.
    """
    for thing in objects:
        # Half the thing's own width passes nearer than its middle.
        closing = thing.closing_mps if thing.miss_m - thing.size_m[1] / 2 < _MISS_M else 0.0
        if thing.kind == "person" and thing.range_m <= config.alarm_m:
            return Alarm(f"Person at {thing.range_m:.1f} m.", thing.id)
        gap = max(0.0, thing.range_m - config.robot_radius_m)
        soon = closing > 0.5 and gap <= closing * config.alarm_s
        if soon or (closing > config.moving_mps and thing.range_m <= config.alarm_m):
            text = f"{thing.kind.capitalize()} at {thing.range_m:.1f} m, closing in at {closing:.1f} m/s."
            return Alarm(text, thing.id)
    if later_m <= min(config.alarm_m, free_m - 1.0):
        return Alarm(f"The way ahead will be blocked at {later_m:.1f} m.", None)
    return None
