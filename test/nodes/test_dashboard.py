# SPDX-License-Identifier: Apache-2.0
"""The dashboard serves its page and draws what arrives."""

from __future__ import annotations

import urllib.request

import numpy as np
import pytest
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from edge_nodes.nodes.messages import build
from edge_nodes.pipeline import header

pytest.importorskip("viser", reason="needs the [dashboard] extra")

FIELDS = [{"name": n, "offset": 4 * i, "datatype": 7, "count": 1} for i, n in enumerate("xyz")]


def test_page_and_drawing(world, port, monkeypatch):
    from edge_nodes.nodes.dashboard_node import DashboardNode

    node = world.add(DashboardNode(context=world.context, parameter_overrides=[Parameter("port", value=port)]))
    assert world.change("dashboard_node", "configure")
    assert world.change("dashboard_node", "activate")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
        assert b"viser" in page.read().lower()
    monkeypatch.setattr(node.server, "get_clients", lambda: {0: None})

    def send(kind, topic, **fields):
        publisher = world.tester.create_publisher(kind, topic, 10)
        world.wait(lambda: publisher.get_subscription_count() > 0, what=f"a subscriber on {topic}")
        publisher.publish(build(kind, fields))

    head = header(1_000_000_000, "lidar")
    points = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    shape = {"height": 1, "width": 500, "point_step": 12, "row_step": 6000, "is_dense": True}
    send(PointCloud2, "points", header=head, fields=FIELDS, data=points, **shape)
    labels = np.array([[0, 1], [3, 4]], np.uint8)
    image = {"height": 2, "width": 2, "step": 2}
    send(Image, "segmentation/labels", header=head, encoding="mono8", data=labels, **image)
    send(Image, "reconstruction/forecast", header=head, encoding="32FC1", data=labels.astype(np.float32) / 4, **image)
    box = {"type": 1, "id": 7, "scale": {"x": 1.0, "y": 2.0, "z": 3.0}, "pose": {"orientation": {"w": 1.0}}}
    send(MarkerArray, "scene/objects", markers=[box, {**box, "type": 9, "text": "car"}])
    send(String, "scene/text", data="A car ahead.")
    send(String, "speech/text", data="what do you see")
    send(String, "language/token", data="A c")
    panels = node._panels
    world.wait(lambda: panels["scene/text"].content == "A car ahead.", what="the scene's text")
    world.wait(lambda: "what do you see" in panels["talk"].content and "A c" in panels["talk"].content, what="the talk")
    world.wait(lambda: len(node._boxes) == 2, what="the box and its caption")
    world.wait(lambda: panels["segmentation/labels"].image.shape == (2, 2, 3), what="the labels")
    assert node.statistics.counts["errors"] == 0
    send(Image, "segmentation/labels", header=head, encoding="mono8", data=labels, height=9, width=9)
    world.wait(lambda: node.statistics.counts["errors"] == 1, what="the malformed image to be counted")
    assert world.change("dashboard_node", "deactivate")
    assert world.change("dashboard_node", "cleanup")
