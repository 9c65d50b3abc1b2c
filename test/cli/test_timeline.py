# SPDX-License-Identifier: Apache-2.0
"""The timeline: what is printed of what happens."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edge_nodes.cli.timeline import Timeline, summary

ABOUT = {
    "parts": [
        {"from_s": 0.0, "to_s": 2.0, "real": True, "text": "real scans"},
        {"from_s": 2.0, "to_s": 9.0, "real": False, "text": "simulated scans"},
    ]
}


def thing(kind, x, y, vx=0.0, vy=0.0):
    from math import atan2, degrees, hypot

    bearing = degrees(atan2(y, x))
    return {
        "class": kind,
        "range_m": hypot(x, y),
        "bearing_deg": bearing,
        "center_m": [x, y, 0],
        "velocity_mps": [vx, vy],
    }


def speech(kind, text):
    return {"kind": kind, "text": text, "exit": {"layer": 2, "of": 4, "policy": "confidence"}, "confidence": 0.91}


@pytest.fixture
def line():
    file = io.StringIO()
    timeline = Timeline(Console(file=file, width=200, color_system=None), ABOUT)
    timeline.handle({"kind": "clock", "time_s": 0.0})
    timeline.printed = lambda: file.getvalue()
    return timeline


def test_a_conversation(line):
    person = [thing("person", 5, 0, 0, 1)]
    line.handle({"kind": "scene", "time_s": 0.5, "objects": person, "alarm": ""})
    line.handle({"kind": "speech", "time_s": 1.0, "event": speech("start", "")})
    line.handle({"kind": "speech", "time_s": 1.2, "event": speech("partial", "what is")})
    line.handle({"kind": "speech", "time_s": 1.4, "event": speech("partial", "what is")})
    line.handle({"kind": "speech", "time_s": 2.1, "event": speech("final", "what is there")})
    for word in ("A ", "person."):
        line.handle({"kind": "token", "time_s": 2.3, "text": word})
    reply = {"kind": "reply", "text": "A person.", "tokens": {"generated": 2}, "tokens_per_s": 40.0}
    line.handle({"kind": "language", "time_s": 2.4, "event": reply})
    assert line.printed().splitlines() == [
        "   0.0 s  -- real scans --",
        "   0.5 s  sees   person ahead 5.0 m, passing to the left",
        "   1.2 s  hears  what is ...",
        "   2.0 s  -- simulated scans --",
        '   2.1 s  heard  "what is there"  (exit 2 of 4, confidence 0.91)',
        "   2.3 s  says   A person.",
        "          2 tokens, 40 a second",
    ]


def test_only_changes_are_told(line):
    for i in range(30):
        line.handle(
            {"kind": "scene", "time_s": i / 10, "objects": [thing("person", 9 - i / 10, 0, -1, 0)], "alarm": ""}
        )
    assert line.printed().count("sees") == 1


def test_alarms_pause(line):
    for i in range(80):
        alarm = f"Person at {3 - i / 100:.1f} m." if i % 2 else ""
        line.handle({"kind": "scene", "time_s": i / 10, "objects": [], "alarm": alarm})
    assert line.printed().count("alarm") == 2


def test_markup_in_text_is_printed_as_it_is(line):
    line.handle({"kind": "token", "time_s": 1.0, "text": "[bold]x[/]"})
    line.handle({"kind": "log", "node": "speech_node", "level": "WARN", "text": "[/] closed"})
    line.finish()
    assert "[bold]x[/]" in line.printed()
    assert "speech_node: [/] closed" in line.printed()


def test_silence_and_cancelled(line):
    line.handle({"kind": "speech", "time_s": 1.0, "event": {"kind": "final", "text": ""}})
    event = {"kind": "cancelled", "text": "", "tokens": {"generated": 0}}
    line.handle({"kind": "language", "time_s": 1.5, "event": event})
    assert "(no words)" in line.printed()
    assert "cut short" in line.printed()


def test_summary():
    objects = [
        thing("person", 2, 0, -1, 0),
        thing("wall", 3, 0),
        thing("vehicle", 0, -6, 0, -2),
        thing("person", 0, 7, 0, 0.1),
        thing("obstacle", 8, 0),
        thing("vehicle", -9, 0, 0, 1),
        thing("vehicle", 20, 0),
    ]
    _, text = summary(objects)
    assert text == (
        "person ahead 2.0 m, coming closer; vehicle right 6.0 m, going away; person left 7.0 m; "
        "vehicle behind 9.0 m, passing to the right; 1 more; 2 other objects"
    )
    assert summary([]) == ((), "nothing")
