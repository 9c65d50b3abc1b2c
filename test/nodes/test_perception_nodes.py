# SPDX-License-Identifier: Apache-2.0
"""segmentation_node, reconstruction_node and scene_node over a real DDS, each alone and the three together."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from perception_messages import cloud_message
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from edge_nodes import events, graph
from edge_nodes.nodes.base import EdgeNode
from edge_nodes.nodes.messages import build
from edge_nodes.perception import CLASSES
from edge_nodes.pipeline import header

PERIOD_NS = 100_000_000
START_NS = 5_000_000_000


def room(seed=0, shift=0.0):
    """(N, 4) float32: a floor 1 m below the sensor, walls 12 m away, a car-sized box 7 m ahead."""
    rng = np.random.default_rng(seed)
    floor = np.column_stack([rng.uniform(-12, 12, (16000, 2)), rng.normal(-1, 0.01, 16000)])
    along, up = rng.uniform(-12, 12, 8000), rng.uniform(-1, 2, 8000)
    side = np.repeat([[12, 0], [-12, 0], [0, 12], [0, -12]], 2000, axis=0).astype(float)
    walls = np.column_stack([np.where(side == 0, along[:, None], side), up])
    u, v = rng.uniform(-0.5, 0.5, (2, 1500))
    car = [
        np.column_stack([np.full(1500, 7 + shift), 1.8 * u, -0.9 + 1.4 * (v + 0.5)]),
        np.column_stack([9 + shift + 4 * v, 0.9 * np.sign(u), -0.9 + 1.4 * (u + 0.5)]),
    ]
    xyz = np.concatenate([floor, walls, *car])
    return np.column_stack([xyz, rng.uniform(0, 255, len(xyz))]).astype(np.float32)


def message(points=None, **options):
    """A PointCloud2 of rclpy from the duck-typed one of the perception tests."""
    made = cloud_message(room() if points is None else points, **options)
    shape = {name: int(getattr(made, name)) for name in ("height", "width", "point_step", "row_step")}
    cloud = PointCloud2(**shape)
    cloud.header.stamp.sec, cloud.header.stamp.nanosec = made.header.stamp.sec, made.header.stamp.nanosec
    cloud.header.frame_id, cloud.is_bigendian = made.header.frame_id, made.is_bigendian
    cloud.fields = [PointField(name=f.name, offset=f.offset, datatype=f.datatype, count=1) for f in made.fields]
    cloud.data = made.data.tobytes()
    return cloud


def truncated():
    cloud = message()
    cloud.data = cloud.data[: len(cloud.data) // 3]
    return cloud


def wrong_step():
    cloud = message()
    cloud.point_step = 5
    return cloud


MALFORMED = {
    "wrong point_step": wrong_step,
    "truncated data": truncated,
    "zero points": lambda: message(np.zeros((0, 4), np.float32)),
    "all NaN": lambda: message(np.full((50, 4), np.nan, np.float32)),
    "no z field": lambda: message(room()[:, :2], fields=(("x", "f4"), ("y", "f4"))),
    "field beyond the point": lambda: far_field(),
}
LAYOUTS = {
    "another order, padded": {"fields": (("intensity", "f4"), ("z", "f4"), ("y", "f4"), ("x", "f4")), "point_step": 32},
    "big endian": {"big": True},
    "doubles": {"fields": (("x", "f8"), ("y", "f8"), ("z", "f8"), ("intensity", "f4"))},
    "padded rows": {"row_pad": 24},
}


def far_field():
    cloud = message()
    cloud.fields[2].offset = 14
    return cloud


class Bench:
    """One node of the graph, active, with a publisher for each of its inputs."""

    def __init__(self, world, name, outputs, parameters=None):
        self.world = world
        given = [Parameter(key, value=value) for key, value in (parameters or {}).items()]
        self.node = world.add(EdgeNode(graph.NODES[name], context=world.context, parameter_overrides=given))
        self.out = {topic: world.collect(kind, topic) for topic, kind in outputs.items()}
        assert world.change(name, "configure"), self.node.health()
        assert world.change(name, "activate")
        for topic in outputs:
            world.wait(
                lambda t=topic: self.node._output_publishers[t].get_subscription_count(), what=f"a reader of {topic}"
            )
        self.publishers = {}

    def send(self, topic, message):
        if topic not in self.publishers:
            publisher = self.world.tester.create_publisher(type(message), topic, 10)
            self.world.wait(lambda: publisher.get_subscription_count() > 0, what=f"a subscriber on {topic}")
            self.publishers[topic] = publisher
        self.publishers[topic].publish(message)

    def errors(self):
        return self.node.statistics.counts["errors"]

    def survives(self, topic, bad, good, output):
        """Send malformed messages; each is counted and reported, and a good one still works."""
        for name, make in bad.items():
            before = self.errors()
            self.send(topic, make())
            self.world.wait(lambda n=before: self.errors() == n + 1, what=f"{name!r} to be counted")
            assert self.node.health()[0].value == "BAD_INPUT", name
            assert len(self.node.health()[1]) > 20, name
        if output is None:
            return
        count = len(self.out[output])
        self.send(topic, good)
        self.world.wait(lambda: len(self.out[output]) > count, what="output after the malformed messages")


def test_segmentation_node(world):
    outputs = {"segmentation/labels": Image, "segmentation/grid": OccupancyGrid}
    bench = Bench(world, "segmentation_node", outputs)
    labels, grids = bench.out.values()
    for i in range(4):
        bench.send("points", message(room(i), time_ns=START_NS + i * PERIOD_NS))
        world.wait(lambda n=i: len(labels) > n and len(grids) > n, what="labels and grid")
    last = labels[-1]
    assert (last.encoding, last.header.frame_id) == ("mono8", "lidar")
    assert last.header.stamp.nanosec == 3 * PERIOD_NS
    ids = np.frombuffer(last.data, np.uint8).reshape(last.height, last.width)
    assert ids.max() < len(CLASSES)
    half, cell = last.height // 2, 2 * bench.node.config.bev.range_m / last.height
    near = ids[half - int(5 / cell) : half + int(5 / cell), half - int(5 / cell) : half + int(5 / cell)]
    assert (near == CLASSES.index("ground")).mean() > 0.5, "the empty floor around the robot is ground"
    grid = grids[-1]
    assert grid.info.width == last.width
    assert grid.info.origin.position.x == pytest.approx(-bench.node.config.bev.range_m)
    assert bench.errors() == 0


def odometry(i, w=1.0):
    message = Odometry()
    message.header.stamp.sec, message.header.stamp.nanosec = 5, i * PERIOD_NS
    message.pose.pose.position.x, message.pose.pose.orientation.w = 0.3 * i, w
    return message


def test_odometry_moves_the_older_maps_and_bad_poses_are_counted(world):
    bench = Bench(world, "segmentation_node", {"segmentation/labels": Image})
    labels, history = bench.out["segmentation/labels"], bench.node.pipeline.network.inference.history
    for i in range(3):
        bench.send("odometry", odometry(i))
        at = START_NS + i * PERIOD_NS
        world.wait(lambda at=at: history.ego_motion.poses.at(at) is not None, what="the pose")
        bench.send("points", message(room(i), time_ns=at))
        world.wait(lambda n=i: len(labels) > n, what="labels")
    assert history.motion == pytest.approx((0.3, 0.0, 0.0, True))
    assert bench.node.pipeline.status()["ego_motion"] == "odometry"
    assert bench.errors() == 0
    bench.survives("odometry", {"no rotation": lambda: odometry(9, w=0.0)}, odometry(4), None)


def test_tf_moves_the_older_maps_and_its_absence_is_an_error(world):
    tf = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs has no wheel")
    bench = Bench(world, "segmentation_node", {"segmentation/labels": Image}, {"bev.ego_motion": "tf"})
    labels, history = bench.out["segmentation/labels"], bench.node.pipeline.network.inference.history
    bench.send("points", message(room(), time_ns=START_NS - PERIOD_NS))
    world.wait(lambda: bench.errors() == 1, what="the scan without a transform to be counted")
    state, text = bench.node.health()
    assert (state.value, "no transform from lidar up to odom" in text) == ("NO_TF", True)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    bench.publishers["/tf_static"] = world.tester.create_publisher(tf.TFMessage, "/tf_static", latched)
    bench.send("/tf_static", tf.TFMessage(transforms=[moved("base_link", "lidar", 0.5)]))
    for i in range(3):
        at = START_NS + i * PERIOD_NS
        bench.send("/tf", tf.TFMessage(transforms=[moved("odom", "base_link", 0.3 * i, i)]))
        found = history.ego_motion.frames.lookup
        world.wait(lambda at=at: found("odom", "lidar", at) is not None, what="the transforms")
        bench.send("points", message(room(i), time_ns=at))
        world.wait(lambda n=i: len(labels) > n, what="labels")
    assert history.motion == pytest.approx((0.3, 0.0, 0.0, True))
    assert bench.node.pipeline.status()["ego_motion"] == "tf"
    assert bench.errors() == 1


def moved(parent, child, x, i=0):
    made = TransformStamped(child_frame_id=child)
    made.header.frame_id, made.transform.translation.x = parent, x
    made.header.stamp.sec, made.header.stamp.nanosec = 5, i * PERIOD_NS
    return made


def test_layouts_and_malformed_clouds(world):
    bench = Bench(world, "segmentation_node", {"segmentation/labels": Image})
    for number, (name, options) in enumerate(LAYOUTS.items()):
        points = room()[:, [3, 2, 1, 0]] if "order" in name else room()
        bench.send("points", message(points, **options))
        world.wait(lambda n=number: len(bench.out["segmentation/labels"]) > n, what=name)
    holes = room()[:27000].reshape(90, 300, 4).copy()
    holes[::7] = np.nan
    bench.survives("points", MALFORMED, message(holes), "segmentation/labels")


def test_reconstruction_node(world):
    outputs = {"reconstruction/occupancy": Image, "reconstruction/forecast": Image}
    bench = Bench(world, "reconstruction_node", outputs)
    occupancy, forecast = bench.out.values()
    for i in range(4):
        bench.send("points", message(room(i), time_ns=START_NS + i * PERIOD_NS))
        world.wait(lambda n=i: len(occupancy) > n and len(forecast) > n, what="occupancy and forecast")
    image = occupancy[-1]
    assert image.encoding == "32FC1"
    values = np.frombuffer(image.data, np.float32).reshape(image.height, image.width)
    assert values.min() >= 0
    assert values.max() <= 1
    cell = 2 * bench.node.config.bev.range_m / image.height
    row = int((bench.node.config.bev.range_m - 12) / cell)
    column = image.width // 2
    wall = values[row - 3 : row + 4, column + int(4 / cell) : column + int(9 / cell)].max(axis=0)
    floor = values[image.height // 2 + int(3 / cell) : image.height // 2 + int(8 / cell), column]
    assert np.median(wall) > 0.5 > np.median(floor)
    bench.survives(
        "points", {k: MALFORMED[k] for k in ("truncated data", "all NaN")}, message(), "reconstruction/forecast"
    )


def plane(values, time_ns, encoding):
    step = values.shape[1] * values.itemsize
    fields = {"height": values.shape[0], "width": values.shape[1], "encoding": encoding, "step": step, "data": values}
    return build(Image, {"header": header(time_ns, "lidar"), **fields})


def scene_parts(size, range_m, time_ns, ahead_m):
    """What the networks would say of a vehicle `ahead_m` ahead, and the points on it."""
    cell = 2 * range_m / size
    labels = np.full((size, size), CLASSES.index("ground"), np.uint8)
    rows = slice(int((range_m - ahead_m - 4) / cell), int((range_m - ahead_m) / cell))
    columns = slice(int((range_m - 0.9) / cell), int((range_m + 0.9) / cell))
    labels[rows, columns] = CLASSES.index("vehicle")
    occupied = (labels == CLASSES.index("vehicle")).astype(np.float32)
    rng = np.random.default_rng(1)
    car = np.column_stack(
        [rng.uniform(ahead_m, ahead_m + 4, 2000), rng.uniform(-0.9, 0.9, 2000), rng.uniform(-1, 0.5, 2000)]
    )
    points = np.concatenate([room()[:16000, :3], car])
    return {
        "segmentation/labels": plane(labels, time_ns, "mono8"),
        "reconstruction/occupancy": plane(occupied, time_ns, "32FC1"),
        "reconstruction/forecast": plane(occupied, time_ns, "32FC1"),
        "points": message(np.column_stack([points, np.ones(len(points))]), time_ns=time_ns),
    }


def test_scene_node(world):
    bench = Bench(world, "scene_node", {"scene/event": String, "scene/text": String, "scene/objects": MarkerArray})
    range_m = 32.0
    for i in range(8):  # coming closer at 2 m/s
        for topic, part in scene_parts(256, range_m, START_NS + i * PERIOD_NS, 10 - 0.2 * i).items():
            bench.send(topic, part)
        world.wait(lambda n=i: len(bench.out["scene/event"]) > n, what=f"event {i}")
    event = json.loads(bench.out["scene/event"][-1].data)
    jsonschema.validate(event, events.SCENE)
    assert event["stamp_ns"] == START_NS + 7 * PERIOD_NS
    (car,) = [o for o in event["objects"] if o["class"] == "vehicle"]
    assert car["range_m"] == pytest.approx(8.6, abs=2.5)
    assert abs(car["bearing_deg"]) < 10
    assert car["speed_mps"] == pytest.approx(2.0, abs=1.0)
    assert event["free_m"]["ahead"] == pytest.approx(8.6, abs=1.0)
    assert "vehicle" in bench.out["scene/text"][-1].data
    ids = {
        o["id"] for m in bench.out["scene/event"][4:] for o in json.loads(m.data)["objects"] if o["class"] == "vehicle"
    }
    assert len(ids) == 1, "the id is stable"
    assert any(m.type == m.CUBE for m in bench.out["scene/objects"][-1].markers)
    bad = plane(np.zeros((4, 4), np.uint8), START_NS, "rgb8")
    parts = scene_parts(256, range_m, START_NS + 9 * PERIOD_NS, 8.0)
    before = bench.errors()
    bench.send("segmentation/labels", bad)
    world.wait(lambda: bench.errors() > before, what="the wrong encoding to be counted")
    count = len(bench.out["scene/event"])
    for topic, part in parts.items():
        bench.send(topic, part)
    world.wait(lambda: len(bench.out["scene/event"]) > count, what="an event after the malformed image")


def test_three_nodes_together(world):
    for name in ("segmentation_node", "reconstruction_node"):
        world.add(EdgeNode(graph.NODES[name], context=world.context))
        assert world.change(name, "configure")
        assert world.change(name, "activate")
    bench = Bench(world, "scene_node", {"scene/event": String})
    cloud = world.tester.create_publisher(PointCloud2, "points", 10)
    world.wait(lambda: cloud.get_subscription_count() == 3, what="three readers of the cloud")
    for i in range(3):
        cloud.publish(message(room(i), time_ns=START_NS + i * PERIOD_NS))
        world.wait(lambda n=i: len(bench.out["scene/event"]) > n, 40, what=f"event {i}")
    event = json.loads(bench.out["scene/event"][-1].data)
    jsonschema.validate(event, events.SCENE)
    assert event["stamp_ns"] == START_NS + 2 * PERIOD_NS
