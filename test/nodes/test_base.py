# SPDX-License-Identifier: Apache-2.0
"""The base class over a real DDS, with a small pipeline whose behaviour the tests choose."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Int16MultiArray, String

from edge_nodes import graph
from edge_nodes.errors import EdgeNodesError, ModelError, ParameterError, State
from edge_nodes.nodes import base
from edge_nodes.parameters import parameter
from edge_nodes.pipeline import Output, Pipeline, header, stamp_ns


@dataclasses.dataclass(frozen=True)
class EchoConfig:
    gain: float = parameter(2.0, "Gain", minimum=0.0, maximum=10.0)
    model: str = parameter("good", "Model", fixed=True)


class EchoPipeline(Pipeline[EchoConfig]):
    config_type = EchoConfig
    hold = threading.Event()
    entered = threading.Event()

    def load(self, progress):
        progress("loading echo")
        if self.config.model == "missing":
            raise ModelError("no model", state=State.MODEL_MISSING, remedy="Install it.")

    def process(self, topic, message, *, received_ns, wanted):
        self.entered.set()
        self.hold.wait(10)
        if topic == "audio":
            yield Output("speech/text", {"data": f"{len(message.data)} samples"})
            return
        if message.width == 13:
            raise ValueError("unlucky")
        if message.width == 0:
            raise EdgeNodesError("empty cloud")
        head = header(stamp_ns(message.header.stamp), message.header.frame_id)
        yield Output("segmentation/labels", {"header": head, "width": int(message.width * self.config.gain)})


@pytest.fixture
def spec(monkeypatch):
    EchoPipeline.hold.set()
    return graph.Node(
        "echo_node",
        "Echo.",
        "test",
        f"{__name__}:EchoConfig",
        f"{__name__}:EchoPipeline",
        ("points", "audio"),
        ("segmentation/labels", "speech/text"),
    )


@pytest.fixture
def echo(world, spec, monkeypatch):
    monkeypatch.setattr(
        graph, "load", lambda path: {"EchoConfig": EchoConfig, "EchoPipeline": EchoPipeline}[path.partition(":")[2]]
    )
    return world.add(base.EdgeNode(spec, context=world.context))


def bring_up(world):
    assert world.change("echo_node", "configure")
    assert world.change("echo_node", "activate")


def publisher(world, kind, topic, qos=10):
    pub = world.tester.create_publisher(kind, topic, qos)
    world.wait(lambda: pub.get_subscription_count() > 0, what=f"a subscriber on {topic}")
    return pub


def connected(world, echo, topic):
    world.wait(lambda: echo._output_publishers[topic].get_subscription_count() > 0, what="our subscription")


def test_a_pipeline_is_told_how_long_its_message_waited(world, echo):
    texts = world.collect(String, "speech/text")
    bring_up(world)
    connected(world, echo, "speech/text")
    audio = publisher(world, Int16MultiArray, "audio")
    echo.pipeline.hold.clear()
    audio.publish(Int16MultiArray(data=[1]))
    assert echo.pipeline.entered.wait(10)
    audio.publish(Int16MultiArray(data=[1, 2]))
    world.wait(lambda: echo._inbox.waiting()["audio"] == 1, what="a message that waits")
    queued = echo._inbox._items[0][1].queued_s
    echo.pipeline.hold.set()
    world.wait(lambda: len(texts) == 2, what="both answers")
    assert 0.0 < echo.pipeline.waited_s <= time.monotonic() - queued


def cloud(width, sec=5):
    message = PointCloud2(width=width, height=1)
    message.header.stamp.sec = sec
    message.header.frame_id = "lidar"
    return message


def test_lifecycle_and_stamp(world, echo):
    images = world.collect(Image, "segmentation/labels")
    assert world.state("echo_node") == "unconfigured"
    bring_up(world)
    connected(world, echo, "segmentation/labels")
    publisher(world, PointCloud2, "points").publish(cloud(4, sec=77))
    world.wait(lambda: images, what="an image")
    assert (images[0].width, images[0].header.stamp.sec, images[0].header.frame_id) == (8, 77, "lidar")
    assert world.change("echo_node", "deactivate")
    assert world.change("echo_node", "cleanup")
    assert world.state("echo_node") == "unconfigured"
    bring_up(world)
    assert world.state("echo_node") == "active"


def test_a_bad_message_is_counted_and_the_node_goes_on(world, echo):
    images = world.collect(Image, "segmentation/labels")
    reports = world.collect(DiagnosticArray, "/diagnostics")
    bring_up(world)
    connected(world, echo, "segmentation/labels")
    pub = publisher(world, PointCloud2, "points")
    for number, width in enumerate((0, 13)):
        pub.publish(cloud(width))
        world.wait(lambda n=number: echo.statistics.counts["errors"] == n + 1, what="the error to be counted")
    pub.publish(cloud(3))
    world.wait(lambda: images, what="an image after the bad messages")
    echo.publish_diagnostics()
    said = world.wait(lambda: [s for r in reports for s in r.status if "BAD_INPUT" in s.message], what="a report")
    assert any("unlucky" in s.message for s in said)
    assert {kv.key: kv.value for kv in said[-1].values}["errors"] == "2"


def test_newest_cloud_wins_and_drops_are_counted(world, echo):
    images = world.collect(Image, "segmentation/labels")
    bring_up(world)
    connected(world, echo, "segmentation/labels")
    pub = publisher(world, PointCloud2, "points")
    EchoPipeline.hold.clear()
    EchoPipeline.entered.clear()
    for number in range(1, 6):
        pub.publish(cloud(number))
        world.wait(lambda n=number: echo.statistics.counts["received"] == n, what=f"cloud {number}")
        assert EchoPipeline.entered.wait(10)
    EchoPipeline.hold.set()
    world.wait(lambda: len(images) == 2, what="two images")
    assert [image.width for image in images] == [2, 10]  # the one in work, then the newest
    assert echo._inbox.dropped["points"] == 3


def test_audio_is_a_fifo(world, echo):
    texts = world.collect(String, "speech/text", 100)
    bring_up(world)
    connected(world, echo, "speech/text")
    pub = publisher(world, Int16MultiArray, "audio", 100)
    EchoPipeline.hold.clear()
    for number in range(1, 21):
        pub.publish(Int16MultiArray(data=[0] * number))
    world.wait(lambda: echo.statistics.counts["received"] == 20, what="all chunks")
    EchoPipeline.hold.set()
    world.wait(lambda: len(texts) == 20, what="all answers")
    assert [t.data for t in texts] == [f"{n} samples" for n in range(1, 21)]
    assert echo._inbox.dropped["audio"] == 0


def test_no_subscriber_no_work(world, echo):
    bring_up(world)
    publisher(world, PointCloud2, "points").publish(cloud(4))
    world.wait(lambda: echo.statistics.counts["skipped, no subscriber"] == 1, what="the skip to be counted")
    assert echo.statistics.counts["processed"] == 0
    assert echo.health() == (State.OK, "idle: no subscriber")


def test_missing_model_fails_configure_and_recovers(world, echo):
    echo.set_parameters([Parameter("model", value="missing")])
    assert not world.change("echo_node", "configure")
    assert world.state("echo_node") == "unconfigured"
    assert echo.health()[0] is State.MODEL_MISSING
    assert "Install it." in echo.health()[1]
    echo.set_parameters([Parameter("model", value="good")])
    bring_up(world)
    assert echo.health()[0] is not State.MODEL_MISSING


def set_parameter(world, name, value):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return world.call(SetParameters, "echo_node/set_parameters", request).results[0]


def test_parameters_are_validated_and_applied(world, echo):
    images = world.collect(Image, "segmentation/labels")
    bring_up(world)
    connected(world, echo, "segmentation/labels")
    assert not set_parameter(world, "gain", 11.0).successful
    assert not set_parameter(world, "gain", "loud").successful
    fixed = set_parameter(world, "model", "other")
    assert not fixed.successful
    assert "clean up" in fixed.reason
    assert set_parameter(world, "gain", 5.0).successful
    publisher(world, PointCloud2, "points").publish(cloud(4))
    world.wait(lambda: images, what="an image")
    assert images[0].width == 20


def test_descriptors_carry_range_and_unit(world, echo):
    request = DescribeParameters.Request(names=["gain", "stale_after_s", "points.reliability"])
    gain, stale, reliability = world.call(DescribeParameters, "echo_node/describe_parameters", request).descriptors
    assert gain.floating_point_range[0].to_value == 10.0
    assert stale.description.endswith("[s]")
    assert "best_effort" in reliability.additional_constraints


def test_wrong_initial_parameter_is_one_clear_error(world, echo, spec):
    for value, ok in ((3, True), (99.0, False), ("x", False)):  # YAML writes 3 for 3.0
        make = lambda v=value: base.EdgeNode(  # noqa: E731
            spec, context=world.context, parameter_overrides=[Parameter("gain", value=v)]
        )
        if ok:
            node = make()
            assert node.get_parameter("gain").value == 3.0
            node.destroy_node()
        else:
            with pytest.raises(ParameterError, match="gain"):
                make()


def test_incompatible_qos_is_reported_with_the_remedy(world, spec, echo):
    echo.set_parameters([Parameter("points.reliability", value="reliable")])
    bring_up(world)
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    world.tester.create_publisher(PointCloud2, "points", qos)
    world.wait(lambda: echo.health()[0] is State.QOS, what="the QoS event")
    assert "points.reliability" in echo.health()[1]


def test_an_error_in_a_transition_is_recovered_from(world, echo, monkeypatch):
    assert world.change("echo_node", "configure")
    with monkeypatch.context() as patch:
        patch.setattr(echo, "start", lambda: 1 / 0)
        assert not world.change("echo_node", "activate")
    world.wait(lambda: world.state("echo_node") == "unconfigured", what="error processing")
    assert echo.pipeline is None
    images = world.collect(Image, "segmentation/labels")
    bring_up(world)
    connected(world, echo, "segmentation/labels")
    publisher(world, PointCloud2, "points").publish(cloud(4))
    world.wait(lambda: images, what="an image after the error")


def test_qos_can_be_overridden_the_standard_way(world, spec, echo):
    name = "qos_overrides./points.subscription.reliability"
    node = base.EdgeNode(spec, context=world.context, parameter_overrides=[Parameter(name, value="reliable")])
    world.executor.remove_node(echo)
    world.add(node)
    bring_up(world)
    (info,) = world.tester.get_subscriptions_info_by_topic("/points")
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_shutdown_is_quick_while_busy(world, echo):
    import time

    world.collect(Image, "segmentation/labels")
    bring_up(world)
    connected(world, echo, "segmentation/labels")
    EchoPipeline.hold.clear()
    publisher(world, PointCloud2, "points").publish(cloud(1))
    world.wait(lambda: echo.statistics.counts["received"] == 1, what="the cloud")
    begin = time.monotonic()
    assert world.change("echo_node", "deactivate")
    took = time.monotonic() - begin
    EchoPipeline.hold.set()
    assert took < 10  # a bound against hanging; the node itself waits at most STOP_TIMEOUT_S
    assert base.STOP_TIMEOUT_S < 2
