# SPDX-License-Identifier: Apache-2.0
"""What a scene event says, as facts; and which of them a question is about."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_nodes.language.errors import LanguageError

NAMES = {"vehicle": ("car", "cars"), "person": ("person", "people"), "wall": ("wall", "walls")}
OTHER = ("obstacle", "obstacles")
SIDES = ("ahead", "left", "right", "behind")
PLACES = {"ahead": "ahead", "left": "on the left", "right": "on the right", "behind": "behind"}
BLOCKED_M = 2.0  # less room than this is called blocked
MOVING_MPS = 0.5

_CLASS_WORDS = {
    "person": "person people pedestrian pedestrians human humans someone somebody anyone anybody man woman child",
    "vehicle": "car cars vehicle vehicles truck trucks bus van automobile traffic",
    "wall": "wall walls building buildings",
    "obstacle": "obstacle obstacles",
}
_SIDE_WORDS = {
    "ahead": "ahead front forward forwards straight",
    "left": "left",
    "right": "right",
    "behind": "behind back backwards rear reverse",
}
_SEEING_WORDS = (
    "see seeing view scene look looking around near nearby nearest close closest far distance there where anything"
    " something nothing everything many object objects thing things surroundings environment danger dangerous describe"
)
_NUMBER_WORDS = "many count number"
_NEAREST_WORDS = "nearest closest far distance where"
_MOTION_WORDS = "moving moves walking walks running coming driving approaching still standing parked"
_PAST_WORDS = "before earlier previously ago was were"
_ROBOT_WORDS = "hello hi hey who name yourself robot morning evening"
_ROOM_WORDS = "clear free room space blocked safe path way go drive move turn walk continue stop pass"


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        kind: "vehicle", "person", "wall" or "obstacle".
        range_m: distance, m.
        bearing_deg: degrees from ahead, positive to the left.
        speed_mps: speed, m/s.
    """

    kind: str
    range_m: float
    bearing_deg: float
    speed_mps: float

    @property
    def side(self) -> str:
        """Return "ahead", "left", "right" or "behind"."""
        angle = (self.bearing_deg + 180.0) % 360.0 - 180.0
        if abs(angle) <= 35.0:
            return "ahead"
        if abs(angle) >= 145.0:
            return "behind"
        return "left" if angle > 0 else "right"


@dataclass(frozen=True)
class Scene:
    """What is around the robot.

    Attributes:
        objects: nearest first.
        free_m: {side: distance to the first occupied cell, m}.
        text: the scene in words, as the scene node said it.
        alarm: what needs attention now, or "".
        sequence: number of the event.
        stamp_ns: its stamp.
    """

    objects: tuple[SceneObject, ...]
    free_m: Mapping[str, float]
    text: str = ""
    alarm: str = ""
    sequence: int | None = None
    stamp_ns: int = 0

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """Return the scene of a `scene/event`.

        Raises:
            LanguageError: BAD_INPUT, not a scene event.
        """
        try:
            event: Mapping[str, Any] = json.loads(text)
            objects = [_object(o) for o in event["objects"]]
            free = {str(side): float(m) for side, m in event["free_m"].items()}
            alarm = str(event["alarm"]["text"]) if event.get("alarm") else ""
            return cls(
                tuple(sorted(objects, key=lambda o: o.range_m)),
                free,
                str(event.get("text", "")),
                alarm,
                int(event["sequence"]),
                int(event["stamp_ns"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LanguageError(
                "a scene event is not valid", got=f"{type(error).__name__}: {error}", expected="see docs/events.md"
            ) from error


def _object(entry: Mapping[str, Any]) -> SceneObject:
    bearing = entry.get("bearing_deg")
    if bearing is None:
        from math import atan2, degrees

        x, y, _ = entry["center_m"]
        bearing = degrees(atan2(y, x))
    return SceneObject(str(entry["class"]), float(entry["range_m"]), float(bearing), float(entry.get("speed_mps", 0.0)))


@dataclass(frozen=True)
class Topic:
    """What a question is about; empty sets mean everything.

    Attributes:
        kinds: classes of objects it names.
        sides: directions it names.
        room: whether it asks for room to move.
        about_scene: whether it is about the surroundings at all.
        form: what it asks of the objects: "number", "nearest" or "list".
        motion: whether it matters if they move.
        about_robot: whether it is a greeting or about the robot itself.
        past: whether it asks for what was before.
    """

    kinds: frozenset[str]
    sides: frozenset[str]
    room: bool
    about_scene: bool
    form: str
    motion: bool
    about_robot: bool
    past: bool

    @classmethod
    def of(cls, question: str) -> Topic:
        """Return the topic that the words of `question` name."""
        words = set(re.findall(r"[a-z]+", question.lower()))
        kinds, sides = _named(words, _CLASS_WORDS), _named(words, _SIDE_WORDS)
        room = bool(words & set(_ROOM_WORDS.split()))
        past = bool(words & set(_PAST_WORDS.split()))
        about = bool(kinds or sides or room or past or words & set(_SEEING_WORDS.split()))
        number, nearest = words & set(_NUMBER_WORDS.split()), words & set(_NEAREST_WORDS.split())
        form = "number" if number else "nearest" if nearest else "list"
        motion, robot = bool(words & set(_MOTION_WORDS.split())), not about and bool(words & set(_ROBOT_WORDS.split()))
        return cls(kinds, sides, room, about, form, motion, robot, past)


def _named(words: set[str], table: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name for name, known in table.items() if words & set(known.split()))


def facts(scene: Scene, topic: Topic, *, limit: int = 3) -> list[str]:
    """Return short sentences that hold in the scene and matter to the topic, most important first.

    Args:
        scene: the scene.
        topic: what is asked about.
        limit: most objects named one by one.
    """
    out = [_about_kind(scene, kind, topic, limit) for kind in sorted(topic.kinds)]
    if topic.room:
        out += [_about_room(scene, side) for side in SIDES if side in (topic.sides or {"ahead"})]
    if not any(out):
        out = [_about_all(scene, topic, limit)]
    return [fact for fact in out if fact]


def _about_kind(scene: Scene, kind: str, topic: Topic, limit: int) -> str:
    singular, plural = NAMES.get(kind, OTHER)
    found = [o for o in scene.objects if o.kind == kind and (not topic.sides or o.side in topic.sides)]
    place = f" {_any_place(topic.sides)}" if topic.sides else ""
    if not found:
        return f"There is no {singular}{place}."
    if topic.form == "number":
        return (
            f"There {'is' if len(found) == 1 else 'are'} {len(found)} {singular if len(found) == 1 else plural}{place}."
        )
    if topic.form == "nearest":
        return f"The nearest {singular} is {_where(found[0])}."
    return _list(found[:limit], topic.motion)


def _about_all(scene: Scene, topic: Topic, limit: int) -> str:
    found = [o for o in scene.objects if not topic.sides or o.side in topic.sides]
    if not found:
        return f"There is nothing {_any_place(topic.sides)}."
    if topic.form == "number":
        return f"There {'is 1 object' if len(found) == 1 else f'are {len(found)} objects'}."
    return _list(_varied(found, 1 if topic.form == "nearest" else limit), topic.motion)


def _varied(objects: Sequence[SceneObject], limit: int) -> list[SceneObject]:
    """Return at most `limit` objects, nearest first; the nearest of each class come before a second of one."""
    seen: dict[str, int] = {}
    ranked = []
    for o in objects:
        seen[o.kind] = seen.get(o.kind, 0) + 1
        ranked.append((seen[o.kind] if limit > 1 else 1, o.range_m, o))
    chosen = sorted(ranked, key=lambda entry: entry[:2])[:limit]
    return sorted((o for _, _, o in chosen), key=lambda o: o.range_m)


def _about_room(scene: Scene, side: str) -> str:
    free = scene.free_m.get(side)
    if free is None:
        return ""
    name = {"ahead": "The way ahead", "behind": "The way behind"}.get(side, f"The {side}")
    if free < BLOCKED_M:
        return f"{name} is blocked at {free:.1f} meters."
    return f"{name} is clear for {free:.0f} meters."


def _list(objects: Sequence[SceneObject], motion: bool) -> str:
    *most, last = [f"{_article(o, motion)} {_where(o)}" for o in objects]
    return f"There is {', '.join(most)} and {last}." if most else f"There is {last}."


def _article(o: SceneObject, motion: bool) -> str:
    name = NAMES.get(o.kind, OTHER)[0]
    name = ("moving " if motion and o.speed_mps >= MOVING_MPS else "") + name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _where(o: SceneObject) -> str:
    distance = f"{o.range_m:.0f}" if o.range_m >= 10 else f"{o.range_m:.1f}".removesuffix(".0")
    return f"{distance} meters {'away ' if o.side in ('left', 'right') else ''}{PLACES[o.side]}"


def _any_place(sides: Sequence[str] | frozenset[str]) -> str:
    return " or ".join(PLACES[s] for s in SIDES if s in sides) if sides else "around"
