# SPDX-License-Identifier: Apache-2.0
"""Measures what the nodes add to the networks' work for one large cloud; prints JSON. Part of `edge-nodes bench`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.utilities import try_shutdown

from edge_nodes.bags import serialize
from edge_nodes.nodes.messages import build, message_type
from edge_nodes.perception import decode
from edge_nodes.perception.config import BevConfig
from edge_nodes.pipeline import header


def measure(points: int, repeats: int = 60) -> dict[str, float]:
    """Return median times, ms.

    `read` is serialized message to arrays, `write` arrays to the three images of both networks, `publish` giving
    them to DDS with one reader.

    Args:
        points: of the cloud.
        repeats: number of measurements.
    """
    data, images = _cloud(points), _images()
    image_type, cloud_type = message_type("sensor_msgs/Image"), message_type("sensor_msgs/PointCloud2")
    node = rclpy.create_node("ros_layer", enable_rosout=False)
    publisher = node.create_publisher(image_type, "ros_layer", QoSProfile(depth=2))
    node.create_subscription(image_type, "ros_layer", lambda _: None, QoSProfile(depth=2), raw=True)
    times = np.empty((repeats, 4))
    for i in range(repeats):
        times[i, 0] = time.perf_counter()
        decode(deserialize_message(data, cloud_type))
        times[i, 1] = time.perf_counter()
        messages = [build(image_type, fields) for fields in images]
        times[i, 2] = time.perf_counter()
        for message in messages:
            publisher.publish(message)
        times[i, 3] = time.perf_counter()
        rclpy.spin_once(node, timeout_sec=0.0)
    node.destroy_node()
    spans = np.median(np.diff(times, axis=1), axis=0) * 1e3
    found = dict(zip(("read", "write", "publish"), (round(float(s), 3) for s in spans), strict=True))
    return {**found, "sum": round(float(spans.sum()), 3)}


def _cloud(points: int) -> bytes:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.uniform(-30, 30, (points, 3)), rng.uniform(0, 255, points)]).astype(np.float32)
    names = ("x", "y", "z", "intensity")
    fields = {
        "header": header(1, "lidar"),
        "height": 1,
        "width": points,
        "fields": [{"name": n, "offset": 4 * i, "datatype": 7, "count": 1} for i, n in enumerate(names)],
        "point_step": 16,
        "row_step": 16 * points,
        "data": values,
        "is_dense": True,
    }
    return serialize("sensor_msgs/PointCloud2", fields)


def _images() -> list[dict[str, Any]]:
    cells = BevConfig().cells
    kinds = (("mono8", np.uint8), ("32FC1", np.float32), ("32FC1", np.float32))
    return [
        {
            "header": header(1, "lidar"),
            "height": cells,
            "width": cells,
            "encoding": encoding,
            "step": cells * np.dtype(dtype).itemsize,
            "data": np.zeros((cells, cells), dtype).view(np.uint8),
        }
        for encoding, dtype in kinds
    ]


def main() -> None:
    """Measure with as many points as the command line says."""
    rclpy.init(args=[])
    found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 120_000)
    try_shutdown()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
