# SPDX-License-Identifier: Apache-2.0
"""The monitor: its clock, latencies, and answers whose last words come late."""

from __future__ import annotations

import json

import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from edge_nodes.nodes.monitor import Monitor, Processes, SimClock

SECOND = 1_000_000_000
MS = 1_000_000


def test_clock_between_ticks():
    clock = SimClock()
    assert clock.at(5) == 0
    for i in range(50):  # it stands while the player waits for subscribers
        clock.tick(7 * SECOND, i * 10 * MS)
    for i in range(50):  # its first step is tiny: it goes on from where it stood
        clock.tick(7 * SECOND + 20_000 + i * 10 * MS, SECOND + i * 10 * MS + (i % 3) * MS)
    assert clock.at(SECOND + 300 * MS) == 7 * SECOND + 20_000 + 300 * MS


def test_clock_after_a_jump_back():
    clock = SimClock()
    clock.tick(9 * SECOND, SECOND)
    clock.tick(2 * SECOND, 2 * SECOND)
    assert clock.at(3 * SECOND) == 3 * SECOND


class Lines(list):
    """What the monitor told, with the monitor."""

    node = None


@pytest.fixture
def watched(world):
    lines = Lines()

    def tell(kind, **values):
        lines.append((kind, values))

    lines.node = world.add(Monitor(100 * SECOND, 5.0, None, tell, context=world.context))
    return lines


def _publisher(world, kind, topic):
    publisher = world.tester.create_publisher(kind, topic, 10)
    world.wait(lambda: publisher.get_subscription_count() > 0, what=f"a subscription to {topic}")
    return publisher


def _speech(kind, text, end_ns):
    return String(data=json.dumps({"kind": kind, "text": text, "end_ns": end_ns, "start_ns": 0, "stamp_ns": end_ns}))


def test_latencies_and_late_words(world, watched):
    clock = _publisher(world, Clock, "/clock")
    labels = _publisher(world, Image, "segmentation/labels")
    speech, language = _publisher(world, String, "speech/event"), _publisher(world, String, "language/event")
    token = _publisher(world, String, "language/token")
    for i in range(2):
        tick = Clock()
        tick.clock.sec, tick.clock.nanosec = 50, i * 100
        clock.publish(tick)
        world.wait(lambda: ("clock", {"time_s": 0.0}) in watched, what="the clock")
    image = Image()
    image.header.stamp.sec = 49
    labels.publish(image)
    speech.publish(_speech("final", "who is there", 49 * SECOND))
    world.wait(lambda: any(kind == "speech" for kind, _ in watched), what="the words")
    event = {"kind": "reply", "stamp_ns": 49 * SECOND, "text": "A person.", "finish_reason": "stop"}
    language.publish(String(data=json.dumps({**event, "request": {"source": "speech", "text": "who is there"}})))
    token.publish(String(data="A person."))
    world.wait(lambda: any(kind == "language" for kind, _ in watched), what="the end of the answer")
    kinds = [kind for kind, _ in watched if kind in {"token", "language"}]
    assert kinds == ["token", "language"]
    found = watched.node.measurements()
    assert found["answers"] == found["questions"] == 1
    assert 1000 <= found["first_word_ms"][0] < 6000
    assert 1000 <= found["topics"]["segmentation/labels"]["latency_ms"][0] < 6000


def test_nonsense_is_told(world, watched):
    speech = _publisher(world, String, "speech/event")
    speech.publish(String(data="{"))
    world.wait(lambda: any(kind == "problem" for kind, _ in watched), what="the problem")


def test_growth_is_what_is_gained_after_warming_up():
    processes = Processes()
    processes._last = processes._first = {"node": (1.0, 0.0)}
    processes._rss["node"] = [(100 + min(i, 20)) << 20 for i in range(100)]
    assert processes.summary()["node"]["growth_mb"] == 0
    processes._rss["node"] = [(100 << 20) + i * (1 << 18) for i in range(100)]
    assert processes.summary()["node"]["growth_mb"] == 12.5
    processes._rss["node"] = [5 << 20]
    assert processes.summary()["node"] == {"cpu_percent": 0.0, "rss_mb": 5.0, "growth_mb": 0.0}
