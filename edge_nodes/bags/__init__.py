# SPDX-License-Identifier: Apache-2.0
"""Bags without ROS: read MCAP files and rosbag2 directories, write single MCAP files, make messages from fields.

Files and message types are the work of `rosbags`; what is here is how this package uses it.
"""

from __future__ import annotations

from edge_nodes.bags.compression import long_window
from edge_nodes.bags.errors import BagError
from edge_nodes.bags.messages import build_message, full_type, serialize, short_type, stamp_ns, typestore
from edge_nodes.bags.reading import BagReader, BagTopic, RawMessage
from edge_nodes.bags.topics import map_topics, topics_of_type
from edge_nodes.bags.writing import BagWriter

__all__ = [
    "BagError",
    "BagReader",
    "BagTopic",
    "BagWriter",
    "RawMessage",
    "build_message",
    "full_type",
    "long_window",
    "map_topics",
    "serialize",
    "short_type",
    "stamp_ns",
    "topics_of_type",
    "typestore",
]
