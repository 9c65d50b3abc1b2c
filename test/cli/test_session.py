# SPDX-License-Identifier: Apache-2.0
"""A small graph under the supervisor, over a real DDS: the player, the manager and the monitor."""

from __future__ import annotations

import json

import pytest

from edge_nodes import graph
from edge_nodes.bags import BagReader, BagWriter, serialize
from edge_nodes.cli import report, session
from edge_nodes.pipeline import header

pytest.importorskip("rclpy", reason="needs the [ros] extra or a ROS distribution")
CLOUD = "sensor_msgs/PointCloud2"
OVERRIDES = {"bag_player_node": {"wait_for_subscribers_s": 0.5}}


@pytest.fixture
def bag(tmp_path):
    path = tmp_path / "bag.mcap"
    with BagWriter(path) as writer:
        for i in range(10):
            fields = {"header": header(i * 100_000_000 + 1, "lidar"), "width": 1}
            writer.write("/points", CLOUD, i * 100_000_000 + 1, serialize(CLOUD, fields))
            if i == 5:
                event = {"kind": "scene", "objects": []}
                text = serialize("std_msgs/String", {"data": json.dumps(event)})
                writer.write("/language/prompt", "std_msgs/String", i * 100_000_000 + 1, text)
    return path


def test_a_run_from_start_to_end(bag, tmp_path):
    heard = []
    options = graph.Options(parts=(), bag=str(bag), overrides=OVERRIDES)
    outcome = session.run(options, folder=tmp_path / "out", handle=heard.append)
    assert (outcome.code, outcome.first) == (0, session.MONITOR)
    assert [e for e in heard if e["kind"] == "clock"]
    assert outcome.measurements["bag_s"] == pytest.approx(0.9, abs=0.5)
    assert outcome.measurements["topics"]["language/prompt"]["count"] == 1
    assert outcome.measurements["processes"]["bag_player_node"]["rss_mb"] > 10
    assert (tmp_path / "out" / "logs" / "bag_player_node.log").is_file()
    recording = tmp_path / "out" / session.RECORDING
    session.merge(bag, recording)
    with BagReader(recording) as reader:
        assert reader.topics["/points"].count == 10
        assert reader.topics["/language/prompt"].count == 1


def test_a_process_that_dies_ends_the_run(bag, tmp_path):
    options = graph.Options(parts=(), bag=str(bag), overrides={"lifecycle_manager": {"retries": -7}, **OVERRIDES})
    outcome = session.run(options, folder=tmp_path, handle=lambda _: None)
    assert outcome.first == "lifecycle_manager"
    assert outcome.code != 0
    assert "retries" in session.last_lines(tmp_path, "lifecycle_manager")


def test_said_and_heard_are_paired():
    about = {"speech": [{"time_s": 1.0, "length_s": 1.0, "text": "Hello?", "real": True}]}
    second = 1_000_000_000
    final = {"kind": "final", "text": "helo", "start_ns": second, "end_ns": 2 * second}
    events = {
        "speech/event": [
            {"kind": "start", "text": "", "start_ns": second, "end_ns": second},
            {"kind": "partial", "text": "he", "start_ns": second, "end_ns": second},
            final,
            {"kind": "final", "text": "", "start_ns": 5 * second, "end_ns": 6 * second},
        ],
        "language/event": [{"request": {"source": "speech", "text": "helo"}, "text": "Hi."}],
    }
    first, other = report.exchanges(events, about, 0)
    assert (first.heard, first.partials, first.said["text"], first.answer["text"]) == (final, ["he"], "Hello?", "Hi.")
    assert (other.said, other.answer) == ({}, None)


def test_a_text_that_was_taken_back_is_no_utterance():
    early = {"kind": "final", "text": "turn", "start_ns": 1, "end_ns": 2, "replaces": False}
    again = {"kind": "final", "text": "turn left", "start_ns": 1, "end_ns": 3, "replaces": True}
    events = {"speech/event": [early, {"kind": "start", "text": ""}, again], "language/event": []}
    assert [exchange.heard["text"] for exchange in report.exchanges(events, {}, 0)] == ["turn left"]
