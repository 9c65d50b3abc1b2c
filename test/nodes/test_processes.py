# SPDX-License-Identifier: Apache-2.0
"""The graph as processes, in a namespace, as the demo and the launch files start it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python

from edge_nodes import graph

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = {
    "segmentation_node": ("bev.range_m", 24.0),
    "speech_node": ("partial_interval_ms", 250),
    "language_node": ("max_new_tokens", 17),
}


@pytest.fixture
def start(domain):
    """Starts commands with the graph's environment; ends them with SIGINT and checks that they end well."""
    running = []

    def begin(command):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, **graph.environment(), "PYTHONPATH": path}
        running.append(subprocess.Popen(command, env=env, cwd=ROOT))
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    codes = [process.wait(20) for process in running]
    assert codes == [0] * len(codes)


def test_parameters_arrive_in_a_namespace(world, start, tmp_path):
    for node, (name, value) in SAMPLE.items():
        (tmp_path / f"{node}.yaml").write_text(f"/**:\n  ros__parameters:\n    {name}: {value}\n")
    options = graph.Options(namespace="robot1", config=str(tmp_path), autostart=False)
    processes = {p.node.name: p for p in graph.plan(options)}
    for node in SAMPLE:
        start(processes[node].command())
    for node, (name, value) in SAMPLE.items():
        request = GetParameters.Request(names=[name, "stale_after_s"])
        answer = world.call(GetParameters, f"/robot1/{node}/get_parameters", request, timeout_s=60)
        assert [parameter_value_to_python(v) for v in answer.values] == [value, 3.0]


def test_a_process_reports_itself_and_ends_cleanly(world, start):
    reports = world.collect(DiagnosticArray, "/diagnostics")
    start(graph.plan(graph.Options(parts=("dashboard",)))[0].command())
    world.wait(lambda: any(s.name == "/dashboard_node" for r in reports for s in r.status), 60, "a report")


def test_a_wrong_parameter_ends_the_process_with_one_line():
    overrides = {"dashboard_node": {"port": 0}}
    command = graph.plan(graph.Options(parts=("dashboard",), overrides=overrides))[0].command()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "parameter port is out of range" in done.stderr
    assert "Traceback" not in done.stderr
