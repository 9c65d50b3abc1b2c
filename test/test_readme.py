# SPDX-License-Identifier: Apache-2.0
"""Every command of the README runs.

Those of colcon and ros2 launch: test_packaging.py and test_launch.py; chat, eval and bench language: test/cli.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BAG = ROOT / "config" / "demo" / "demo.mcap"
ELSEWHERE = ("colcon build", "ros2 launch", "edge-nodes eval ", "edge-nodes bench language", "edge-nodes chat ")


def commands():
    """The README's commands: indented lines that begin with a program."""
    programs = ("make ", "edge-nodes ", "colcon ", "ros2 ")
    lines = [line[4:] for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("    ")]
    return [line.partition("#")[0].strip() for line in lines if line.startswith(programs)]


def run(*words, timeout_s=300):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "edge_nodes.cli", *map(str, words)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def short(tmp_path):
    """Two seconds of the demo's bag."""
    from edge_nodes.bags import BagReader, BagWriter

    path = tmp_path / "short.mcap"
    with BagReader(BAG) as bag, BagWriter(path) as writer:
        for message in bag.messages(stop_ns=bag.start_ns + 2_000_000_000):
            writer.write(message.topic, message.type, message.time_ns, message.data)
    return path


def test_each_command_is_known():
    known = {
        "make demo",
        "make test",
        "edge-nodes replay BAG --out RESULT.mcap",
        "edge-nodes doctor",
        "edge-nodes models list",
        "edge-nodes bench graph --json FILE",
    }
    rest = [c for c in commands() if not c.startswith(ELSEWHERE)]
    assert set(rest) == known


def test_make_targets_call_what_the_tests_run():
    for target, words in (("demo", "bin/edge-nodes demo"), ("test", "bin/python -m pytest")):
        plan = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert words in plan


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_demo(smollm2_path, tmp_path):
    pytest.importorskip("rclpy")
    said = run("demo", "--out", tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert "says" in said
    assert (tmp_path / "demo.mcap").is_file()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_bench_graph(smollm2_path, tmp_path):
    pytest.importorskip("rclpy")
    run("bench", "graph", "--quick", "--json", tmp_path / "graph.json")
    found = json.loads((tmp_path / "graph.json").read_text())
    assert {"name", "machine", "config", "results", "targets"} <= set(found)
    assert all({"name", "value", "target", "met"} <= set(target) for target in found["targets"])


def test_replay(smollm2_path, short, tmp_path):
    run("replay", short, "--out", tmp_path / "result.mcap")
    from edge_nodes.bags import BagReader

    with BagReader(tmp_path / "result.mcap") as bag:
        assert "/scene/event" in bag.topics


def test_models_list():
    assert "perception/segmentation" in run("models", "list")


def test_doctor():
    pytest.importorskip("rclpy")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "edge_nodes.cli", "doctor"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=100)
    assert done.returncode in (0, 1)
    assert "extension kernels" in done.stdout
