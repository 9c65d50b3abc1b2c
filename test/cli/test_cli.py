# SPDX-License-Identifier: Apache-2.0
"""The command line: errors are one line and exit code 1; what it prints can be read by programs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edge_nodes import models
from edge_nodes.bags import BagWriter, serialize
from edge_nodes.cli import doctor, main, measure, session
from edge_nodes.errors import EdgeNodesError
from edge_nodes.models import write_manifest


def test_help_is_quick_and_names_the_commands():
    code = (
        "import sys; from edge_nodes.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'rclpy', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("demo", "replay", "doctor", "bench", "eval", "models"):
        assert name in done.stdout


def test_version(run, capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("edge-nodes ")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("replay", "none.mcap", "--out", "x.mcap"), "there is no such bag"),
        (("replay", "none.mcap", "--out", "x.mcap", "--topic", "points"), "--topic must name two topics"),
        (("models", "info", "no-such-model"), "no model"),
        (("models", "install", "no-such-model"), "no-such-model"),
        (("demo", "--bag", "none.mcap", "--parts", "perception"), "there is no such bag"),
    ],
)
def test_errors_are_one_line(run, words, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "need_ros", lambda: None)
    assert run(*words) == 1
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ")
    assert text in printed
    assert "Traceback" not in printed
    assert "\n" not in printed


def test_debug_shows_where_from(tmp_path):
    with pytest.raises(EdgeNodesError):
        main(["--debug", "models", "info", "no-such-model"])


def test_the_result_may_not_replace_the_bag(run, tmp_path, capsys):
    with BagWriter(tmp_path / "a.mcap") as writer:
        writer.write("/text", "std_msgs/String", 0, serialize("std_msgs/String", {}))
    assert run("replay", str(tmp_path / "a.mcap"), "--out", str(tmp_path / "a.mcap")) == 1
    assert "would replace the bag" in capsys.readouterr().err


def test_models(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path))
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "weights.bin").write_bytes(b"abc")
    write_manifest(tmp_path / "mine", "weights.bin", name="mine", licence="CC0-1.0")
    assert run("models", "list", "--json") == 0
    listed = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    assert listed["mine"]["licence"] == "CC0-1.0"
    assert listed["smollm2-135m"]["status"] == "available"
    assert run("models", "check") == 0
    (tmp_path / "mine" / "weights.bin").write_bytes(b"abd")
    assert run("models", "check", "mine") == 1
    assert "MODEL_BAD" in capsys.readouterr().out


def test_doctor_in_json(run, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "LOOKS", tuple(look for look in doctor.LOOKS if look.__name__ != "_discovery"))
    code = run("doctor", "--json")
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["ok"] else 1)
    names = {check["name"] for check in found["checks"]}
    assert {"Python", "libraries", "CPU", "memory", "GPUs", "microphones", "extension kernels"} <= names
    for check in found["checks"]:
        assert check["ok"] or check["remedy"], check


def test_doctor_finds_two_processes():
    pytest.importorskip("rclpy")
    checks = list(doctor._discovery())
    assert [c.ok for c in checks] == [True], checks


def test_doctor_survives_what_it_finds(monkeypatch):
    def ill():
        raise OSError("no such thing")

    monkeypatch.setattr(doctor, "LOOKS", (ill,))
    assert doctor.as_dict(doctor.examine()) == {
        "ok": False,
        "checks": [{"name": "ill", "ok": False, "found": "OSError: no such thing", "remedy": "Report this."}],
    }


def test_environment_of_the_graph(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    env = session.environment()
    assert 1 <= int(env["ROS_DOMAIN_ID"]) <= 100
    assert env["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert env["AMENT_PREFIX_PATH"] == sys.prefix
    assert env["OMP_NUM_THREADS"]


def test_figures_of_the_nodes():
    measurements = {
        "topics": {"segmentation/labels": {"count": 3, "rate_hz": 9.9, "latency_ms": [10.0, 20.0, 30.0]}},
        "first_word_ms": [],
        "nodes": {"segmentation_node": {"dropped points": "2", "errors": "1"}, "language_node": {}},
        "processes": {"segmentation_node": {"cpu_percent": 12.5, "rss_mb": 300.0}, "monitor": {}},
        "clouds": {
            "1": {"segmentation/labels": 5, "reconstruction/occupancy": 9, "reconstruction/forecast": 8},
            "2": {"segmentation/labels": 5},
        },
    }
    rows = {row.name: row for row in measure.rows(measurements)}
    assert list(rows) == ["segmentation_node", "language_node", "monitor"]
    assert rows["segmentation_node"] == measure.Row("segmentation_node", 9.9, 20.0, 29.0, 2, 1, 12.5, 300.0)
    assert rows["language_node"].p50_ms is None
    assert measure.both_outputs_ms(measurements) == [9]
