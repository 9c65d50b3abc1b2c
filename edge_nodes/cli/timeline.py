# SPDX-License-Identifier: Apache-2.0
"""Prints what a running graph sees, hears and says as lines a person can follow."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

SCENE_PAUSE_S = 1.5
ALARM_PAUSE_S = 5.0
PROGRESS_PAUSE_S = 1.0
SHOWN = 4
MOVES_MPS = 0.4
_UP = re.compile(r"^(\w+): activate done")
_NUMBER = re.compile(r"[\d.]+")
_STYLES = {"sees": "cyan", "alarm": "bold red", "hears": "dim", "heard": "bold yellow", "says": "bold green"}
LEVELS = {"WARN": "yellow", "ERROR": "bold red", "FATAL": "bold red"}


class Timeline:
    """Turns what `nodes.monitor` tells into lines.

    Args:
        console: where to print.
        about: the bag's description: its parts, real or simulated.
    """

    def __init__(self, console: Console, about: Mapping[str, Any]) -> None:
        self._console = console
        self._parts = list(about.get("parts", ()))
        self._playing = False
        self._answering = False
        self._scene: tuple[tuple[str, ...], float] = ((), -SCENE_PAUSE_S)
        self._alarm = ("", -ALARM_PAUSE_S)
        self._partial = ""
        self._progress_s = 0.0
        self.counts = {"answers": 0}

    def handle(self, event: dict[str, Any]) -> None:
        """Take one thing that happened."""
        kind = event.pop("kind")
        if "time_s" in event:
            self._announce_part(event["time_s"])
        getattr(self, f"_on_{kind}", lambda **_: None)(**event)

    def finish(self) -> None:
        """End an open line."""
        self._end_answer()

    def _on_log(self, node: str, level: str, text: str) -> None:
        if level in LEVELS:
            self._note(f"{node}: {text}", LEVELS[level])
        elif not self._playing:
            self._loading(node, text)

    def _loading(self, node: str, text: str) -> None:
        """Show progress, but not every line of six nodes that load side by side."""
        now = time.monotonic()
        if up := _UP.match(text):
            self._note(f"{up[1]} is up", "dim")
        elif node != "lifecycle_manager" and now - self._progress_s >= PROGRESS_PAUSE_S:
            self._note(f"{node}: {text}", "dim")
        else:
            return
        self._progress_s = now

    def _on_node(self, name: str, level: int, text: str, state: str) -> None:
        if level and self._playing:
            self._note(f"{name}: {text}", "yellow" if level == 1 else "bold red")

    def _on_problem(self, text: str, time_s: float = 0.0) -> None:
        self._note(text, "bold red")

    def _on_clock(self, time_s: float) -> None:
        self._playing = True
        self._announce_part(time_s)

    def _on_scene(self, time_s: float, objects: Sequence[Mapping[str, Any]], alarm: str) -> None:
        shape = _NUMBER.sub("", alarm)
        if alarm and (shape != self._alarm[0] or time_s - self._alarm[1] >= ALARM_PAUSE_S):
            self._line(time_s, "alarm", alarm)
            self._alarm = (shape, time_s)
        key, text = summary(objects)
        if key != self._scene[0] and time_s - self._scene[1] >= SCENE_PAUSE_S and not self._answering:
            self._scene = (key, time_s)
            self._line(time_s, "sees", text)

    def _on_speech(self, time_s: float, event: dict[str, Any]) -> None:
        text = event["text"].strip()
        if event["kind"] == "partial" and text and text != self._partial:
            self._partial = text
            self._line(time_s, "hears", f"{text} ...")
        if event["kind"] == "final":
            self._partial = ""
            self._line(time_s, "heard", f'"{text}"' + _exit(event) if text else "(no words)")

    def _on_token(self, time_s: float, text: str) -> None:
        if not self._answering:
            self._answering = True
            self._console.print(_head(time_s, "says"), end="")
        self._console.print(Text(text, style=_STYLES["says"]), end="", soft_wrap=True)
        self._console.file.flush()

    def _on_language(self, time_s: float, event: dict[str, Any]) -> None:
        self._end_answer()
        self.counts["answers"] += event["kind"] == "reply"
        if event["kind"] == "error":
            self._note(f"language_node: {event['text']}", "bold red")
        elif event["kind"] == "cancelled":
            self._note("the answer was cut short", "dim")
        elif event.get("tokens_per_s"):
            self._note(f"{event['tokens']['generated']} tokens, {event['tokens_per_s']:.0f} a second", "dim")

    def _announce_part(self, time_s: float) -> None:
        while self._parts and time_s >= self._parts[0]["from_s"]:
            part = self._parts.pop(0)
            self._end_answer()
            self._console.print(Text(f"{part['from_s']:6.1f} s  -- {part['text']} --", style="bold"))

    def _end_answer(self) -> None:
        if self._answering:
            self._answering = False
            self._console.print()

    def _line(self, time_s: float, verb: str, text: str) -> None:
        self._end_answer()
        self._console.print(_head(time_s, verb).append(text, style=_STYLES[verb]))

    def _note(self, text: str, style: str) -> None:
        self._end_answer()
        self._console.print(f"          {escape(text)}", style=style, highlight=False)


def summary(objects: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], str]:
    """Return what the scene is like, and the same in words with figures; a changed first part is worth a line.

    Args:
        objects: of a scene event, nearest first.
    """
    named = [o for o in objects if o["class"] in {"person", "vehicle"}]
    found = [(f"{o['class']} {_side(o['bearing_deg'])}", f"{o['range_m']:.1f} m", _moves(o)) for o in named[:SHOWN]]
    words = [f"{what} {distance}{', ' + how if how else ''}" for what, distance, how in found]
    more, others = len(named) - SHOWN, len(objects) - len(named)
    words += [f"{more} more"] if more > 0 else []
    words += [f"{others} other object{'s' if others > 1 else ''}"] if others else []
    return tuple(sorted(f"{what} {how}" for what, _, how in found)), "; ".join(words) or "nothing"


def _side(bearing_deg: float) -> str:
    return ("ahead", "left", "behind", "right")[round(bearing_deg / 90) % 4]


def _moves(thing: Mapping[str, Any]) -> str:
    x, y = thing["center_m"][:2]
    vx, vy = thing.get("velocity_mps") or (0.0, 0.0)
    if math.hypot(vx, vy) < MOVES_MPS:
        return ""
    nearer = -(x * vx + y * vy) / max(math.hypot(x, y), 0.1)
    if abs(nearer) > 0.5 * math.hypot(vx, vy):
        return "coming closer" if nearer > 0 else "going away"
    # Seen from the robot: what is ahead and moves along +y goes to the left.
    return "passing to the left" if x * vy - y * vx > 0 else "passing to the right"


def _head(time_s: float, verb: str) -> Text:
    return Text().append(f"{time_s:6.1f} s  ", style="dim").append(f"{verb:<6} ", style=_STYLES[verb])


def _exit(event: Mapping[str, Any]) -> str:
    parts = []
    if "exit" in event:
        parts.append(f"exit {event['exit']['layer']} of {event['exit']['of']}")
    if "confidence" in event:
        parts.append(f"confidence {event['confidence']:.2f}")
    return f"  ({', '.join(parts)})" if parts else ""
