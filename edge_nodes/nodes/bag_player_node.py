# SPDX-License-Identifier: Apache-2.0
"""bag_player_node: publishes a bag's messages as they were recorded, byte for byte, and /clock with their time."""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from rclpy.qos import QoSProfile
from rclpy.utilities import try_shutdown
from rosgraph_msgs.msg import Clock

from edge_nodes import graph
from edge_nodes.bags import BagReader, BagTopic, RawMessage, map_topics, typestore
from edge_nodes.bags import full_type as full
from edge_nodes.errors import EdgeNodesError
from edge_nodes.nodes.base import EdgeNode
from edge_nodes.nodes.messages import installed, message_type
from edge_nodes.nodes.running import run
from edge_nodes.pipeline import stamp

AHEAD = 24
"""Messages read ahead; a chunk of a compressed bag takes a few tenths of a second to open."""
SETTLE_S = 0.3
POLL_S = 0.05
NEVER = frozenset(("/clock", "/diagnostics", "/rosout", "/parameter_events"))


class Due(NamedTuple):
    """A message and the time of /clock at which it is published."""

    clock_ns: int
    message: RawMessage
    shift_ns: int


class BagPlayerNode(EdgeNode):
    """Plays a bag from its activation on. Parameters: `config.BagPlayerConfig`."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__(graph.NODES["bag_player_node"], **node_options)
        self._halt = threading.Event()
        self._player: threading.Thread | None = None
        self._publishers_by_name: dict[str, Any] = {}
        self._own: list[Any] = []
        self._position_s = 0.0

    def load(self, progress: Any) -> None:
        """Open the bag and say what it holds."""
        with BagReader(self.config.bag) as bag:
            self.mapping = self._mapping(bag.topics)
            length = (bag.end_ns - bag.start_ns) / 1e9
            contents = ", ".join(f"{t.count} on {t.name}" for t in bag.topics.values())
            progress(f"{self.config.bag}: {length:.1f} s, {contents}")

    def _mapping(self, recorded: Mapping[str, BagTopic]) -> dict[str, str]:
        """Return {recorded name: name to publish under}; names of the graph are relative."""
        pairs = (word.partition(":=") for word in self.config.topics.split())
        known = map_topics(recorded, {topic: name for topic, _, name in pairs})
        mapping = {name: topic for name, topic in known.items() if topic in self.spec.outputs and installed(topic)}
        for name, topic in known.items():
            if not installed(topic):
                self.get_logger().warning(f"{name} is left out: {recorded[name].type} is not installed")
            elif topic not in mapping.values():
                self.get_logger().info(f"{name} is left out: the graph makes it itself")
            elif name.lstrip("/") != topic:
                self.get_logger().info(f"{name} is played as {topic}")
        for name, about in recorded.items():
            if name not in known and name not in NEVER:
                try:
                    message_type(about.type)
                    mapping[name] = name
                except (ImportError, AttributeError):
                    self.get_logger().warning(f"{name} is left out: {about.type} is not installed")
        return mapping

    def start(self) -> None:
        """Start playing."""
        with BagReader(self.config.bag) as bag:
            types = {name: topic.type for name, topic in bag.topics.items()}
        clock = self.create_publisher(Clock, "/clock", 1)
        self._own = [clock]
        for name, topic in self.mapping.items():
            if topic in self._output_publishers:
                self._publishers_by_name[name] = self._output_publishers[topic]
            else:
                extra = self.create_publisher(message_type(types[name]), topic, QoSProfile(depth=10))
                self._publishers_by_name[name] = extra
                self._own.append(extra)
        self._halt.clear()
        self._player = threading.Thread(target=self._play, args=(clock,), name="player", daemon=True)
        self._player.start()

    def stop(self) -> None:
        """Stop playing."""
        self._halt.set()
        if self._player is not None and self._player is not threading.current_thread():
            self._player.join(1.0)
        self._player = None
        for publisher in self._own:
            self.destroy_publisher(publisher)
        self._own = []
        self._publishers_by_name = {}

    def diagnostic_values(self) -> Mapping[str, str]:
        """Return the common figures and the place in the bag."""
        return {**super().diagnostic_values(), "position_s": f"{self._position_s:.1f}"}

    def _play(self, clock: Any) -> None:
        ahead: queue.Queue[Due | None] = queue.Queue(AHEAD)
        reader = threading.Thread(target=self._read_ahead, args=(ahead,), name="reader", daemon=True)
        reader.start()
        try:
            first = self._next(ahead)
            if first is None:
                return
            self._await_subscribers(clock, first.clock_ns)
            pace = _Pace(first.clock_ns, self.config.rate, self.config.clock_hz, self._halt)
            due: Due | None = first
            while due is not None and pace.until(due.clock_ns, lambda now: self._tick(clock, now)):
                self._send(due)
                self._position_s = (due.clock_ns - first.clock_ns) / 1e9
                due = self._next(ahead)
            end_ns = first.clock_ns + int((self._position_s + self.config.linger_s * self.config.rate) * 1e9)
            if not self._halt.is_set():
                self.get_logger().info(f"the bag has ended after {self._position_s:.1f} s")
                pace.until(end_ns, lambda now: self._tick(clock, now))
        except Exception as error:  # noqa: BLE001  a thread has nobody else to report to
            if self.context.ok() and not self._halt.is_set():
                self.get_logger().error(f"playing failed: {type(error).__name__}: {error}")
        if self.config is not None and self.config.exit_at_end and not self._halt.is_set():
            try_shutdown(context=self.context)
        reader.join()  # `stop` waits for both: a thread left behind keeps the node and its DDS participant alive

    def _next(self, ahead: queue.Queue[Due | None]) -> Due | None:
        while not self._halt.is_set():
            with suppress(queue.Empty):
                return ahead.get(timeout=POLL_S)
        return None

    def _read_ahead(self, ahead: queue.Queue[Due | None]) -> None:
        try:
            for item in self._messages():
                if not self._put(ahead, item):
                    return
        except EdgeNodesError as error:
            self.get_logger().error(str(error))
        self._put(ahead, None)

    def _put(self, ahead: queue.Queue[Due | None], item: Due | None) -> bool:
        while not self._halt.is_set():
            with suppress(queue.Full):
                ahead.put(item, timeout=POLL_S)
                return True
        return False

    def _messages(self) -> Iterator[Due]:
        config, shift_ns = self.config, 0
        while True:
            with BagReader(config.bag) as bag:
                for message in bag.messages(list(self.mapping)):
                    yield Due(message.time_ns + shift_ns, message, shift_ns)
                shift_ns += bag.end_ns - bag.start_ns + round(1e9 / config.clock_hz)
            if not config.loop:
                return

    def _await_subscribers(self, clock: Any, start_ns: int) -> None:
        """Wait until the topics that the graph reads have subscribers, and no more of them appear."""
        watched = {t: self._output_publishers[t] for t in self.mapping.values() if t in self._output_publishers}
        begin = changed = time.monotonic()
        before: list[int] = []
        while not self._halt.wait(POLL_S):
            self._tick(clock, start_ns)
            now, counts = time.monotonic(), [p.get_subscription_count() for p in watched.values()]
            if counts != before:
                changed, before = now, counts
            if all(counts) and now - changed > SETTLE_S:
                return
            if now - begin >= self.config.wait_for_subscribers_s:
                missing = ", ".join(t for t, n in zip(watched, counts, strict=True) if not n)
                self.get_logger().warning(f"nobody subscribes to {missing}; playing nevertheless")
                return

    def _tick(self, clock: Any, now_ns: int) -> None:
        message = Clock()
        fields = stamp(now_ns)
        message.clock.sec, message.clock.nanosec = fields["sec"], fields["nanosec"]
        clock.publish(message)

    def _send(self, due: Due) -> None:
        publisher = self._publishers_by_name.get(due.message.topic)
        if publisher is not None:
            publisher.publish(shifted(due.message, due.shift_ns))
            self.statistics.count(f"published {self.mapping[due.message.topic]}")


class _Pace:
    """Keeps bag time and wall time in step.

    Args:
        start_ns: bag time now.
        rate: seconds of the bag in one second.
        clock_hz: ticks a second.
        halt: ends every wait.
    """

    def __init__(self, start_ns: int, rate: float, clock_hz: float, halt: threading.Event) -> None:
        self._start_ns, self._rate, self._halt = start_ns, rate, halt
        self._begin = time.monotonic()
        self._period = 1.0 / clock_hz
        self._next_tick = self._begin

    def until(self, time_ns: int, tick: Any) -> bool:
        """Wait for a time in the bag, ticking meanwhile; return False when halted."""
        due = self._begin + (time_ns - self._start_ns) / 1e9 / self._rate
        while not self._halt.is_set():
            now = time.monotonic()
            if now >= self._next_tick:
                tick(self._start_ns + int((now - self._begin) * self._rate * 1e9))
                # A late tick is not made up for.
                self._next_tick = max(self._next_tick + self._period, now)
            if now >= due:
                return True
            self._halt.wait(max(0.0, min(due, self._next_tick) - time.monotonic()))
        return False


def shifted(message: RawMessage, shift_ns: int) -> bytes:
    """Return a message's bytes with its header's stamp moved, as bags that play again and again need.

    Args:
        message: as recorded.
        shift_ns: 0 leaves the bytes as they are.
    """
    if not shift_ns:
        return message.data
    first = typestore().fielddefs[full(message.type)][1][0] if full(message.type) in typestore().fielddefs else None
    if first is None or first[1][1] != "std_msgs/msg/Header":
        return message.data
    order = "<" if message.data[1] & 1 else ">"
    sec, nanosec = struct.unpack_from(f"{order}iI", message.data, 4)
    moved = stamp(sec * 1_000_000_000 + nanosec + shift_ns)
    return message.data[:4] + struct.pack(f"{order}iI", moved["sec"], moved["nanosec"]) + message.data[12:]


def main(args: list[str] | None = None) -> None:
    """Run bag_player_node."""
    run(BagPlayerNode, args)


if __name__ == "__main__":
    main()
