# SPDX-License-Identifier: Apache-2.0
"""Random streets, yards and corridors from seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from train.perception.sensors import Rng, Sensor
from train.perception.simulate import UNKNOWN, Motion, Scene, Thing

KINDS = ("street", "yard", "corridor")


def random_scene(seed: int, kind: str = "") -> Scene:
    """Return the scene of `seed`.

    Args:
        seed: any integer.
        kind: one of `KINDS`; "" lets the seed choose.
    """
    rng = np.random.default_rng(seed)
    kind = kind or str(rng.choice(KINDS, p=[0.45, 0.35, 0.2]))
    return {"street": _street, "yard": _yard, "corridor": _corridor}[kind](rng, seed)


def random_ego(rng: Rng, yaw: float, fast: float) -> Motion:
    """Half of the robots stand; the others drive or turn, up to `fast` m/s."""
    if rng.random() < 0.45:
        return Motion(yaw=yaw)
    speed = float(rng.uniform(0.2, fast if rng.random() < 0.3 else 1.5))
    return Motion(yaw=yaw, speed=speed, turn=float(rng.normal(0, 0.25)) if rng.random() < 0.6 else 0.0)


def _scene(rng: Rng, seed: int, things: list[Thing], ego: Motion, **entries: float) -> Scene:
    slope = rng.normal(0, 0.012, 2)
    clear = [t for t in things if t.kind == "wall" or _distance(t) > 0.5 * max(t.dimensions[:2]) + 0.9]
    return Scene(tuple(clear), ego, (float(slope[0]), float(slope[1])), seed=seed, **entries)


def _distance(thing: Thing) -> float:
    return math.hypot(thing.motion.x, thing.motion.y)


def uniform(rng: Rng, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def person(rng: Rng, x: float, y: float, yaw: float | None = None, moving: float = 0.7) -> Thing:
    """Return a person who stands, walks or runs, or rides a bicycle."""
    yaw = uniform(rng, -math.pi, math.pi) if yaw is None else yaw
    height = uniform(rng, 1.2, 1.95) if rng.random() < 0.9 else uniform(rng, 0.9, 1.2)
    shade = uniform(rng, 0.1, 0.8)
    if rng.random() < 0.15:
        motion = Motion(x, y, yaw, uniform(rng, 1.5, 6.0))
        return Thing("cyclist", motion, (uniform(rng, 1.5, 1.85), 0.5, uniform(rng, 1.5, 1.85)), reflectivity=shade)
    walks = rng.random() < moving
    speed = uniform(rng, 0.4, 2.0) if rng.random() < 0.85 else uniform(rng, 2.0, 4.0)
    motion = Motion(x, y, yaw, speed if walks else 0.0, float(rng.normal(0, 0.3)) if walks else 0.0)
    size = (uniform(rng, 0.28, 0.42), uniform(rng, 0.4, 0.6), height)
    return Thing("person", motion, size, reflectivity=shade)


def vehicle(rng: Rng, x: float, y: float, yaw: float, speed: float = 0.0) -> Thing:
    """Return a car, a van or a lorry."""
    motion = Motion(x, y, yaw, speed)
    shade = uniform(rng, 0.05, 0.9)
    if rng.random() < 0.75:
        size = (uniform(rng, 3.4, 5.0), uniform(rng, 1.6, 1.95), uniform(rng, 1.35, 1.85))
        return Thing("car", motion, size, reflectivity=shade)
    size = (uniform(rng, 4.8, 9.0), uniform(rng, 1.9, 2.5), uniform(rng, 2.0, 3.2))
    return Thing("van", motion, size, reflectivity=shade)


def clutter(rng: Rng, x: float, y: float) -> Thing:
    """Return a pole, a tree, a bush, a crate, a bin, a bench, a bollard."""
    kind = str(rng.choice(["pole", "tree", "bush", "box", "cylinder", "bench"], p=[0.2, 0.2, 0.2, 0.2, 0.12, 0.08]))
    w = uniform(rng, 0.3, 1.3)
    size = {
        "pole": (d := uniform(rng, 0.06, 0.35), d, uniform(rng, 0.8, 7.0)),
        "tree": (c := uniform(rng, 1.5, 5.0), c * uniform(rng, 0.8, 1.2), uniform(rng, 3.0, 8.0)),
        "bush": (uniform(rng, 0.5, 4.0), uniform(rng, 0.5, 1.5), uniform(rng, 0.4, 1.8)),
        "box": (w, w * uniform(rng, 0.5, 2.0), uniform(rng, 0.25, 1.9)),
        "cylinder": (b := uniform(rng, 0.25, 0.9), b, uniform(rng, 0.4, 1.4)),
        "bench": (uniform(rng, 1.0, 2.0), 0.45, 0.85),
    }[kind]
    return Thing(kind, Motion(x, y, uniform(rng, -math.pi, math.pi)), size, reflectivity=uniform(rng, 0.1, 0.8))


def wall(rng: Rng, a: tuple[float, float], b: tuple[float, float], height: float) -> Thing:
    """Return a straight wall from `a` to `b`."""
    length = math.dist(a, b)
    motion = Motion((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, math.atan2(b[1] - a[1], b[0] - a[0]))
    return Thing("wall", motion, (length, uniform(rng, 0.2, 0.4), height), reflectivity=uniform(rng, 0.2, 0.8))


def house(rng: Rng, x: float, y: float, length: float, width: float, yaw: float) -> list[Thing]:
    height, c, s = uniform(rng, 2.6, 9.0), math.cos(yaw), math.sin(yaw)
    corners = [(length / 2, width / 2), (-length / 2, width / 2), (-length / 2, -width / 2), (length / 2, -width / 2)]
    world = [(x + c * u - s * v, y + s * u + c * v) for u, v in corners]
    return [wall(rng, p, q, height) for p, q in zip(world, world[1:] + world[:1], strict=True)]


def turned(things: list[Thing], yaw: float, dx: float, dy: float) -> list[Thing]:
    """Move things by (dx, dy), then turn the world by `yaw` around the robot."""
    c, s, out = math.cos(yaw), math.sin(yaw), []
    for t in things:
        x, y = t.motion.x + dx, t.motion.y + dy
        motion = Motion(c * x - s * y, s * x + c * y, t.motion.yaw + yaw, t.motion.speed, t.motion.turn)
        out.append(replace(t, motion=motion))
    return out


def overgrown(scene: Scene) -> Scene:
    """Return the scene with hedges, fences, thickets and heaps of boxes: what is no neat single thing."""
    rng = np.random.default_rng((scene.seed, 2))
    more: list[Thing] = []

    def spot() -> tuple[float, float]:
        angle, reach = uniform(rng, -math.pi, math.pi), uniform(rng, 4, 32)
        return reach * math.cos(angle), reach * math.sin(angle)

    along = uniform(rng, 0, math.pi)
    for _ in range(rng.integers(0, 6)):
        x, y = spot()
        yaw = along + float(rng.choice([0, math.pi / 2])) + float(rng.normal(0, 0.1))
        if rng.random() < 0.65:
            size = (uniform(rng, 2, 18), uniform(rng, 0.5, 3.0), uniform(rng, 0.5, 3.0))
            more.append(Thing("hedge", Motion(x, y, yaw), size, reflectivity=uniform(rng, 0.2, 0.6)))
        else:
            size = (uniform(rng, 3, 18), 0.08, uniform(rng, 0.8, 2.2))
            more.append(Thing("fence", Motion(x, y, yaw), size, reflectivity=uniform(rng, 0.2, 0.6)))
    for _ in range(rng.integers(0, 5)):
        x, y = spot()
        kinds = ["bush", "tree", "hedge"] if rng.random() < 0.6 else ["box", "cylinder"]
        for _ in range(rng.integers(3, 12)):
            at = Motion(x + float(rng.normal(0, 1.5)), y + float(rng.normal(0, 1.5)), uniform(rng, -math.pi, math.pi))
            size = (uniform(rng, 0.4, 3.0), uniform(rng, 0.4, 2.0), uniform(rng, 0.3, 2.5))
            more.append(Thing(str(rng.choice(kinds)), at, size, reflectivity=uniform(rng, 0.1, 0.8)))
    clear = [t for t in more if _distance(t) > 0.5 * math.hypot(*t.dimensions[:2]) + 1.0]
    return replace(scene, things=(*scene.things, *clear))


def with_body(scene: Scene, sensor: Sensor) -> Scene:
    """Return the scene with the robot's own body below the sensor, half of the time."""
    rng = np.random.default_rng((scene.seed, 3))
    if rng.random() < 0.5 or sensor.height < 0.5:
        return scene
    top = sensor.height - uniform(rng, 0.08, 0.3)
    long = uniform(rng, 0.4, 1.2) if sensor.height < 1.4 or rng.random() < 0.5 else uniform(rng, 2.0, 4.5)
    size = (long, min(long, uniform(rng, 0.4, 1.8)), top)
    body = Thing("box", scene.ego, size, label=UNKNOWN, reflectivity=uniform(rng, 0.1, 0.8))
    return replace(scene, things=(*scene.things, body))


def _street(rng: Rng, seed: int) -> Scene:
    half, side = uniform(rng, 3.0, 6.0), uniform(rng, 1.5, 4.0)
    things: list[Thing] = []
    for sign in (-1, 1):
        x = -60.0
        while x < 60:
            length, gap = uniform(rng, 8, 25), uniform(rng, 0, 8)
            depth = uniform(rng, 6, 12)
            setback = half + side + uniform(rng, 0, 3) + depth / 2
            if rng.random() < 0.85:
                things += house(rng, x + length / 2, sign * setback, length, depth, 0.0)
            x += length + gap
        x = -45.0
        parked = rng.random() * 0.8
        while x < 45:
            if rng.random() < parked:
                yaw = (0 if sign < 0 else math.pi) + float(rng.normal(0, 0.04))
                things.append(vehicle(rng, x, sign * (half - 1.1), yaw))
            x += uniform(rng, 5.5, 9.5)
        for _ in range(rng.integers(2, 9)):
            things.append(clutter(rng, uniform(rng, -40, 40), sign * (half + uniform(rng, 0.3, side))))
        for _ in range(rng.integers(1, 7)):
            yaw = float(rng.choice([0, math.pi])) + float(rng.normal(0, 0.2))
            things.append(person(rng, uniform(rng, -25, 25), sign * (half + uniform(rng, 0.2, side)), yaw))
    for _ in range(rng.integers(0, 5)):
        sign = float(rng.choice([-1, 1]))
        yaw = 0.0 if sign < 0 else math.pi
        things.append(vehicle(rng, uniform(rng, -40, 40), sign * half * 0.4, yaw, uniform(rng, 1, 14)))
    for _ in range(rng.integers(0, 4)):
        things.append(
            person(rng, uniform(rng, -20, 20), uniform(rng, -half, half), math.pi / 2 * float(rng.choice([-1, 1])))
        )
    lateral = uniform(rng, -half - side + 0.6, half + side - 0.6)
    yaw = float(rng.normal(0, 0.3)) if rng.random() < 0.7 else uniform(rng, -math.pi, math.pi)
    ego = random_ego(rng, 0.0, 8.0)
    return _scene(rng, seed, turned(things, yaw, 0, -lateral), ego, bumps_m=uniform(rng, 0, 0.1))


def _yard(rng: Rng, seed: int) -> Scene:
    length, width = uniform(rng, 15, 60), uniform(rng, 12, 45)
    corners = [(-length / 2, -width / 2), (length / 2, -width / 2), (length / 2, width / 2), (-length / 2, width / 2)]
    things = []
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        if rng.random() < 0.8:
            things.append(wall(rng, a, b, uniform(rng, 1.2, 8.0)))

    def spot() -> tuple[float, float]:
        return uniform(rng, -length / 2 + 1, length / 2 - 1), uniform(rng, -width / 2 + 1, width / 2 - 1)

    ego = (uniform(rng, -0.3, 0.3) * length, uniform(rng, -0.3, 0.3) * width)
    for at in (spot() for _ in range(rng.integers(0, 3))):
        if math.dist(at, ego) > 9:
            things += house(rng, *at, uniform(rng, 4, 12), uniform(rng, 3, 8), uniform(rng, 0, math.pi))
    row = uniform(rng, 0, math.pi)
    for _ in range(rng.integers(0, 7)):
        yaw = row + float(rng.choice([0, math.pi / 2])) + float(rng.normal(0, 0.1))
        things.append(vehicle(rng, *spot(), yaw, uniform(rng, 0.5, 4) if rng.random() < 0.2 else 0.0))
    things += [clutter(rng, *spot()) for _ in range(rng.integers(3, 22))]
    things += [person(rng, *spot()) for _ in range(rng.integers(1, 9))]
    around = turned(things, uniform(rng, -math.pi, math.pi), -ego[0], -ego[1])
    return _scene(rng, seed, around, random_ego(rng, 0.0, 3.0), bumps_m=uniform(rng, 0, 0.2))


def _corridor(rng: Rng, seed: int) -> Scene:
    half, height = uniform(rng, 0.9, 2.5), uniform(rng, 2.3, 3.6)
    things: list[Thing] = []
    for sign in (-1, 1):
        x = -uniform(rng, 8, 25)
        end = uniform(rng, 8, 35)
        while x < end:
            step, door = uniform(rng, 2, 9), uniform(rng, 0.8, 2.5)
            things.append(wall(rng, (x, sign * half), (min(x + step, end), sign * half), height + 0.5))
            if rng.random() < 0.5:
                back = sign * (half + uniform(rng, 2, 6))
                things.append(wall(rng, (x + step - 2, back), (x + step + door + 2, back), height + 0.5))
            x += step + (door if rng.random() < 0.6 else 0.0)
    ends = (-uniform(rng, 6, 26), uniform(rng, 6, 36))
    things += [wall(rng, (x, -half), (x, half), height + 0.5) for x in ends]
    for _ in range(rng.integers(0, 6)):
        y = float(rng.choice([-1, 1])) * (half - 0.35)
        size = (uniform(rng, 0.3, 1.2), uniform(rng, 0.3, 0.6), uniform(rng, 0.3, 2.0))
        things.append(Thing("box", Motion(uniform(rng, -12, 20), y), size, reflectivity=uniform(rng, 0.1, 0.8)))
    for _ in range(rng.integers(1, 6)):
        yaw = float(rng.choice([0, math.pi])) + float(rng.normal(0, 0.15))
        things.append(person(rng, uniform(rng, -10, 20), uniform(rng, -half + 0.4, half - 0.4), yaw))
    lateral, yaw = uniform(rng, -half + 0.6, half - 0.6) * 0.8, float(rng.normal(0, 0.25))
    ego = random_ego(rng, yaw, 2.0)
    scene = _scene(rng, seed, turned(things, yaw, 0, -lateral), ego, ceiling_m=height)
    return Scene(scene.things, scene.ego, (0.0, 0.0), 0.0, height, seed)
