# SPDX-License-Identifier: Apache-2.0
"""Which of a bag's topics are the graph's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_nodes import graph
from edge_nodes.bags.errors import BagError
from edge_nodes.bags.reading import BagTopic


def topics_of_type(topics: Mapping[str, BagTopic], type_name: str) -> Sequence[str]:
    """Return the names of the topics that carry a type."""
    return [t.name for t in topics.values() if t.type == type_name]


def map_topics(recorded: Mapping[str, BagTopic], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return {recorded name: topic of the graph} for the topics of a bag that the graph knows.

    A name that is the graph's own needs no mention; neither does the bag's only topic of the type of `points` or
    `audio`, whatever it is called.

    Args:
        recorded: the bag's topics.
        chosen: {topic of the graph: recorded name}, e.g. {"points": "/lidar/points"}.

    Raises:
        BagError: an unknown topic on either side, a wrong type, or nothing that the graph reads.
    """
    found = {name: name.lstrip("/") for name, topic in recorded.items() if _carries(topic, name.lstrip("/"))}
    for topic, wanted in chosen.items():
        name = wanted if wanted in recorded else "/" + wanted.lstrip("/")
        if topic not in graph.TOPICS:
            raise BagError("the graph has no such topic", got=topic, expected="one of " + ", ".join(graph.TOPICS))
        if name not in recorded:
            raise BagError("the bag has no such topic", got=name, expected="one of " + ", ".join(recorded))
        if not _carries(recorded[name], topic):
            raise BagError(f"{name} is no {topic}", got=recorded[name].type, expected=graph.TOPICS[topic].type)
        found = {n: t for n, t in found.items() if t != topic} | {name: topic}
    for topic in ("points", "audio"):
        others = topics_of_type(recorded, graph.TOPICS[topic].type)
        if topic not in found.values() and len(others) == 1:
            found[others[0]] = topic
    if not found:
        kinds = ", ".join(f"{n} ({t.type})" for n, t in recorded.items())
        raise BagError(
            "the bag has no topic that the graph reads",
            got=kinds,
            expected="points (sensor_msgs/PointCloud2) or audio (std_msgs/Int16MultiArray)",
            remedy="Name it: --topic points:=/its/name",
        )
    return found


def _carries(topic: BagTopic, name: str) -> bool:
    return name in graph.TOPICS and graph.TOPICS[name].type == topic.type
