# SPDX-License-Identifier: Apache-2.0
"""Messages from plain fields."""

from __future__ import annotations

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import Image
from std_msgs.msg import Int16MultiArray
from visualization_msgs.msg import MarkerArray

from edge_nodes.nodes.messages import build
from edge_nodes.pipeline import header


def test_nested_fields_and_arrays():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    image = build(Image, {"header": header(3_000_000_007, "lidar"), "height": 2, "width": 3, "data": values})
    assert np.array_equal(np.frombuffer(image.data, np.float32), values.ravel())
    assert (image.header.stamp.sec, image.header.stamp.nanosec, image.header.frame_id) == (3, 7, "lidar")


def test_typed_arrays_keep_their_numbers():
    audio = build(
        Int16MultiArray, {"data": np.array([-3, 5], np.int16), "layout": {"dim": [{"label": "samples", "size": 2}]}}
    )
    assert list(audio.data) == [-3, 5]
    assert audio.layout.dim[0].label == "samples"
    grid = build(OccupancyGrid, {"data": np.array([-1, 100], np.int8), "info": {"resolution": 0.5}})
    assert list(grid.data) == [-1, 100]


def test_sequences_of_messages():
    markers = build(MarkerArray, {"markers": [{"id": 1, "pose": {"position": {"x": 2.0}}}, {"id": 2}]})
    assert [m.id for m in markers.markers] == [1, 2]
    assert markers.markers[0].pose.position.x == 2.0


def test_unknown_field_is_an_error():
    with pytest.raises(AttributeError, match="nope"):
        build(Image, {"nope": 1})
