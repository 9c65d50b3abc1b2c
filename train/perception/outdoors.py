# SPDX-License-Identifier: Apache-2.0
"""Outdoor scenes with what real recordings hold: leaves that let rays through, banks, rails, facades with openings.

Each is made along a lane (x along it, y across) and then turned and moved so that the robot is at the origin.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from train.perception.outdoor_things import car, facade, furniture, people, plant
from train.perception.scenes import house, random_ego, turned, uniform
from train.perception.sensors import Rng, Sensor
from train.perception.simulate import PERSON, UNKNOWN, VEHICLE, Motion, Scene, Terrain, Thing

KINDS = ("avenue", "country", "park", "lot", "track")
_SHARES = (0.34, 0.28, 0.2, 0.1, 0.08)


def outdoor_scene(seed: int, kind: str = "") -> Scene:
    """Return the outdoor scene of `seed`.

    Args:
        seed: any integer.
        kind: one of `KINDS`; "" lets the seed choose.
    """
    rng = np.random.default_rng((seed, 4))
    kind = kind or str(rng.choice(KINDS, p=_SHARES))
    return {"avenue": _avenue, "country": _country, "park": _park, "lot": _lot, "track": _track}[kind](rng, seed)


def on_car(scene: Scene, sensor: Sensor) -> Scene:
    """Return the scene with corners of the car that carries a high sensor in its view, most of the time."""
    rng = np.random.default_rng((scene.seed, 5))
    if sensor.height < 1.3 or rng.random() < 0.25:
        return scene
    parts = []
    for _ in range(rng.integers(1, 5)):
        x, y = uniform(rng, 0.3, 1.5), uniform(rng, 0.6, 0.95)
        top = sensor.height - math.hypot(x, y) * uniform(rng, 0.3, 0.45)
        size = (uniform(rng, 0.05, 0.3), uniform(rng, 0.05, 0.3), top)
        x *= float(rng.choice([-1, 1]))
        for side in (-1, 1):
            # Carried along: x, y are in the frame of the sensor at the start, which is all that single scans see.
            px, py, yaw = scene.ego.at(0.0)
            c, s = math.cos(yaw), math.sin(yaw)
            at = replace(scene.ego, x=px + c * x - s * side * y, y=py + s * x + c * side * y)
            parts.append(Thing("box", at, size, label=UNKNOWN, reflectivity=0.5))
    return replace(scene, things=(*scene.things, *parts))


def _finished(
    rng: Rng, seed: int, things: list[Thing], lateral: float, yaw: float, terrain: Terrain | None, fast: float
) -> Scene:
    """Turn the lane around the robot, take out what collides, choose the ground and the robot's way."""
    around = _apart(turned(things, yaw, 0, -lateral))
    slope = rng.normal(0, 0.015, 2)
    ego = random_ego(rng, yaw if rng.random() < 0.8 else 0.0, fast)
    if terrain is not None:
        terrain = replace(terrain, yaw=yaw, left_m=terrain.left_m - lateral, right_m=terrain.right_m + lateral)
    return Scene(
        tuple(around),
        ego,
        (float(slope[0]), float(slope[1])),
        bumps_m=uniform(rng, 0, 0.12),
        seed=seed,
        terrain=terrain,
    )


def _spine(thing: Thing) -> tuple[np.ndarray, float]:
    """Return points along a thing's length (K, 2) and how far around them it reaches, m."""
    length, width, _ = thing.dimensions
    if width > length:
        length, width, yaw = width, length, thing.motion.yaw + math.pi / 2
    else:
        yaw = thing.motion.yaw
    along = np.linspace(-0.5, 0.5, max(1, math.ceil(length / max(width, 0.8)))) * max(0.0, length - width)
    return np.column_stack([thing.motion.x + along * math.cos(yaw), thing.motion.y + along * math.sin(yaw)]), width / 2


def _apart(things: list[Thing]) -> list[Thing]:
    """Return what neither stands on the robot nor in a vehicle or person that comes before it."""
    ranked = sorted(things, key=lambda t: {VEHICLE: 0, PERSON: 1}.get(t.class_id, 2))
    kept: list[Thing] = []
    points, reach = np.zeros((1, 2)), np.full(1, 0.9)
    for thing in ranked:
        spine, radius = _spine(thing)
        gap = np.linalg.norm(spine[:, None] - points[None], axis=-1) - radius - reach[None]
        flat = thing.dimensions[2] < 0.15
        if flat or gap.min() > -0.1:
            kept.append(thing)
            if thing.class_id in (VEHICLE, PERSON):
                points = np.concatenate([points, spine])
                reach = np.concatenate([reach, np.full(len(spine), radius)])
    return kept


def _border(rng: Rng, sign: float, near: float) -> list[Thing]:
    """Return what closes a lane off on one side, from x = -45 to 45: fronts, hedges, railings, thickets, gaps."""
    things: list[Thing] = []
    x = -45.0 - uniform(rng, 0, 8)
    leafy = rng.random()
    while x < 45:
        length, y = uniform(rng, 4, 22), sign * (near + uniform(rng, 0, 2.5))
        choice = rng.random()
        if choice < 0.55 * (1 - leafy):
            things += facade(rng, x, x + length, y, sign)
        elif choice < 0.7:
            hedge = choice < 0.4
            size = (length, uniform(rng, 0.6, 1.8) if hedge else uniform(rng, 2, 7), uniform(rng, 0.7, 4.0))
            density = 4.0 if hedge else 0.8
            kind = "clipped_hedge" if hedge else "thicket"
            middle = Motion(x + length / 2, y + sign * size[1] / 2, float(rng.normal(0, 0.05)))
            things.append(Thing(kind, middle, size, reflectivity=uniform(rng, 0.2, 0.6), density=density))
        elif choice < 0.82:
            kind = "railing" if rng.random() < 0.6 else "wall"
            size = (length, 0.05 if kind == "railing" else 0.25, uniform(rng, 0.8, 2.0))
            things.append(Thing(kind, Motion(x + length / 2, y), size, reflectivity=uniform(rng, 0.2, 0.7)))
        for _ in range(rng.integers(0, 5)):
            things.append(plant(rng, x + uniform(rng, 0, length), y + sign * uniform(rng, 0.5, 10)))
        x += length + uniform(rng, 0, 4)
    return things


def _pedestrians(rng: Rng, count: int, half: float, wide: float, long: float) -> list[Thing]:
    out: list[Thing] = []
    for _ in range(count):
        sign = float(rng.choice([-1, 1]))
        yaw = float(rng.choice([0, math.pi])) + float(rng.normal(0, 0.25)) if rng.random() < 0.7 else None
        out += people(rng, uniform(rng, -long, long), sign * (half + uniform(rng, -1.0, wide)), yaw)
    return out


def _avenue(rng: Rng, seed: int) -> Scene:
    half, side = uniform(rng, 2.5, 7.0), uniform(rng, 1.2, 4.5)
    things: list[Thing] = []
    for sign in (-1.0, 1.0):
        things += _border(rng, sign, half + side)
        if rng.random() < 0.7:
            kerb = (110.0, 0.2, uniform(rng, 0.05, 0.14))
            things.append(Thing("kerb", Motion(0, sign * half), kerb, reflectivity=0.4))
        parked, x = rng.random() * 0.85, -45.0
        across = rng.random() < 0.2
        while x < 45:
            if rng.random() < parked:
                yaw = float(rng.choice([0, math.pi])) + (math.pi / 2 if across else 0) + float(rng.normal(0, 0.05))
                things.append(car(rng, x, sign * (half - (-1.0 if across else 1.0)), yaw))
            x += uniform(rng, 2.4, 4.0) if across else uniform(rng, 5.2, 9.0)
        for _ in range(rng.integers(2, 11)):
            things += furniture(rng, uniform(rng, -40, 40), sign * (half + uniform(rng, 0.2, side)))
        trees, x = rng.random(), -40.0
        while x < 40:
            if rng.random() < trees * 0.7:
                tree = plant(rng, x, sign * (half + 0.7))
                things.append(replace(tree, kind="leafy_tree", size=(tree.size[0] % 4 + 2, 3.5, tree.size[2] % 5 + 4)))
            x += uniform(rng, 5, 11)
    for _ in range(rng.integers(0, 5)):
        sign = float(rng.choice([-1, 1]))
        things.append(
            car(rng, uniform(rng, -40, 40), sign * half * 0.4, 0.0 if sign < 0 else math.pi, uniform(rng, 1, 14))
        )
    things += _pedestrians(rng, int(rng.integers(2, 14)), half, side, 28)
    lateral = (
        uniform(rng, -half - side + 0.8, half + side - 0.8) if rng.random() < 0.4 else uniform(rng, -half, half) * 0.6
    )
    yaw = float(rng.normal(0, 0.2)) if rng.random() < 0.7 else uniform(rng, -math.pi, math.pi)
    terrain = Terrain(
        left_m=half + side, right_m=half + side, rough_m=uniform(rng, 0, 0.12), left_rise_m=uniform(rng, -0.2, 0.5),
        right_rise_m=uniform(rng, -0.2, 0.5), seed=seed,
    )  # fmt: skip
    return _finished(rng, seed, things, lateral, yaw, terrain, 9.0)


def _country(rng: Rng, seed: int) -> Scene:
    half = uniform(rng, 2.0, 9.0)
    things: list[Thing] = []
    for sign in (-1.0, 1.0):
        if rng.random() < 0.35:
            rail = (uniform(rng, 30, 90), 0.2, uniform(rng, 0.6, 0.9))
            things.append(Thing("guard_rail", Motion(0, sign * (half + 0.4)), rail, reflectivity=0.7))
        if rng.random() < 0.8:
            things += _border(rng, sign, half + uniform(rng, 0.8, 9))
        for _ in range(rng.integers(3, 26)):
            things.append(plant(rng, uniform(rng, -38, 38), sign * (half + uniform(rng, 0.8, 28))))
        for _ in range(rng.integers(0, 6)):
            size = (uniform(rng, 1, 12), uniform(rng, 0.5, 4), uniform(rng, 0.1, 0.4))
            at = Motion(uniform(rng, -30, 30), sign * (half + uniform(rng, 1.0, 15)), uniform(rng, 0, math.pi))
            things.append(Thing("grass", at, size, reflectivity=0.4, density=3.0))
        for _ in range(rng.integers(1, 7)):
            things += furniture(rng, uniform(rng, -38, 38), sign * (half + uniform(rng, 0.3, 4)))
    for _ in range(rng.integers(0, 4)):
        y = uniform(rng, -half, half)
        things.append(Thing("kerb", Motion(0, y), (100.0, 0.1, uniform(rng, 0.05, 0.14)), reflectivity=0.5))
    for _ in range(rng.integers(0, 6)):
        sign = float(rng.choice([-1, 1]))
        lane = sign * half * 0.45 if rng.random() < 0.7 else sign * (half + uniform(rng, 1, 9))
        speed = uniform(rng, 3, 20) if abs(lane) < half and rng.random() < 0.8 else 0.0
        yaw = 0.0 if sign < 0 else math.pi
        things.append(car(rng, uniform(rng, -38, 38), lane, yaw if speed else uniform(rng, 0, math.pi), speed))
    things += _pedestrians(rng, int(rng.integers(0, 5)), half, 3.0, 28)
    terrain = Terrain(
        left_m=half + uniform(rng, 0, 3), right_m=half + uniform(rng, 0, 3), left_rise_m=uniform(rng, -0.8, 2.5),
        right_rise_m=uniform(rng, -0.8, 2.5), slope_m=uniform(rng, 2, 9), rough_m=uniform(rng, 0, 0.3), seed=seed,
    )  # fmt: skip
    yaw = float(rng.normal(0, 0.2)) if rng.random() < 0.7 else uniform(rng, -math.pi, math.pi)
    return _finished(rng, seed, things, uniform(rng, -half, half) * 0.7, yaw, terrain, 14.0)


def _park(rng: Rng, seed: int) -> Scene:
    things: list[Thing] = []

    def spot() -> tuple[float, float]:
        return uniform(rng, -32, 32), uniform(rng, -32, 32)

    things += [plant(rng, *spot()) for _ in range(rng.integers(5, 45))]
    for _ in range(rng.integers(2, 16)):
        things += furniture(rng, *spot(), uniform(rng, 0, math.pi))
    for _ in range(rng.integers(2, 14)):
        things += people(rng, *spot())
    for _ in range(rng.integers(0, 5)):
        kind = str(rng.choice(["railing", "wall", "clipped_hedge"]))
        size = (uniform(rng, 4, 18), 0.06 if kind == "railing" else 0.5, uniform(rng, 0.6, 2.0))
        things.append(Thing(kind, Motion(*spot(), uniform(rng, 0, math.pi)), size, density=4.0))
    for _ in range(rng.integers(0, 4)):
        things.append(car(rng, *spot(), uniform(rng, 0, math.pi)))
    for at in (spot() for _ in range(rng.integers(0, 3))):
        if math.hypot(*at) > 14:
            things += house(rng, *at, uniform(rng, 4, 14), uniform(rng, 4, 9), uniform(rng, 0, math.pi))
    path = uniform(rng, 1.0, 6.0)
    terrain = Terrain(
        left_m=path, right_m=path, left_rise_m=float(rng.normal(0, 0.5)), right_rise_m=float(rng.normal(0, 0.5)),
        slope_m=uniform(rng, 4, 15), rough_m=uniform(rng, 0, 0.25), seed=seed,
    )  # fmt: skip
    return _finished(rng, seed, things, 0.0, uniform(rng, -math.pi, math.pi), terrain, 3.0)


def _lot(rng: Rng, seed: int) -> Scene:
    """Rows of parked cars, hedges between them, people on their way to them."""
    things: list[Thing] = []
    row, full = -30.0 + uniform(rng, 0, 6), uniform(rng, 0.2, 0.95)
    while row < 30:
        x, slant = -34.0, float(rng.normal(0, 0.03)) + (0.6 if rng.random() < 0.2 else 0.0)
        while x < 34:
            if rng.random() < full:
                yaw = math.pi / 2 * float(rng.choice([-1, 1])) + slant
                things.append(car(rng, x, row, yaw))
            x += uniform(rng, 2.4, 3.0)
        if rng.random() < 0.5:
            hedge = (uniform(rng, 8, 50), uniform(rng, 0.5, 2), uniform(rng, 0.5, 1.8))
            things.append(Thing("clipped_hedge", Motion(0, row + 3.2), hedge, reflectivity=0.4, density=3.0))
        for _ in range(rng.integers(0, 5)):
            things.append(plant(rng, uniform(rng, -32, 32), row + 3.2))
            things += furniture(rng, uniform(rng, -32, 32), row + 3.2)
        row += uniform(rng, 10, 17)
    for _ in range(rng.integers(1, 10)):
        things += people(rng, uniform(rng, -28, 28), uniform(rng, -28, 28))
    for sign in (-1.0, 1.0):
        if rng.random() < 0.5:
            things += _border(rng, sign, 33)
    return _finished(rng, seed, things, 0.0, uniform(rng, -math.pi, math.pi), None, 4.0)


def _track(rng: Rng, seed: int) -> Scene:
    """A race track: barriers, catch fences, a pit wall, gravel and grass, cars that overtake."""
    half = uniform(rng, 5, 9)
    things: list[Thing] = []
    for sign in (-1.0, 1.0):
        run_off = uniform(rng, 0.5, 14)
        y = sign * (half + run_off)
        things.append(Thing("wall", Motion(0, y), (120.0, 0.4, uniform(rng, 0.8, 1.2)), reflectivity=0.6))
        if rng.random() < 0.6:
            things.append(Thing("railing", Motion(0, y + sign * 0.4), (60.0, 0.04, 3.2), reflectivity=0.4))
        count = rng.integers(0, 8)
        things += [plant(rng, uniform(rng, -32, 32), y + sign * uniform(rng, 3, 20)) for _ in range(count)]
        for _ in range(rng.integers(0, 5)):
            things += people(rng, uniform(rng, -25, 25), y + sign * uniform(rng, 1, 4))
        for _ in range(rng.integers(0, 4)):
            things += furniture(rng, uniform(rng, -30, 30), y + sign * uniform(rng, 1, 4))
        if rng.random() < 0.4:
            things += facade(rng, -30, 30, y + sign * uniform(rng, 6, 15), sign)
    fast = uniform(rng, 5, 30)
    for _ in range(rng.integers(0, 6)):
        size = (uniform(rng, 4.2, 5.4), uniform(rng, 1.7, 2.0), uniform(rng, 0.95, 1.3))
        speed = max(0.0, fast + float(rng.normal(0, 5)))
        at = Motion(uniform(rng, -32, 32), uniform(rng, -half, half) * 0.8, float(rng.normal(0, 0.05)), speed)
        things.append(Thing("racer", at, size, reflectivity=uniform(rng, 0.05, 0.7)))
    terrain = Terrain(left_m=half, right_m=half, rough_m=uniform(rng, 0, 0.1), seed=seed)
    return _finished(rng, seed, things, uniform(rng, -half, half) * 0.8, float(rng.normal(0, 0.1)), terrain, fast)
