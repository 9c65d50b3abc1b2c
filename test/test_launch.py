# SPDX-License-Identifier: Apache-2.0
"""The launch files through the real launch and launch_ros, where these are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edge_nodes import graph

pytest.importorskip("launch_ros", reason="needs a ROS distribution, or launch and launch_ros from their sources")
launch = pytest.importorskip("launch")

FOLDER = Path(__file__).resolve().parent.parent / "launch"
WORKER = FOLDER / "worker.launch.py"  # starts no node
FILES = sorted(set(FOLDER.glob("*.launch.py")) - {WORKER})


def describe(path):
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_arguments_are_declared_with_description_and_choices(path):
    arguments = {a.name: a for a in describe(path).get_launch_arguments()}
    assert {"namespace", "use_sim_time", "config", "bag", "devices", "log_level", "autostart"} <= set(arguments)
    for argument in arguments.values():
        assert argument.description
        text = "".join(s.describe() for s in argument.default_value or [])
        assert argument.choices or text.strip("'") not in ("true", "false")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_nodes_are_those_of_the_graph(path):
    context = launch.LaunchContext()
    description = describe(path)
    for argument in description.get_launch_arguments():
        context.launch_configurations[argument.name] = "".join(s.perform(context) for s in argument.default_value)
    context.launch_configurations["bag"] = "some.mcap"
    (function,) = [e for e in description.entities if isinstance(e, launch.actions.OpaqueFunction)]
    names = [action.node_executable for action in function.execute(context)]
    assert set(names) <= set(graph.NODES)
    assert names[-1] == "lifecycle_manager"
    assert "bag_player_node" in names


def test_worker_is_started_as_its_command_line_says():
    description = describe(WORKER)
    context = launch.LaunchContext()
    for argument in description.get_launch_arguments():
        assert argument.description
        context.launch_configurations[argument.name] = "".join(s.perform(context) for s in argument.default_value)
    context.launch_configurations["shard"] = "/data/rank-1"
    (process,) = [e for e in description.entities if isinstance(e, launch.actions.ExecuteProcess)]
    words = ["".join(s.perform(context) for s in word) for word in process.cmd]
    assert words[:5] == ["edge-nodes", "worker", "/data/rank-1", "--master", "127.0.0.1"]
