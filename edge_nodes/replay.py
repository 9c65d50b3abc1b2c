# SPDX-License-Identifier: Apache-2.0
"""A bag through the pipelines of the graph without ROS: one process, the same result every time.

Messages go in by the time of their recording, and each output at once to the pipelines that subscribe to it. Those
that subscribe to the same message work side by side; the next one waits for all of them. Nothing is dropped: a slow
machine only takes longer.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_nodes import graph, parameters
from edge_nodes.bags import BagReader, BagWriter, RawMessage, build_message, full_type, map_topics, typestore
from edge_nodes.errors import EdgeNodesError, ParameterError
from edge_nodes.pipeline import Output, Pipeline

__all__ = ["Graph", "NodeResult", "ReplayResult", "parameters_from_files", "replay"]


@dataclass
class NodeResult:
    """What one node did.

    Attributes:
        times_ms: time of each call of its pipeline.
        outputs: number of messages by topic.
        errors: number of messages it could not use, by text.
    """

    times_ms: list[float] = field(default_factory=list)
    outputs: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


@dataclass
class ReplayResult:
    """What a replay did.

    Attributes:
        path: the result.
        bag_s: length of what was replayed.
        wall_s: time it took, loading of models apart.
        load_s: time for loading the models.
        topics: {recorded name: topic of the graph}.
        nodes: by name.
    """

    path: Path
    bag_s: float
    wall_s: float
    load_s: float
    topics: Mapping[str, str]
    nodes: Mapping[str, NodeResult]


class Graph:
    """The pipelines that a set of source topics can feed, loaded and connected.

    Args:
        sources: topics of the graph that come from outside.
        parts: parts of the graph to run.
        config: see `graph.Options.config`.
        overrides: {node: {parameter: value}}.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        parts: Sequence[str] = ("perception", "speech", "language"),
        config: str = "",
        overrides: Mapping[str, Mapping[str, parameters.Scalar]] | None = None,
    ) -> None:
        self.nodes = tuple(_reached(sources, parts))
        self.results = {node.name: NodeResult() for node in self.nodes}
        self._pipelines: dict[str, Pipeline[Any]] = {}
        self._pool = ThreadPoolExecutor(max(1, len(self.nodes)), thread_name_prefix="pipeline")
        for node in self.nodes:
            values = {**parameters_from_files(node, config), **(overrides or {}).get(node.name, {})}
            settings = parameters.replace(node.config_type()(), values)
            self._pipelines[node.name] = graph.load(node.pipeline)(settings)

    def load(self, progress: Callable[[str], None]) -> None:
        """Load all models.

        Raises:
            EdgeNodesError: one is missing or bad.
        """
        for node in self.nodes:
            self._pipelines[node.name].load(_named(node.name, progress))

    def feed(self, topic: str, message: Any, time_ns: int) -> Iterator[tuple[Output, Any]]:
        """Give a message to all who subscribe to it, and their outputs to the next, until nothing comes any more.

        Yields:
            each output with the message made of it.
        """
        waiting = deque([(topic, message)])
        while waiting:
            name, item = waiting.popleft()
            for outputs in self._run_all([n for n in self.nodes if name in n.inputs], name, item, time_ns):
                for output in outputs:
                    made = build_message(typestore(), graph.TOPICS[output.topic].type, output.fields)
                    yield output, made
                    waiting.append((output.topic, made))

    def _run_all(
        self, nodes: Sequence[graph.Node], topic: str, message: Any, time_ns: int
    ) -> Iterator[Sequence[Output]]:
        """Run the subscribers of one message side by side; yield their outputs in the nodes' order."""

        def run(node: graph.Node) -> Sequence[Output]:
            return list(self._run(node, topic, message, time_ns))

        running = [self._pool.submit(run, node) for node in nodes[1:]]
        if nodes:
            yield run(nodes[0])
        for each in running:
            yield each.result()

    def _run(self, node: graph.Node, topic: str, message: Any, time_ns: int) -> Iterator[Output]:
        pipeline, result = self._pipelines[node.name], self.results[node.name]
        begin = time.perf_counter()
        try:
            if topic in pipeline.early and pipeline.arrived(topic, message, received_ns=time_ns):
                return
            for output in pipeline.process(topic, message, received_ns=time_ns, wanted=node.outputs):
                result.outputs[output.topic] += 1
                yield output
        except EdgeNodesError as error:
            result.errors[str(error)] += 1
        result.times_ms.append((time.perf_counter() - begin) * 1e3)

    def close(self) -> None:
        """Free the models."""
        self._pool.shutdown()
        for pipeline in self._pipelines.values():
            pipeline.close()


def replay(
    bag: str | Path,
    out: str | Path,
    *,
    topics: Mapping[str, str] | None = None,
    parts: Sequence[str] = ("perception", "speech", "language"),
    config: str = "",
    overrides: Mapping[str, Mapping[str, parameters.Scalar]] | None = None,
    duration_s: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
    step: Callable[[float], None] = lambda _: None,
) -> ReplayResult:
    """Run a bag through the graph's pipelines and write what they put out.

    Args:
        bag: an .mcap or .db3 file, or a rosbag2 directory.
        out: the .mcap file to write.
        topics: {topic of the graph: recorded name} where they differ.
        parts: parts of the graph to run.
        config: YAML file, or directory of <node>.yaml, as for the nodes.
        overrides: {node: {parameter: value}}, stronger than `config`.
        duration_s: only this much of the bag.
        progress: called with one line of text while models load.
        step: called with the time in the bag after each of its messages, s.

    Raises:
        EdgeNodesError: the bag, the configuration or a model cannot be used.
    """
    with BagReader(bag) as reader:
        mapping = map_topics(reader.topics, topics or {})
        running = Graph(tuple(mapping.values()), parts=parts, config=config, overrides=overrides)
        # A recorded output would stand beside the new one.
        made = {topic for node in running.nodes for topic in node.outputs}
        mapping = {name: topic for name, topic in mapping.items() if topic not in made}
        begin = time.perf_counter()
        running.load(progress)
        loaded = time.perf_counter()
        start = reader.start_ns
        stop = None if duration_s is None else start + int(duration_s * 1e9)
        last = start
        try:
            with BagWriter(out) as writer:
                for recorded in reader.messages(list(mapping), stop_ns=stop):
                    _feed(running, reader, recorded, mapping[recorded.topic], writer)
                    last = recorded.time_ns
                    step((last - start) / 1e9)
        finally:
            running.close()
    return ReplayResult(
        Path(out),
        (last - start) / 1e9,
        time.perf_counter() - loaded,
        loaded - begin,
        mapping,
        running.results,
    )


def _feed(running: Graph, reader: BagReader, recorded: RawMessage, topic: str, writer: BagWriter) -> None:
    message = reader.deserialize(recorded)
    for output, made in running.feed(topic, message, recorded.time_ns):
        kind = graph.TOPICS[output.topic].type
        data = bytes(typestore().serialize_cdr(made, full_type(kind)))
        writer.write("/" + output.topic, kind, recorded.time_ns, data)


def _named(name: str, progress: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: progress(f"{name}: {text}")


def _reached(sources: Sequence[str], parts: Sequence[str]) -> Iterator[graph.Node]:
    if unknown := set(parts) - set(graph.PARTS):
        raise ParameterError("unknown part", got=", ".join(sorted(unknown)), expected=", ".join(graph.PARTS))
    there = set(sources)
    # Nodes are listed after those they depend on.
    for node in graph.NODES.values():
        needs = {topic for topic in node.inputs if not graph.TOPICS[topic].optional}
        if node.pipeline and node.part in parts and there & needs:
            there |= set(node.outputs)
            yield node


def parameters_from_files(node: graph.Node, config: str) -> dict[str, parameters.Scalar]:
    """Return a node's own parameters from its YAML files; those that all nodes have mean nothing here."""
    from ruamel.yaml import YAML

    known = {spec.name for spec in parameters.specs(node.config_type())}
    values: dict[str, parameters.Scalar] = {}
    for file in graph.parameter_files(node, config):
        if not Path(file).is_file():
            continue
        content = YAML(typ="safe").load(Path(file)) or {}
        for pattern in ("/**", node.name, f"/{node.name}"):
            values |= _flatten((content.get(pattern) or {}).get("ros__parameters") or {})
    return {name: value for name, value in values.items() if name in known}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, parameters.Scalar]:
    flat: dict[str, parameters.Scalar] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
