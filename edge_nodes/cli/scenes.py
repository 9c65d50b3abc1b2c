# SPDX-License-Identifier: Apache-2.0
"""The newest scene of a bag: recorded, or seen by the perception pipelines in its last clouds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_nodes.bags import BagError, BagReader, map_topics
from edge_nodes.language.scene import Scene

EVENT = "scene/event"
LOOK_BACK_S = 3.0  # clouds that the tracker sees before the last one


def newest_scene(bag: Path, progress: Callable[[str], None] = lambda _: None) -> Scene:
    """Return the last scene of a bag.

    Args:
        bag: an .mcap or .db3 file, or a rosbag2 directory; with scene events, or with clouds.
        progress: called with one line of text while models load.

    Raises:
        EdgeNodesError: the bag cannot be read, or shows no scene.
    """
    with BagReader(bag) as reader:
        mapping = map_topics(reader.topics, {})
        recorded = [name for name, topic in mapping.items() if topic == EVENT]
        found = None
        for message in reader.messages(recorded) if recorded else ():
            found = reader.deserialize(message).data
        if found is None:
            found = _seen(reader, {n: t for n, t in mapping.items() if t == "points"}, progress)
    if found is None:
        raise BagError("the bag shows no scene", got=bag, expected=f"messages of {EVENT}, or clouds")
    return Scene.from_json(found)


def _seen(reader: BagReader, mapping: dict[str, str], progress: Callable[[str], None]) -> Any:
    if not mapping:
        return None
    from edge_nodes.replay import Graph

    running, found = Graph(tuple(mapping.values()), parts=("perception",)), None
    try:
        running.load(progress)
        for recorded in reader.messages(list(mapping), start_ns=reader.end_ns - int(LOOK_BACK_S * 1e9)):
            message = reader.deserialize(recorded)
            for output, made in running.feed(mapping[recorded.topic], message, recorded.time_ns):
                if output.topic == EVENT:
                    found = made.data
    finally:
        running.close()
    return found
