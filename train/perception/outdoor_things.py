# SPDX-License-Identifier: Apache-2.0
"""What stands outdoors: cars of several builds, people in groups, plants, street furniture, house fronts."""

from __future__ import annotations

import math
from dataclasses import replace

from train.perception.scenes import clutter, person, uniform, wall
from train.perception.sensors import Rng
from train.perception.simulate import Motion, Thing


def car(rng: Rng, x: float, y: float, yaw: float, speed: float = 0.0) -> Thing:
    """Return a car of some build, seldom a van, a lorry or a trailer."""
    kind = str(
        rng.choice(
            ["saloon", "hatchback", "offroader", "car", "van", "lorry", "trailer"],
            p=[0.27, 0.27, 0.18, 0.08, 0.12, 0.05, 0.03],
        )
    )
    size = {
        "saloon": (uniform(rng, 4.2, 5.0), uniform(rng, 1.7, 1.9), uniform(rng, 1.35, 1.5)),
        "hatchback": (uniform(rng, 3.5, 4.4), uniform(rng, 1.6, 1.85), uniform(rng, 1.4, 1.6)),
        "offroader": (uniform(rng, 4.2, 5.0), uniform(rng, 1.8, 2.0), uniform(rng, 1.6, 1.9)),
        "car": (uniform(rng, 3.4, 5.0), uniform(rng, 1.6, 1.95), uniform(rng, 1.35, 1.85)),
        "van": (uniform(rng, 4.6, 6.5), uniform(rng, 1.9, 2.2), uniform(rng, 1.9, 2.8)),
        "lorry": (uniform(rng, 6.0, 12.0), uniform(rng, 2.2, 2.55), uniform(rng, 2.8, 3.8)),
        "trailer": (uniform(rng, 2.2, 4.0), uniform(rng, 1.3, 2.0), uniform(rng, 0.9, 2.2)),
    }[kind]
    # Dark paint returns little.
    shade = uniform(rng, 0.03, 0.15) if rng.random() < 0.35 else uniform(rng, 0.15, 0.9)
    return Thing(kind, Motion(x, y, yaw, 0.0 if kind == "trailer" else speed), size, reflectivity=shade)


def people(rng: Rng, x: float, y: float, yaw: float | None = None) -> list[Thing]:
    """Return one person, or a few close together that go the same way, or some that sit."""
    if rng.random() < 0.65:
        return [person(rng, x, y, yaw)]
    first = person(rng, x, y, yaw)
    out = [first]
    for _ in range(rng.integers(1, 4)):
        more = person(rng, x + float(rng.normal(0, 0.7)), y + float(rng.normal(0, 0.7)))
        if more.kind == "person":
            out.append(replace(more, motion=replace(first.motion, x=more.motion.x, y=more.motion.y)))
    if rng.random() < 0.2:
        return [replace(p, kind="seated", motion=replace(p.motion, speed=0.0)) for p in out if p.kind == "person"]
    return out


def plant(rng: Rng, x: float, y: float, yaw: float | None = None) -> Thing:
    """Return a tree, a shrub, a hedge or a thicket of leaves."""
    yaw = uniform(rng, -math.pi, math.pi) if yaw is None else yaw
    kind = str(rng.choice(["leafy_tree", "shrub", "clipped_hedge", "thicket"], p=[0.35, 0.35, 0.15, 0.15]))
    crown = uniform(rng, 1.5, 6.5)
    size = {
        "leafy_tree": (crown, crown * uniform(rng, 0.8, 1.2), uniform(rng, 2.5, 9.0)),
        "shrub": (uniform(rng, 0.5, 4.0), uniform(rng, 0.5, 3.0), uniform(rng, 0.4, 2.8)),
        "clipped_hedge": (uniform(rng, 1.5, 15.0), uniform(rng, 0.5, 1.6), uniform(rng, 0.5, 2.4)),
        "thicket": (uniform(rng, 3.0, 16.0), uniform(rng, 1.5, 6.0), uniform(rng, 1.2, 5.0)),
    }[kind]
    usual = {"leafy_tree": 0.6, "shrub": 1.5, "clipped_hedge": 4.0, "thicket": 0.8}[kind]
    density = usual * math.exp(rng.normal(0, 0.5))
    return Thing(kind, Motion(x, y, yaw), size, reflectivity=uniform(rng, 0.15, 0.6), density=density)


def furniture(rng: Rng, x: float, y: float, yaw: float = 0.0) -> list[Thing]:
    """Return what stands about in streets: posts, signs, bicycles, bins, cabinets, low walls."""
    choice = rng.random()
    shade = uniform(rng, 0.1, 0.9)
    if choice < 0.22:
        width = uniform(rng, 0.06, 0.4)
        return [Thing("pole", Motion(x, y), (width, width, uniform(rng, 0.7, 8.0)), reflectivity=shade)]
    if choice < 0.36:
        size = (0.1, uniform(rng, 0.4, 1.0), uniform(rng, 1.8, 3.2))
        return [Thing("sign", Motion(x, y, yaw + float(rng.normal(0, 0.4))), size, reflectivity=0.9)]
    if choice < 0.56:
        lean, count = yaw + uniform(rng, 0, math.pi), int(rng.integers(1, 7))
        return [
            Thing(
                "bicycle",
                Motion(x + 0.55 * i * math.cos(yaw), y + 0.55 * i * math.sin(yaw), lean + float(rng.normal(0, 0.1))),
                (uniform(rng, 1.5, 1.9), uniform(rng, 0.4, 0.65), uniform(rng, 0.9, 1.15)),
                reflectivity=0.3,
            )
            for i in range(count)
        ]
    if choice < 0.66:
        size = (uniform(rng, 0.5, 3.0), uniform(rng, 0.4, 2.4), uniform(rng, 0.4, 2.6))
        return [Thing("block", Motion(x, y, yaw), size, reflectivity=shade)]
    if choice < 0.74:
        size = (uniform(rng, 2.0, 12.0), uniform(rng, 0.2, 0.5), uniform(rng, 0.3, 1.2))
        return [Thing("block", Motion(x, y, yaw), size, reflectivity=shade)]
    return [clutter(rng, x, y)]


def facade(rng: Rng, a: float, b: float, y: float, outwards: float) -> list[Thing]:
    """Return the front of a house along the lane from x = `a` to `b`: recesses, doors, windows, some balconies.

    Args:
        rng: choices.
        a: nearer end along the lane, m.
        b: farther end, m.
        y: of the front, m.
        outwards: +1 if the house is on the side of growing y, else -1.
    """
    high, shade, things, x = uniform(rng, 2.8, 12.0), uniform(rng, 0.2, 0.8), [], a
    glassy = rng.random() < 0.7

    def piece(x0: float, x1: float, back: float, z: float, top: float) -> None:
        middle = Motion((x0 + x1) / 2, y + outwards * back)
        things.append(Thing("wall", middle, (x1 - x0, 0.3, top - z), z, reflectivity=shade))

    while x < b - 0.3:
        end = min(b, x + uniform(rng, 1.0, 5.0))
        back = 0.0 if rng.random() < 0.6 else uniform(rng, 0.1, 1.2)
        if rng.random() < 0.1:
            piece(x, end, back + uniform(rng, 1.5, 4.0), 0.0, 2.5)
            piece(x, end, back, 2.5, max(high, 2.9))
        elif glassy and rng.random() < 0.45:
            sill, lintel = uniform(rng, 0.3, 1.2), uniform(rng, 1.9, 2.4)
            piece(x, end, back, 0.0, sill)
            piece(x, end, back, lintel, max(high, lintel + 0.4))
            if rng.random() < 0.5:
                piece(x, end, back + uniform(rng, 0.3, 3.0), 0.0, 2.6)
        else:
            piece(x, end, back, 0.0, high)
        if rng.random() < 0.1:
            steps = (end - x, uniform(rng, 0.4, 1.2), uniform(rng, 0.2, 0.9))
            things.append(Thing("block", Motion((x + end) / 2, y - outwards * steps[1] / 2), steps, reflectivity=shade))
        x = end
    depth = uniform(rng, 6, 12)
    things += [wall(rng, (at, y), (at, y + outwards * depth), high) for at in (a, b)]
    things.append(wall(rng, (a, y + outwards * depth), (b, y + outwards * depth), high))
    return things
