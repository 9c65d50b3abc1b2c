# SPDX-License-Identifier: Apache-2.0
"""Runs the graph as processes under a supervisor (honcho: when one ends, all end), a monitor beside them."""

from __future__ import annotations

import heapq
import json
import os
import random
import re
import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from honcho.manager import Manager

from edge_nodes import graph
from edge_nodes.bags import BagReader, BagWriter, long_window
from edge_nodes.errors import EdgeNodesError

MONITOR = "monitor"
RECORDING = "demo.mcap"
LINGER_S = 20.0
CHUNK_BYTES = 64 << 20
_LOG = re.compile(r"^\[(?P<level>\w+)\] \[[\d.]+\] \[(?P<name>[^\]]*)\]: (?P<text>.*)$")
_STOPPED = re.compile(r"^(?P<name>\S+) stopped \(rc=(?P<code>-?\d+)\)")
Handler = Callable[[dict[str, Any]], None]


class SessionError(EdgeNodesError):
    """The graph could not be run to its end."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        code: 0 if the monitor saw the bag to its end.
        first: the process that ended first.
        measurements: what `nodes.monitor` measured.
        interrupted: by Ctrl-C.
    """

    code: int
    first: str
    measurements: dict[str, Any]
    interrupted: bool


class Output:
    """Takes the processes' lines from honcho: the monitor's to a handler, the nodes' to a file each.

    Args:
        folder: where the files go.
        handle: called with what the monitor tells, and with {"kind": "log", ...} for each line of a node's log.
    """

    width = 0

    def __init__(self, folder: Path, handle: Handler) -> None:
        self._folder, self._handle = folder, handle
        self._files: dict[str, TextIO] = {}
        self.first = ""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.log"):
            old.unlink()

    def write(self, message: Any) -> None:
        """Take a honcho message."""
        data = message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else message.data
        for line in data.splitlines():
            if message.name == MONITOR and line.startswith("{"):
                self._handle(json.loads(line))
            elif message.name == "system":
                if not self.first and (stopped := _STOPPED.match(line)):
                    self.first = stopped["name"]
            else:
                self._log(message.name, line)

    def _log(self, name: str, line: str) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.log").open("w")
        self._files[name].write(line + "\n")
        self._files[name].flush()
        parts = _LOG.match(line)
        if parts and not self.first:
            self._handle({"kind": "log", "node": name, "level": parts["level"], "text": parts["text"]})

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def run(
    options: graph.Options,
    *,
    folder: Path,
    handle: Handler,
    record: bool = True,
    linger_s: float = LINGER_S,
    play_s: float = 0.0,
) -> Outcome:
    """Run the graph on its bag until the bag has ended and the last answer is given.

    Args:
        options: the graph; `bag` must be set.
        folder: gets logs/, measurements.json and, with `record`, demo.mcap.
        handle: see `Output`.
        record: whether to record what the nodes publish.
        linger_s: longest wait for an answer after the bag's end.
        play_s: play the bag again and again for so long; 0 for once.

    Raises:
        EdgeNodesError: the bag cannot be read, or ROS 2 is missing.
    """
    need_ros()
    with BagReader(options.bag) as bag:
        end_ns = bag.start_ns + round(play_s * 1e9) if play_s else bag.end_ns
    folder.mkdir(parents=True, exist_ok=True)
    measure = folder / "measurements.json"
    measure.unlink(missing_ok=True)
    (folder / RECORDING).unlink(missing_ok=True)
    env = environment()
    output = Output(folder / "logs", handle)
    manager = Manager(output)
    watch = [sys.executable, "-m", "edge_nodes.nodes.monitor", "--measure", str(measure)]
    watch += ["--end-ns", str(end_ns), "--linger-s", str(linger_s)]
    watch += ["--record", str(folder / RECORDING)] if record else []
    manager.add_process(MONITOR, _command(watch), env=env)
    for process in graph.plan(with_player(options, linger_s, again=play_s > 0)):
        own = {**env, **graph.environment(process.node)}
        manager.add_process(process.node.name, _command(process.command()), env=own)
    manager.loop()
    output.close()
    found = json.loads(measure.read_text()) if measure.is_file() else {}
    code = int(manager.returncode or 0)
    return Outcome(code, output.first, found, code in (130, 143))


def merge(bag: Path, recording: Path) -> None:
    """Add what was played to the recording of what came of it."""
    writer = BagWriter(recording, chunk_bytes=CHUNK_BYTES, compressor=long_window(1))
    with BagReader(bag) as played, BagReader(recording) as recorded, writer:
        missing = [name for name in played.topics if name not in recorded.topics]
        inputs = played.messages(missing) if missing else iter(())
        for message in heapq.merge(inputs, recorded.messages(), key=lambda m: m.time_ns):
            writer.write(message.topic, message.type, message.time_ns, message.data)


def with_player(options: graph.Options, linger_s: float, *, again: bool = False) -> graph.Options:
    """Return the options with a bag player that outlasts the monitor, and plays `again` and again if told to."""
    player = {
        "loop": again,
        "linger_s": linger_s + 15.0,
        "wait_for_subscribers_s": 10.0,
        **options.overrides.get("bag_player_node", {}),
    }
    return graph.Options(**{**vars(options), "overrides": {**options.overrides, "bag_player_node": player}})


def environment() -> dict[str, str]:
    """Return the environment of the graph's processes: a ROS domain of their own on this machine only."""
    env = {**os.environ, **graph.environment()}
    env["ROS_DOMAIN_ID"] = str(free_domain())
    env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONPATH"] = os.pathsep.join([str(Path(graph.__file__).parents[1]), *_entries("PYTHONPATH")])
    env.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    # Each node has its own threads to set; the libraries' pools would fight for the same cores.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        env.setdefault(name, "1")
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return env


def free_domain() -> int:
    """Return a ROS domain id whose discovery port nobody on this machine has bound."""
    for _ in range(50):
        domain = random.randint(1, 100)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain))
            except OSError:
                continue
        return domain
    raise SessionError("no free ROS domain was found", remedy="Stop other ROS 2 graphs on this machine.")


def need_ros() -> None:
    """Raise an error that says how to get ROS 2 if it is missing."""
    from importlib.util import find_spec

    if find_spec("rclpy") is None:
        raise SessionError(
            "ROS 2 is not there: no module rclpy",
            remedy="Install it with: pip install 'edge_nodes[ros]', or source your ROS 2 installation.",
        )


def demo_bag() -> Path:
    """Return the bag of the demo."""
    path = graph.share_dir() / "config" / "demo" / "demo.mcap"
    if not path.is_file():
        raise SessionError("the demo's bag is missing", got=path, remedy="Install the package again.")
    return path


def description(bag: str | Path) -> Mapping[str, Any]:
    """Return what the .json file beside a bag says of it, {} if there is none."""
    path = Path(bag).with_suffix(".json")
    return json.loads(path.read_text()) if path.is_file() else {}


def last_lines(folder: Path, name: str, count: int = 5) -> str:
    """Return the end of a process's log."""
    path = folder / "logs" / f"{name}.log"
    return "\n".join(path.read_text().splitlines()[-count:]) if path.is_file() else ""


def _command(words: list[str]) -> str:
    # honcho starts a shell; exec lets the node take its place, and its signals.
    return "exec " + shlex.join(words)


def _entries(name: str) -> list[str]:
    return [e for e in os.environ.get(name, "").split(os.pathsep) if e]
