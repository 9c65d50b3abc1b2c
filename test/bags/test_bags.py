# SPDX-License-Identifier: Apache-2.0
"""Bags: what is written is read back, messages are built as ROS builds them, damage is told in one line."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from edge_nodes import graph
from edge_nodes.bags import (
    BagError,
    BagReader,
    BagWriter,
    build_message,
    full_type,
    serialize,
    short_type,
    topics_of_type,
    typestore,
)

STAMP = {"sec": 12, "nanosec": 345}
IMAGE = {
    "header": {"stamp": STAMP, "frame_id": "lidar"},
    "height": 2,
    "width": 3,
    "encoding": "32FC1",
    "step": 12,
    "data": np.arange(6, dtype=np.float32).reshape(2, 3),
}


def _rosbag2(path, plugin):
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connection = writer.add_connection("/text", "std_msgs/msg/String", typestore=typestore())
        for i in range(3):
            writer.write(connection, 1000 + i, serialize("std_msgs/String", {"data": f"word {i}"}))
    return path


def test_type_names():
    assert full_type("std_msgs/String") == full_type("std_msgs/msg/String") == "std_msgs/msg/String"
    assert short_type("std_msgs/msg/String") == "std_msgs/String"


@pytest.mark.parametrize("topic", graph.TOPICS)
def test_every_type_of_the_graph_has_its_defaults(topic):
    name = graph.TOPICS[topic].type
    message = build_message(typestore(), name, {})
    again = typestore().deserialize_cdr(serialize(name, {}), full_type(name))
    assert type(message).__name__ == type(again).__name__


def test_single_file_round_trip(tmp_path):
    path = tmp_path / "new" / "result.mcap"
    cloud = {"width": 1 << 20, "data": np.arange(1 << 20, dtype=np.uint8)}
    with BagWriter(path, chunk_bytes=3 << 20) as writer:
        for i in range(5):
            writer.write("/points", "sensor_msgs/PointCloud2", i * 10, serialize("sensor_msgs/PointCloud2", cloud))
            writer.write("/text", "std_msgs/String", i * 10 + 5, serialize("std_msgs/String", {"data": f"n {i}"}))
    assert [p.name for p in path.parent.iterdir()] == ["result.mcap"]
    with BagReader(path) as bag:
        assert bag.topics["/points"].count == 5
        assert (bag.start_ns, bag.end_ns) == (0, 45)
        assert topics_of_type(bag.topics, "sensor_msgs/PointCloud2") == ["/points"]
        messages = list(bag.messages())
        assert [m.time_ns for m in messages] == sorted(m.time_ns for m in messages)
        assert [bag.deserialize(m).data for m in messages if m.topic == "/text"] == [f"n {i}" for i in range(5)]
        assert [m.time_ns for m in bag.messages(["/text"], start_ns=15, stop_ns=35)] == [15, 25]
        first = bag.deserialize(messages[0])
        np.testing.assert_array_equal(first.data, cloud["data"])


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_rosbag2_directories(tmp_path, plugin):
    with BagReader(_rosbag2(tmp_path / "bag", plugin)) as bag:
        assert [bag.deserialize(m).data for m in bag.messages()] == ["word 0", "word 1", "word 2"]


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "x.mcap") as writer:
        writer.write("/text", "std_msgs/String", 0, serialize("std_msgs/String", {}))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_nested_fields_and_defaults():
    marker = {"ns": "a", "pose": {"position": {"x": 1.5}}, "points": [{"x": 1.0}, {"y": 2.0}]}
    message = build_message(typestore(), "visualization_msgs/MarkerArray", {"markers": [marker]})
    assert message.markers[0].pose.position.x == 1.5
    assert message.markers[0].pose.orientation.w == 1.0
    assert [p.y for p in message.markers[0].points] == [0.0, 2.0]


def test_array_dtypes():
    image = build_message(typestore(), "sensor_msgs/Image", IMAGE)
    assert image.data.dtype == np.uint8
    np.testing.assert_array_equal(image.data.view(np.float32), np.arange(6))
    grid = build_message(typestore(), "nav_msgs/OccupancyGrid", {"data": np.array([[-1, 100]])})
    assert grid.data.dtype == np.int8
    sound = build_message(typestore(), "std_msgs/Int16MultiArray", {"data": [1, -2]})
    assert sound.data.dtype == np.int16


@pytest.mark.parametrize(
    ("name", "fields", "match"),
    [
        ("nowhere/Nothing", {}, "unknown message type"),
        ("std_msgs/String", {"text": "x"}, "no such field"),
        ("sensor_msgs/Image", {"height": -1}, "height"),
        ("sensor_msgs/Image", {"height": "tall"}, "height"),
        ("geometry_msgs/PoseWithCovariance", {"covariance": np.zeros(3)}, "expected 36"),
    ],
)
def test_what_does_not_fit_is_named(name, fields, match):
    with pytest.raises(BagError, match=match):
        build_message(typestore(), name, fields)


def test_same_bytes_as_rclpy():
    serialization = pytest.importorskip("rclpy.serialization")
    image = importlib.import_module("sensor_msgs.msg").Image
    message = serialization.deserialize_message(serialize("sensor_msgs/Image", IMAGE), image)
    assert (message.header.stamp.nanosec, message.encoding, message.step) == (345, "32FC1", 12)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32), np.arange(6))
    pose = importlib.import_module("geometry_msgs.msg").Pose()
    built = build_message(typestore(), "geometry_msgs/Pose", {})
    assert built.orientation.w == pose.orientation.w


def test_missing_and_damaged_bags(tmp_path):
    with pytest.raises(BagError, match="no such bag"):
        BagReader(tmp_path / "none.mcap")
    (tmp_path / "empty.mcap").touch()
    with pytest.raises(BagError, match="damaged"):
        BagReader(tmp_path / "empty.mcap")
    with pytest.raises(BagError, match="directory with metadata"):
        BagReader(tmp_path)
    (tmp_path / "sound.wav").touch()
    with pytest.raises(BagError, match="not a ROS 2 bag"):
        BagReader(tmp_path / "sound.wav")
    with BagWriter(tmp_path / "good.mcap") as writer:
        for i in range(20):
            writer.write("/text", "std_msgs/String", i, serialize("std_msgs/String", {"data": "x" * 100}))
    whole = (tmp_path / "good.mcap").read_bytes()
    for name, data in {"half": whole[: len(whole) // 2], "noise": b"\x89MCAP0\r\n" + bytes(200)}.items():
        (tmp_path / f"{name}.mcap").write_bytes(data)
        with pytest.raises(BagError, match="damaged"):
            BagReader(tmp_path / f"{name}.mcap")
    damaged = bytearray(whole)
    damaged[200:260] = bytes(60)
    (tmp_path / "inside.mcap").write_bytes(damaged)
    with pytest.raises(BagError, match="damaged"), BagReader(tmp_path / "inside.mcap") as bag:
        list(bag.messages())


def test_an_empty_bag(tmp_path):
    with BagWriter(tmp_path / "none.mcap"):
        pass
    with pytest.raises(BagError, match="no messages"):
        BagReader(tmp_path / "none.mcap")


def test_wrong_suffix(tmp_path):
    with pytest.raises(BagError, match=r"must be an \.mcap"):
        BagWriter(tmp_path / "result.bag")


def test_bytes_that_do_not_fit(tmp_path):
    with BagWriter(tmp_path / "x.mcap") as writer:
        writer.write("/image", "sensor_msgs/Image", 0, b"\0\1\0\0\1")
    with BagReader(tmp_path / "x.mcap") as bag, pytest.raises(BagError, match="does not fit"):
        bag.deserialize(next(bag.messages()))
