# SPDX-License-Identifier: Apache-2.0
"""The scene in words that a person and a small language model understand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edge_nodes.perception.config import SceneConfig

if TYPE_CHECKING:
    from edge_nodes.perception.scene import SceneObject

_QUARTERS = {0: "Ahead", 1: "Left", 2: "Behind", 3: "Right"}
_PLURAL = {"person": "persons", "vehicle": "vehicles", "obstacle": "obstacles"}
_SHOWN = 3


def describe(
    objects: Sequence[SceneObject],
    free_m: Mapping[str, float],
    wall_m: Mapping[str, float],
    config: SceneConfig,
) -> str:
    """Return a few short sentences: how many of what, what is where and how it moves, where the way is free.

    Args:
        objects: nearest first.
        free_m: free distance by direction.
        wall_m: distance of the nearest wall by direction.
        config: limits.
    """
    sentences = [_count(objects)]
    for quarter, name in _QUARTERS.items():
        here = [o for o in objects if round(o.bearing_deg / 90) % 4 == quarter]
        # Persons and moving things come first: they are what is asked about.
        here.sort(key=lambda o: (o.kind != "person" and o.speed_mps == 0, o.range_m))
        if here:
            parts = [_thing(o) for o in here[:_SHOWN]]
            more = len(here) - _SHOWN
            sentences.append(f"{name}: {'; '.join(parts)}{f'; {more} more' if more > 0 else ''}.")
    if wall_m:
        walls = ", ".join(f"{distance:.1f} m {name}" for name, distance in wall_m.items())
        sentences.append(f"Nearest wall: {walls}.")
    edge = config.bev.range_m - 0.1
    free = ", ".join(
        f"more than {config.bev.range_m:.0f} m {d}" if free_m[d] >= edge else f"{free_m[d]:.1f} m {d}"
        for d in ("ahead", "left", "right")
    )
    sentences.append(f"Free way: {free}.")
    return " ".join(sentences)


def _count(objects: Sequence[SceneObject]) -> str:
    counts = {kind: sum(o.kind == kind for o in objects) for kind in _PLURAL}
    parts = [f"{n} {kind if n == 1 else _PLURAL[kind]}" for kind, n in counts.items() if n]
    return f"In sight: {', '.join(parts)}." if parts else "In sight: no person, no vehicle, no obstacle."


def _thing(thing: SceneObject) -> str:
    off = (thing.bearing_deg + 45) % 90 - 45
    where = f"{'an' if thing.kind == 'obstacle' else 'a'} {thing.kind} at {thing.range_m:.1f} m"
    if abs(off) >= 5 and abs(thing.bearing_deg) <= 45:
        where += f", {abs(off):.0f} degrees {'left' if thing.bearing_deg > 0 else 'right'}"
    return f"{where}, {_motion(thing)}"


def _motion(thing: SceneObject) -> str:
    speed = thing.speed_mps
    if speed == 0:
        return {"vehicle": "not moving", "person": "standing"}.get(thing.kind, "not moving")
    verb = {"vehicle": "driving", "person": "walking" if speed < 2.5 else "running"}.get(thing.kind, "moving")
    return f"{verb} {_way(thing)} at {speed:.1f} m/s"


def _way(thing: SceneObject) -> str:
    share = thing.closing_mps / thing.speed_mps
    if share > math.cos(math.radians(35)):
        return "towards the robot"
    if share < -math.cos(math.radians(35)):
        return "away from the robot"
    vx, vy = thing.velocity_mps
    if abs(vx) > abs(vy):
        return "past the robot, to the front" if vx > 0 else "past the robot, to the rear"
    return "to the left" if vy > 0 else "to the right"
