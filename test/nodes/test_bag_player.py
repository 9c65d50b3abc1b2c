# SPDX-License-Identifier: Apache-2.0
"""bag_player_node over a real DDS: bytes, times, /clock, waiting, looping, the end."""

from __future__ import annotations

import time
import weakref

import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Int16MultiArray, String

from edge_nodes.bags import BagWriter, RawMessage, serialize
from edge_nodes.nodes.bag_player_node import BagPlayerNode, shifted
from edge_nodes.pipeline import header

START = 1_000 * 1_000_000_000
STEP = 50_000_000
CLOUD = "sensor_msgs/PointCloud2"


def _cloud(time_ns):
    return serialize(CLOUD, {"header": header(time_ns, "lidar"), "width": 4, "data": [1, 2, 3, 4]})


@pytest.fixture
def bag(tmp_path):
    path = tmp_path / "play.mcap"
    with BagWriter(path) as writer:
        for i in range(8):
            writer.write("/lidar/points", CLOUD, START + i * STEP, _cloud(START + i * STEP))
            writer.write("/note", "std_msgs/String", START + i * STEP, serialize("std_msgs/String", {"data": str(i)}))
    return path


def play(world, bag, **values):
    values = {"bag": str(bag), "exit_at_end": False, "wait_for_subscribers_s": 20.0, **values}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = world.add(BagPlayerNode(context=world.context, parameter_overrides=overrides))
    assert world.change("bag_player_node", "configure")
    assert world.change("bag_player_node", "activate")
    return node


def test_plays_all_at_its_time_with_its_clock(world, bag):
    clock = world.collect(Clock, "/clock", QoSProfile(depth=1))
    points, notes = world.collect(PointCloud2, "points"), world.collect(String, "/note")
    arrivals = []
    world.tester.create_subscription(PointCloud2, "points", lambda _: arrivals.append(time.monotonic()), 10)
    play(world, bag, linger_s=0.3)
    world.wait(lambda: len(points) == 8 and len(notes) == 8, what="all messages")
    assert [p.header.stamp.nanosec for p in points] == [i * STEP for i in range(8)]
    assert [n.data for n in notes] == [str(i) for i in range(8)]
    assert bytes(points[0].data) == bytes([1, 2, 3, 4])
    assert arrivals[-1] - arrivals[0] > 0.5 * 7 * STEP / 1e9, "not all at once"
    world.wait(lambda: _ns(clock[-1]) > START + 7 * STEP + 250_000_000, what="the clock after the end")
    times = [_ns(c) for c in clock]
    assert times == sorted(times)
    assert times[0] == START


def test_waits_for_subscribers(world, bag):
    clock = world.collect(Clock, "/clock", QoSProfile(depth=1))
    node = play(world, bag)
    world.wait(lambda: len(clock) > 8, what="the standing clock")
    assert {_ns(c) for c in clock} == {START}
    assert not node.statistics.counts["published points"]
    points = world.collect(PointCloud2, "points")
    world.wait(lambda: len(points) == 8, what="all messages")


def test_goes_on_if_nobody_comes(world, bag):
    notes = world.collect(String, "/note")
    play(world, bag, wait_for_subscribers_s=0.1)
    world.wait(lambda: len(notes) > 3, what="messages")


def test_faster_and_again_with_time_going_on(world, bag):
    points = world.collect(PointCloud2, "points", 50)
    play(world, bag, rate=4.0, loop=True)
    world.wait(lambda: len(points) > 20, what="three rounds")
    stamps = [p.header.stamp.sec * 1_000_000_000 + p.header.stamp.nanosec for p in points]
    assert stamps == sorted(set(stamps))
    assert world.change("bag_player_node", "deactivate")
    count = len(points)
    assert world.change("bag_player_node", "cleanup")
    assert len(points) <= count + 1


def test_a_player_closed_while_it_plays_leaves_nothing_behind(world, bag):
    """A left-over node would answer, or half answer, the next test's calls."""
    world.collect(PointCloud2, "points")
    node = weakref.ref(play(world, bag, loop=True))
    world.close()
    assert node() is None


def test_a_missing_bag_fails_the_configuration(world, tmp_path):
    overrides = [Parameter("bag", value=str(tmp_path / "none.mcap"))]
    node = world.add(BagPlayerNode(context=world.context, parameter_overrides=overrides))
    assert not world.change("bag_player_node", "configure")
    assert "no such bag" in node.health()[1]


def test_audio_of_another_name(world, tmp_path):
    with BagWriter(tmp_path / "a.mcap") as writer:
        writer.write("/mic", "std_msgs/Int16MultiArray", 0, serialize("std_msgs/Int16MultiArray", {"data": [1, 2]}))
    audio = world.collect(Int16MultiArray, "audio")
    play(world, tmp_path / "a.mcap", topics="audio:=/mic")
    world.wait(lambda: len(audio) == 1, what="the sound")


def test_shifted_moves_the_stamp_of_a_header_only():
    moved = shifted(RawMessage("/points", CLOUD, 0, _cloud(START)), 1_500_000_000)
    assert moved == _cloud(START + 1_500_000_000)
    text = RawMessage("/note", "std_msgs/String", 0, serialize("std_msgs/String", {"data": "x" * 20}))
    assert shifted(text, 5) == text.data


def _ns(message):
    return message.clock.sec * 1_000_000_000 + message.clock.nanosec
