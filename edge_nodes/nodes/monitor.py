# SPDX-License-Identifier: Apache-2.0
"""Watches a running graph for `edge-nodes demo` and `bench`: records it, tells what happens, measures. Not managed.

It writes one JSON object a line to stdout for each thing that happens, and at the end a file of measurements:

    python -m edge_nodes.nodes.monitor --measure m.json --record run.mcap --end-ns 1767225632000000000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import signal
import struct
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock as RosClock
from rclpy.clock_type import ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.utilities import try_shutdown
from rosgraph_msgs.msg import Clock

from edge_nodes import graph
from edge_nodes.bags import BagWriter, stamp_ns
from edge_nodes.errors import EdgeNodesError
from edge_nodes.nodes.messages import message_type
from edge_nodes.nodes.running import make_executor
from edge_nodes.perception.config import MOTION_TOPICS

CLOCK_WINDOW = 200
STANDS_NS = 500_000
NODES_PACKAGE = "edge_nodes.nodes."
QUIET_S = 1.0
START_TIMEOUT_S = 180.0
TOLD = ("class", "range_m", "bearing_deg", "center_m", "velocity_mps")
SAMPLE_S = 0.25
LATE_S = 0.2
FIRST_WORD = "end of speech to first word"
STAMPED = frozenset(("sensor_msgs/Image", "nav_msgs/OccupancyGrid", "sensor_msgs/PointCloud2"))
EVENTS = frozenset(("scene/event", "speech/event", "language/event"))
BAG = frozenset(("points", "audio", *MOTION_TOPICS))
NETWORKS = frozenset(("segmentation/labels", "reconstruction/occupancy", "reconstruction/forecast"))


class SimClock:
    """Tells bag time between the ticks of /clock.

    The tick that came through fastest says how bag time and this machine's time lie to each other.
    """

    def __init__(self, window: int = CLOCK_WINDOW) -> None:
        self._offsets: deque[int] = deque(maxlen=window)
        self._last_ns = 0

    def tick(self, clock_ns: int, arrived_ns: int) -> None:
        """Take a tick and the monotonic time of its arrival."""
        if clock_ns - self._last_ns < STANDS_NS:
            self._offsets.clear()  # the bag is about to begin, or begins just now
        self._last_ns = clock_ns
        self._offsets.append(arrived_ns - clock_ns)

    def at(self, arrived_ns: int) -> int:
        """Return bag time at a monotonic time; 0 before the first tick."""
        return arrived_ns - min(self._offsets) if self._offsets else 0


class Processes:
    """CPU time and memory of the graph's processes, sampled; the first sample is where counting starts."""

    def __init__(self) -> None:
        self._known: dict[str, psutil.Process] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._last: dict[str, tuple[float, float]] = {}
        self._rss: dict[str, list[int]] = defaultdict(list)

    def add(self, name: str, pid: int) -> None:
        """Watch a process."""
        if name not in self._known or self._known[name].pid != pid:
            try:
                self._known[name] = psutil.Process(pid)
            except psutil.NoSuchProcess:
                return

    def add_siblings(self) -> None:
        """Watch all nodes that were started together with this process."""
        parents = psutil.Process().parents()
        for process in parents[1].children(recursive=True) if len(parents) > 1 else []:
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if module := next((w for w in words if w.startswith(NODES_PACKAGE)), ""):
                    self.add(module[len(NODES_PACKAGE) :], process.pid)

    def sample(self) -> None:
        """Look at all processes."""
        for name, process in list(self._known.items()):
            try:
                times, memory = process.cpu_times(), process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            now = (time.monotonic(), times.user + times.system)
            self._first.setdefault(name, now)
            self._last[name] = now
            self._rss[name].append(memory)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return {name: {cpu_percent, rss_mb, growth_mb}}; 100 % is one core.

        Growth is the median of the last quarter of the run over that of its second quarter: what a process takes
        while it warms up is none.
        """
        out = {}
        for name, (end, used) in self._last.items():
            begin, before = self._first[name]
            share = 100 * (used - before) / (end - begin) if end > begin else 0.0
            rss = self._rss[name]
            quarter = max(1, len(rss) // 4)
            growth = median(rss[-quarter:]) - median(rss[quarter : 2 * quarter] or rss)
            out[name] = {
                "cpu_percent": round(share, 1),
                "rss_mb": round(max(rss) / 2**20, 1),
                "growth_mb": round(growth / 2**20, 1),
            }
        return out


class Recorder:
    """Writes messages to an MCAP file in a thread of its own, so that receipt times stay true."""

    def __init__(self, path: Path) -> None:
        self._queue: queue.SimpleQueue[tuple[str, str, int, bytes] | None] = queue.SimpleQueue()
        self._writer = BagWriter(path)
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def put(self, topic: str, kind: str, time_ns: int, data: bytes) -> None:
        """Record one message."""
        self._queue.put((topic, kind, time_ns, data))

    def close(self) -> None:
        """Write what waits and finish the file."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._writer.write(*item)


class Monitor(Node):
    """Subscribes to the whole graph.

    Args:
        end_ns: time of the bag's last message.
        linger_s: longest wait for an answer after that.
        record: MCAP file to write, None for none.
        tell: called with each thing that happens.
        node_options: passed on to rclpy.
    """

    def __init__(
        self, end_ns: int, linger_s: float, record: Path | None, tell: Callable[..., None], **node_options: Any
    ) -> None:
        super().__init__("monitor", enable_rosout=False, **node_options)
        self._end_ns, self._linger_ns, self._tell = end_ns, int(linger_s * 1e9), tell
        self._recorder = Recorder(record) if record else None
        self._sim = SimClock()
        self._clock_ns = 0
        self._start_ns = 0
        self._began = time.monotonic()
        self._busy_until_ns = 0
        self._asked = 0
        self._answered = 0
        self._processes = Processes()
        self._sampled = False
        self._nodes: dict[str, dict[str, str]] = {}
        self._health: dict[str, str] = {}
        self._arrivals: dict[str, list[int]] = defaultdict(list)
        self._latencies: dict[str, list[float]] = defaultdict(list)
        self._events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._clouds: dict[int, dict[str, float]] = defaultdict(dict)
        self._tokens: list[int] = []
        self._ended: deque[tuple[float, dict[str, Any], float]] = deque()
        self._waiting: list[list[int]] = []
        self.done = False
        self.failure = ""
        reliable = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
        for topic, about in graph.TOPICS.items():
            if topic not in BAG:
                self._subscribe(topic, about.type, reliable)
        self.create_subscription(Clock, "/clock", self._on_clock, QoSProfile(depth=1), raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable, raw=True)
        self.create_timer(SAMPLE_S, self._sample, clock=RosClock(clock_type=ClockType.STEADY_TIME))

    def _subscribe(self, topic: str, kind: str, qos: QoSProfile) -> None:
        def received(data: Any) -> None:
            self._on_message(topic, kind, bytes(data))

        self.create_subscription(message_type(kind), topic, received, qos, raw=True)

    # -- what arrives --------------------------------------------------------------------------------------------

    def _on_clock(self, data: Any) -> None:
        now = time.monotonic_ns()
        self._clock_ns = stamp_ns(data)
        self._sim.tick(self._clock_ns, now)
        if not self._start_ns:
            self._start_ns = self._clock_ns
            self._tell("clock", time_s=0.0)

    def _on_message(self, topic: str, kind: str, data: bytes) -> None:
        now_ns = self._sim.at(time.monotonic_ns())
        self._arrivals[topic].append(now_ns)
        if self._recorder:
            self._recorder.put("/" + topic, kind, now_ns, data)
        if kind in STAMPED:
            self._latencies[topic].append((now_ns - stamp_ns(data)) / 1e6)
            if topic in NETWORKS:
                self._clouds[stamp_ns(data)][topic] = self._latencies[topic][-1]
        elif kind == "visualization_msgs/MarkerArray" and struct.unpack_from("<I", data, 4)[0]:
            self._latencies[topic].append((now_ns - stamp_ns(data, 8)) / 1e6)
        elif kind == "std_msgs/String":
            self._on_text(topic, deserialize_message(data, message_type(kind)).data, now_ns)

    def _on_text(self, topic: str, text: str, now_ns: int) -> None:
        time_s = (now_ns - self._start_ns) / 1e9
        if topic == "language/token":
            self._busy_until_ns = now_ns + int(QUIET_S * 1e9)
            self._tokens.append(now_ns)
            self._tell("token", time_s=time_s, text=text)
        if topic not in EVENTS:
            return
        try:
            event = json.loads(text)
        except ValueError:
            self._tell("problem", time_s=time_s, text=f"{topic} is not JSON")
            return
        self._latencies[topic].append((now_ns - self._reference(topic, event)) / 1e6)
        self._events[topic].append({**event, "received_ns": now_ns})
        if topic == "scene/event":
            self._on_scene(event, now_ns, time_s)
        elif topic == "speech/event":
            self._on_speech(event, now_ns, time_s)
        else:
            # The last tokens of the answer may still be on their way: topics keep no order between them.
            self._busy_until_ns = now_ns + int(QUIET_S * 1e9)
            self._ended.append((time.monotonic(), self._events[topic][-1], time_s))

    @staticmethod
    def _reference(topic: str, event: dict[str, Any]) -> int:
        return int(event["end_ns"] if topic == "speech/event" else event["stamp_ns"])

    def _on_scene(self, event: dict[str, Any], now_ns: int, time_s: float) -> None:
        objects = [{key: thing.get(key) for key in TOLD} for thing in event["objects"]]
        self._tell("scene", time_s=time_s, objects=objects, alarm=(event.get("alarm") or {}).get("text", ""))

    def _on_speech(self, event: dict[str, Any], now_ns: int, time_s: float) -> None:
        self._tell("speech", time_s=time_s, event=event)
        if event["kind"] == "final" and event["text"]:
            self._asked += 1
            self._busy_until_ns = max(self._busy_until_ns, now_ns + self._linger_ns)
            self._tokens = []

    def _finish_answers(self, now: float) -> None:
        while self._ended and now - self._ended[0][0] > LATE_S:
            _, event, time_s = self._ended.popleft()
            self._answered += event["kind"] == "reply"
            event["first_token_ns"] = self._tokens[0] if self._tokens else None
            if event["request"]["source"] == "speech" and self._tokens:
                finals = [e for e in self._events["speech/event"] if e["kind"] == "final" and e["text"]]
                said = [e for e in finals if e["text"] == event["request"]["text"]] or finals
                if said:
                    event["end_of_speech_ns"] = said[-1]["end_ns"]
                    self._latencies[FIRST_WORD].append((self._tokens[0] - said[-1]["end_ns"]) / 1e6)
            self._tokens = []
            self._tell("language", time_s=time_s, event=event)

    def _on_diagnostics(self, data: Any) -> None:
        array = deserialize_message(bytes(data), DiagnosticArray)
        if self._recorder and self._clock_ns:
            now_ns = self._sim.at(time.monotonic_ns())
            self._recorder.put("/diagnostics", "diagnostic_msgs/DiagnosticArray", now_ns, bytes(data))
        for status in array.status:
            values = {v.key: v.value for v in status.values}
            name = status.name.strip("/").rpartition("/")[2]
            if "pid" in values:
                self._processes.add(name, int(values["pid"]))
                self._nodes[name] = values
                self._on_waiting(values)
            level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
            told = status.message if level else values.get("lifecycle", "")
            if told and self._health.get(name) != told:
                self._health[name] = told
                self._tell("node", name=name, level=level, text=told, state=values.get("state", ""))

    def _on_waiting(self, values: dict[str, str]) -> None:
        waiting = sum(int(v) for k, v in values.items() if k.startswith("waiting ") and "points" in k)
        if self._clock_ns > self._start_ns > 0:
            self._waiting.append([self._clock_ns - self._start_ns, waiting])

    # -- the end -------------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        now = time.monotonic()
        self._finish_answers(now)
        if not self._start_ns:
            if now - self._began > START_TIMEOUT_S:
                self._finish(f"the graph did not start within {START_TIMEOUT_S:.0f} s")
            return
        if self._clock_ns > self._start_ns:
            if not self._sampled:
                self._processes.add_siblings()
                self._sampled = True
            self._processes.sample()
        if self._clock_ns >= self._end_ns + int(QUIET_S * 1e9):
            waited = self._clock_ns - self._end_ns
            quiet = self._clock_ns > self._busy_until_ns and not self._ended
            if quiet or waited > self._linger_ns:
                self._finish("")

    def _finish(self, failure: str) -> None:
        self.failure, self.done = failure, True

    def measurements(self) -> dict[str, Any]:
        """Return all that was measured; times in ns since the bag's start, latencies in ms."""
        span_s = max(1e-9, (min(self._clock_ns, self._end_ns) - self._start_ns) / 1e9)
        return {
            "start_ns": self._start_ns,
            "bag_s": span_s,
            "topics": {
                topic: {
                    "count": len(times),
                    "rate_hz": _rate(times),
                    "latency_ms": self._latencies.get(topic, []),
                }
                for topic, times in self._arrivals.items()
            },
            "clouds": self._clouds,
            "first_word_ms": self._latencies.get(FIRST_WORD, []),
            "processes": self._processes.summary(),
            "nodes": self._nodes,
            "waiting": self._waiting,
            "events": self._events,
            "answers": self._answered,
            "questions": self._asked,
            "failure": self.failure,
        }

    def close(self) -> None:
        """Finish the recording."""
        if self._recorder:
            self._recorder.close()


def _rate(times: list[int]) -> float:
    span = (times[-1] - times[0]) / 1e9 if len(times) > 1 else 0.0
    return round((len(times) - 1) / span, 2) if span > 0 else 0.0


def _say(kind: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"kind": kind, **values}) + "\n")
    sys.stdout.flush()


def main(args: list[str] | None = None) -> int:
    """Watch until the bag has ended and the last answer is given; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, required=True)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--end-ns", type=int, required=True)
    parser.add_argument("--linger-s", type=float, default=20.0)
    options = parser.parse_args(args)
    node, stopped = None, True
    try:
        rclpy.init(args=[])
        node = Monitor(options.end_ns, options.linger_s, options.record, _say)
        executor = make_executor()
        executor.add_node(node)
        while not node.done:
            executor.spin_once(timeout_sec=0.5)
        stopped = False
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except EdgeNodesError as error:
        _say("problem", text=str(error))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            options.measure.parent.mkdir(parents=True, exist_ok=True)
            options.measure.write_text(json.dumps(node.measurements()))
            node.close()
            _say("end", failure=node.failure)
        try_shutdown()
    return 1 if stopped or (node is not None and node.failure) else 0


if __name__ == "__main__":
    sys.exit(main())
