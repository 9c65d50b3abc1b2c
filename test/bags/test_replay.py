# SPDX-License-Identifier: Apache-2.0
"""Replay without ROS: routing with small pipelines, and the real ones on a slice of the demo's bag."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from edge_nodes import graph, models
from edge_nodes import replay as module
from edge_nodes.bags import BagError, BagReader, BagWriter, map_topics, serialize
from edge_nodes.cli.session import demo_bag
from edge_nodes.errors import EdgeNodesError, ParameterError
from edge_nodes.parameters import parameter
from edge_nodes.pipeline import Output, Pipeline, header, stamp_ns

SECOND = 1_000_000_000
CLOUD = "sensor_msgs/PointCloud2"


@dataclasses.dataclass(frozen=True)
class Config:
    gain: int = parameter(2, "Gain", minimum=1)


class First(Pipeline[Config]):
    config_type = Config
    closed = 0

    def load(self, progress):
        progress("ready")

    def process(self, topic, message, *, received_ns, wanted):
        if message.width == 13:
            raise EdgeNodesError("unlucky")
        head = header(stamp_ns(message.header.stamp), "lidar")
        fields = {"header": head, "height": 1, "width": self.config.gain, "encoding": "mono8", "step": 2}
        yield Output("segmentation/labels", {**fields, "data": np.full((1, 2), message.width, np.uint8)})

    def close(self):
        type(self).closed += 1


class Second(Pipeline[Config]):
    config_type = Config
    early = ("segmentation/labels",)

    def load(self, progress):
        progress("ready")

    def arrived(self, topic, message, *, received_ns):
        return message.data[0] == 7

    def process(self, topic, message, *, received_ns, wanted):
        size = message.width if topic == "points" else int(message.data[0])
        yield Output("scene/text", {"data": f"{topic} {size} at {received_ns}"})


def _node(name, pipeline, inputs, outputs):
    return graph.Node(name, "", "perception", f"{__name__}:Config", f"{__name__}:{pipeline}", inputs, outputs)


@pytest.fixture
def small(monkeypatch):
    first = _node("first", "First", ("points",), ("segmentation/labels",))
    second = _node("second", "Second", ("points", "segmentation/labels"), ("scene/text",))
    third = _node("third", "Second", ("audio",), ("speech/text",))
    monkeypatch.setattr(graph, "NODES", {n.name: n for n in (first, second, third)})
    monkeypatch.setattr(graph, "load", lambda path: globals()[path.partition(":")[2]])
    monkeypatch.setattr(graph, "parameter_files", lambda node, config="": iter([config] if config else []))


def _bag(path, widths, topic="/points"):
    with BagWriter(path) as writer:
        for i, width in enumerate(widths):
            fields = {"header": header(i * SECOND, "lidar"), "width": width}
            writer.write(topic, CLOUD, i * SECOND, serialize(CLOUD, fields))
    return path


def _read(path):
    with BagReader(path) as bag:
        return [(m.topic, m.time_ns, bag.deserialize(m)) for m in bag.messages()]


def test_outputs_reach_those_who_subscribe(tmp_path, small):
    lines = []
    result = module.replay(_bag(tmp_path / "in.mcap", [5, 6]), tmp_path / "out.mcap", progress=lines.append)
    found = _read(tmp_path / "out.mcap")
    assert [(t, n) for t, n, _ in found] == [
        (t, n) for n in (0, SECOND) for t in ("/segmentation/labels", "/scene/text", "/scene/text")
    ]
    assert [m.data for t, _, m in found if t == "/scene/text"][:2] == ["points 5 at 0", "segmentation/labels 5 at 0"]
    assert found[3][2].header.stamp.sec == 1
    assert lines == ["first: ready", "second: ready"]  # nothing feeds the third
    assert result.nodes["second"].outputs["scene/text"] == 4
    assert First.closed


def test_arrived_takes_messages_away(tmp_path, small):
    module.replay(_bag(tmp_path / "in.mcap", [7]), tmp_path / "out.mcap")
    assert [m.data for t, _, m in _read(tmp_path / "out.mcap") if t == "/scene/text"] == ["points 7 at 0"]


def test_bad_messages_are_counted_and_skipped(tmp_path, small):
    result = module.replay(_bag(tmp_path / "in.mcap", [13, 5]), tmp_path / "out.mcap")
    assert result.nodes["first"].errors == {"unlucky": 1}
    assert result.nodes["first"].outputs == {"segmentation/labels": 1}


def test_configuration_files_and_overrides(tmp_path, small):
    (tmp_path / "c.yaml").write_text("/**:\n  ros__parameters:\n    gain: 4\n    always_work: true\n")
    bag = _bag(tmp_path / "in.mcap", [5])
    module.replay(bag, tmp_path / "out.mcap", config=str(tmp_path / "c.yaml"))
    assert _read(tmp_path / "out.mcap")[0][2].width == 4
    module.replay(bag, tmp_path / "out.mcap", overrides={"first": {"gain": 3}})
    assert _read(tmp_path / "out.mcap")[0][2].width == 3
    with pytest.raises(ParameterError, match="unknown part"):
        module.replay(bag, tmp_path / "out.mcap", parts=("hearing",))


def test_duration(tmp_path, small):
    result = module.replay(_bag(tmp_path / "in.mcap", [5] * 4), tmp_path / "out.mcap", duration_s=1.5)
    assert result.bag_s == 1.0
    assert len(_read(tmp_path / "out.mcap")) == 6


def test_a_failed_replay_leaves_no_result(tmp_path, small, monkeypatch):
    monkeypatch.setattr(First, "process", lambda *_, **__: iter([Output("nowhere", {})]))
    with pytest.raises(KeyError):
        module.replay(_bag(tmp_path / "in.mcap", [5]), tmp_path / "out.mcap")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mcap"]


def test_topic_mapping(tmp_path):
    with BagReader(_bag(tmp_path / "a.mcap", [1], "/lidar/points")) as bag:
        topics = bag.topics
    assert map_topics(topics, {}) == {"/lidar/points": "points"}
    assert map_topics(topics, {"points": "lidar/points"}) == {"/lidar/points": "points"}
    with pytest.raises(BagError, match="the bag has no such topic"):
        map_topics(topics, {"points": "/camera"})
    with pytest.raises(BagError, match="the graph has no such topic"):
        map_topics(topics, {"clouds": "/lidar/points"})
    with pytest.raises(BagError, match="is no audio"):
        map_topics(topics, {"audio": "/lidar/points"})


def test_a_bag_with_nothing_for_the_graph(tmp_path):
    with BagWriter(tmp_path / "a.mcap") as writer:
        writer.write("/pose", "geometry_msgs/Pose", 0, serialize("geometry_msgs/Pose", {}))
    with pytest.raises(BagError, match="no topic that the graph reads"):
        module.replay(tmp_path / "a.mcap", tmp_path / "b.mcap")


def test_what_the_graph_makes_itself_is_not_fed_from_the_bag(tmp_path, small):
    with BagWriter(tmp_path / "in.mcap") as writer:
        writer.write("/points", CLOUD, 0, serialize(CLOUD, {"width": 5}))
        writer.write("/segmentation/labels", "sensor_msgs/Image", 1, serialize("sensor_msgs/Image", {"data": [9]}))
    module.replay(tmp_path / "in.mcap", tmp_path / "out.mcap")
    assert not [m for t, _, m in _read(tmp_path / "out.mcap") if t == "/scene/text" and " 9 " in m.data]


def _shipped(name):
    return (models.SHIPPED / name / "manifest.json").is_file()


needs_networks = pytest.mark.skipif(not _shipped("perception/segmentation"), reason="no trained networks here")
REPLAY = """
import sys
sys.modules["rclpy"] = None
from edge_nodes.replay import replay
result = replay(sys.argv[1], sys.argv[2], parts=("perception",), duration_s=0.75)
assert not [n for n in sys.modules if n.startswith(("rclpy.", "sensor_msgs", "std_msgs"))]
print(sum(result.nodes["scene_node"].outputs.values()))
"""


@needs_networks
def test_the_real_pipelines_give_the_same_twice_and_need_no_ros(tmp_path):
    results = []
    for name in ("a.mcap", "b.mcap"):
        command = [sys.executable, "-c", REPLAY, str(demo_bag()), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == 3 * 8
        results.append(_read(tmp_path / name))
    first, second = results
    assert [(t, n) for t, n, _ in first] == [(t, n) for t, n, _ in second]
    for (topic, time_ns, a), (_, _, b) in zip(first, second, strict=True):
        if topic in {"/segmentation/labels", "/reconstruction/occupancy", "/reconstruction/forecast"}:
            assert stamp_ns(a.header.stamp) == time_ns
            np.testing.assert_array_equal(a.data, b.data)
        if topic == "/scene/text":
            assert a.data == b.data
