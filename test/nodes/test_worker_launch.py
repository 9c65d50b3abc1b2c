# SPDX-License-Identifier: Apache-2.0
"""launch/worker.launch.py as `ros2 launch` runs it, beside a language_node that shares its model with that worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from rclpy.parameter import Parameter
from small_gguf import write_gguf
from std_msgs.msg import String

from edge_nodes import graph
from edge_nodes.language.blocks.convert import convert
from edge_nodes.nodes.base import EdgeNode

pytest.importorskip("launch_ros", reason="needs a ROS distribution, or launch and launch_ros from their sources")
pytest.importorskip("torch.distributed")
ROOT = Path(__file__).resolve().parent.parent.parent
BACK_S = 60.0  # launch waits 2 s, then Python and torch start


class Launch:
    """`ros2 launch` in a process group of its own, and what it says."""

    def __init__(self, world, *arguments):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        programs = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
        environment = {**os.environ, "PYTHONPATH": path, "PATH": programs, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            ["ros2", "launch", str(ROOT / "launch" / "worker.launch.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.said, self._world = [], world
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.said.append(line)
            with self._world.changed:
                self._world.changed.notify_all()

    def times(self, text):
        return sum(text in line for line in self.said)

    def worker(self):
        """The worker's process."""
        children = psutil.Process(self.process.pid).children()
        return next(p for p in children if "worker" in p.cmdline())

    def end(self):
        """End it as Ctrl-C does; its children must end with it."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        finally:
            for child in children:
                if child.is_running():
                    child.kill()
            self.process.kill()
            self.process.wait(20)
            self._reader.join(20)
            self.process.stdout.close()
        return [child for child in children if child.is_running()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    convert(write_gguf(folder / "small.gguf", context=2048), folder / "shards", shares=(1, 1))
    return folder / "shards"


@pytest.fixture
def launched(world, shards, port):
    if not shutil.which("ros2"):
        pytest.skip("needs ros2 launch")
    launch = Launch(world, f"shard:={shards / 'rank-1'}", f"port:={port}")
    yield launch
    assert launch.end() == []
    assert launch.times("process has finished cleanly") == 1, "".join(launch.said)


@pytest.fixture
def master(world, shards, port):
    overrides = {
        "model": str(shards),
        "max_new_tokens": 8,
        "boards.enabled": True,
        "boards.address": "127.0.0.1",
        "boards.port": port,
        "boards.deadline_s": 1.5,
    }
    parameters = [Parameter(name, value=value) for name, value in overrides.items()]
    node = world.add(EdgeNode(graph.NODES["language_node"], context=world.context, parameter_overrides=parameters))
    node.events = world.collect(String, "language/event", 200)
    node.prompt = world.tester.create_publisher(String, "language/prompt", 10)
    return node


def ask(world, node):
    """Send a prompt; return the kind of what comes back, and what the node says of its health."""
    known, failed = len(node.events), node.statistics.counts["errors"]
    node.prompt.publish(String(data="hello"))
    world.wait(lambda: len(node.events) > known, 60, "an event")
    kind = json.loads(node.events[-1].data)["kind"]
    if kind == "error":
        world.wait(lambda: node.statistics.counts["errors"] > failed, what="the error to be counted")
    return kind, node.health()[1]


def test_worker_of_a_launch_is_lost_and_comes_back(world, launched, master):
    world.wait(lambda: launched.times("waiting for 127.0.0.1"), BACK_S, "the worker")
    assert world.change("language_node", "configure"), master.health()
    assert world.change("language_node", "activate")
    world.wait(lambda: master.prompt.get_subscription_count() > 0, what="a subscriber")
    world.wait(lambda: master._output_publishers["language/event"].get_subscription_count() > 0, what="a reader")
    kind, health = ask(world, master)
    assert kind == "reply", health
    assert launched.times("rank 1 of 2: latency") == 1

    launched.worker().kill()
    kind, health = ask(world, master)
    assert kind == "error"
    assert "lost rank 1 in step" in health
    assert master.health()[0].value == "NO_DEVICE"

    world.wait(lambda: launched.times("waiting for 127.0.0.1") > 1, BACK_S, "the worker to be started again")
    for _ in range(100):  # each fails within half a second until the worker has joined
        kind, health = ask(world, master)
        if kind == "reply":
            break
        assert "rank 1" in health
    assert kind == "reply"
    assert launched.times("rank 1 of 2: latency") == 2
    world.wait(lambda: master.health()[0].value == "OK", what="the node to be well")
