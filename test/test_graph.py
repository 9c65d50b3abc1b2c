# SPDX-License-Identifier: Apache-2.0
"""graph.py names only what exists, and what is generated from it is in step."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_nodes import graph, parameters, reference
from edge_nodes.errors import ParameterError

ROOT = Path(__file__).resolve().parent.parent
NODES = list(graph.NODES.values())


@pytest.mark.parametrize("node", NODES, ids=lambda n: n.name)
def test_node_has_module_executable_and_configuration(node):
    assert importlib.util.find_spec(f"edge_nodes.nodes.{node.name}")
    stub = ROOT / "libexec" / node.name
    assert os.access(stub, os.X_OK)
    names = [spec.name for spec in node.specs()]
    assert len(names) == len(set(names))
    assert all(spec.doc for spec in node.specs())
    for spec in node.specs():
        assert spec.check(spec.default) == spec.default
    assert set(node.inputs) | set(node.outputs) <= set(graph.TOPICS)
    assert node.part in {*graph.PARTS, "bag", "manager"}


@pytest.mark.parametrize("node", [n for n in NODES if n.pipeline], ids=lambda n: n.name)
def test_pipeline_exists_and_takes_the_configuration(node):
    pipeline = graph.load(node.pipeline)
    assert pipeline.config_type is node.config_type()


def test_each_topic_is_used_and_has_one_publisher():
    published = [t for n in NODES if n.part not in ("bag", "microphone") for t in n.outputs]
    assert len(published) == len(set(published))
    used = {t for n in NODES for t in (*n.inputs, *n.outputs)}
    assert used == set(graph.TOPICS)


def test_generated_files_are_in_step():
    for name, content in reference.files().items():
        assert (ROOT / name).read_text() == content, f"{name} is stale: run python -m edge_nodes.reference"


def test_launch_files_name_only_parts_that_exist():
    for path in sorted(set((ROOT / "launch").glob("*.launch.py")) - {ROOT / "launch" / "worker.launch.py"}):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        (call,) = [c for c in calls if getattr(c.func, "id", "") == "describe"]
        switches = ast.literal_eval(call.args[0])
        fixed = ast.literal_eval(call.keywords[0].value) if call.keywords else ()
        assert set(switches) | set(fixed) <= set(graph.PARTS), path
        assert not set(switches) & set(fixed)


def test_plan_orders_nodes_and_fills_in_the_manager():
    processes = graph.plan(graph.Options(bag="some.mcap", devices="cpu:0,cpu:1", namespace="robot1"))
    by_name = {p.node.name: p for p in processes}
    assert list(by_name)[-1] == "lifecycle_manager"
    managed = str(by_name["lifecycle_manager"].parameters["nodes"]).split()
    assert managed[-1] == "bag_player_node"
    assert set(managed) == set(by_name) - {"lifecycle_manager"}
    assert by_name["reconstruction_node"].parameters["device"] == "cpu:1"
    assert by_name["scene_node"].parameters["use_sim_time"] is True
    for process in processes:
        names = {spec.name for spec in process.node.specs()} | {"use_sim_time"}
        assert set(process.parameters) <= names
        assert "__ns:=/robot1" in process.command()


def test_remap_reaches_every_process():
    for process in graph.plan(graph.Options(remap="points:=/ouster/points tf:=tf")):
        words = process.command()
        assert words[words.index("points:=/ouster/points") - 1] == "-r"
        assert "/tf:=tf" in words
        assert process.remappings == (("points", "/ouster/points"), ("/tf", "tf"))


def test_wrong_options_are_one_clear_error(tmp_path):
    for wrong in (
        graph.Options(remap="cloud:=/ouster/points"),
        graph.Options(remap="points=/ouster/points"),
        graph.Options(parts=("flying",)),
        graph.Options(devices="cpu"),
        graph.Options(config=str(tmp_path / "none.yaml")),
    ):
        with pytest.raises(ParameterError):
            graph.plan(wrong)


def test_graph_imports_neither_ros_nor_torch():
    code = "import sys, edge_nodes.graph as g; list(map(list, (n.specs() for n in g.NODES.values()))); "
    code += "print([m for m in ('rclpy', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_domains_do_not_import_each_other_or_ros():
    banned = {
        "perception": ("edge_nodes.speech", "edge_nodes.language", "edge_nodes.nodes", "rclpy"),
        "speech": ("edge_nodes.perception", "edge_nodes.language", "edge_nodes.nodes", "rclpy"),
        "language": ("edge_nodes.perception", "edge_nodes.speech", "edge_nodes.nodes", "rclpy", "torch"),
        "pipelines": ("rclpy", "edge_nodes.nodes"),
    }
    for package, names in banned.items():
        for path in sorted((ROOT / "edge_nodes" / package).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                bad = [m for m in imported for b in names if m == b or m.startswith(b + ".")]
                assert not bad, f"{path} imports {bad}"


def test_replace_rejects_unknown_names():
    config = graph.NODES["bag_player_node"].config_type()()
    with pytest.raises(ParameterError, match="unknown parameter"):
        parameters.replace(config, {"nope": 1})
    assert parameters.replace(config, {"rate": 2}).rate == 2.0


def test_nodes_without_clouds_and_images_get_little_shared_memory(monkeypatch):
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    large = {n for n, node in graph.NODES.items() if graph.environment(node) == graph.environment()}
    assert large >= {"segmentation_node", "reconstruction_node", "scene_node", "bag_player_node", "dashboard_node"}
    assert not large & {"speech_node", "language_node", "microphone_node", "lifecycle_manager"}
    for node in graph.NODES.values():
        assert all(Path(path).is_file() for path in graph.environment(node).values())
