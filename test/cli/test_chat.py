# SPDX-License-Identifier: Apache-2.0
"""The chat through its standard streams."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys

import pytest
from small_gguf import write_gguf

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
from edge_nodes.bags import BagError, BagWriter, serialize
from edge_nodes.cli import main, session
from edge_nodes.cli.scenes import newest_scene


@pytest.fixture
def model(tmp_path):
    return write_gguf(tmp_path / "small.gguf")


def chat(monkeypatch, capsys, lines, *words):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    with pytest.raises(SystemExit) as end:
        main(["chat", *map(str, words)])
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_lines_are_answered(model, monkeypatch, capsys):
    lines = ["hello", "", "/stats", "/reset", "/what", "hello", "/quit", "never read"]
    code, out, err = chat(monkeypatch, capsys, lines, "--model", model, "--max-new-tokens", 10)
    assert code == 0
    assert out.count("\n") >= 2
    assert err.count("10 tokens") == 2
    for text in ("ended by  length", "turns  1", "forgotten", "/quit leaves"):
        assert text in err


def test_answers_follow_a_grammar_and_the_seed(model, monkeypatch, capsys, tmp_path):
    (tmp_path / "g.lark").write_text('start: ("left" | "right") " " /[0-9]{3}/')
    answers = set()
    for seed in (1, 1, 2, 3):
        words = ("--model", model, "--grammar", tmp_path / "g.lark", "--temperature", 2, "--seed", seed, "--top-k", 0)
        code, out, _ = chat(monkeypatch, capsys, ["where?"], *words)
        assert code == 0
        assert out.split()[0] in ("left", "right")
        answers.add(out)
    assert 1 < len(answers) < 4


def test_what_does_not_fit_is_said_and_the_chat_goes_on(model, monkeypatch, capsys):
    code, out, err = chat(
        monkeypatch, capsys, ["x" * 500, "hi"], "--model", model, "--context-tokens", 128, "--max-new-tokens", 5
    )
    assert code == 0
    assert "does not fit" in err
    assert "5 tokens" in err
    assert out


def test_interrupt_stops_the_answer_only(model, tmp_path):
    (tmp_path / "long.lark").write_text("start: /[a-z]{5000}/")
    command = [sys.executable, "-m", "edge_nodes.cli", "chat", "--model", str(model), "--max-new-tokens", "8000"]
    with subprocess.Popen(
        [*command, "--context-tokens", "8192", "--grammar", str(tmp_path / "long.lark")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdin.write(b"hello\n/stats\n")
        process.stdin.flush()
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"(stopped)" in err
    assert b"cancelled" in err


def scene_event(text):
    person = {"class": "person", "range_m": 3.2, "bearing_deg": 0.0, "center_m": [3.2, 0, 0]}
    content = {"stamp_ns": 1, "sequence": 1, "objects": [person], "text": text, "free_m": {"ahead": 3.0}}
    return serialize("std_msgs/String", {"data": json.dumps(content)})


def test_newest_scene_of_a_bag(tmp_path):
    with BagWriter(tmp_path / "a.mcap") as writer:
        for number in range(3):
            writer.write("/scene/event", "std_msgs/String", number + 1, scene_event(f"scene {number}"))
    assert newest_scene(tmp_path / "a.mcap").text == "scene 2"
    with BagWriter(tmp_path / "b.mcap") as writer:
        writer.write("/language/prompt", "std_msgs/String", 1, serialize("std_msgs/String", {"data": "?"}))
    with pytest.raises(BagError, match="no scene"):
        newest_scene(tmp_path / "b.mcap")


def test_a_scene_is_seen_in_clouds():
    scene = newest_scene(session.demo_bag())
    assert scene.objects
    assert scene.free_m
