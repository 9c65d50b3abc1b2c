# SPDX-License-Identifier: Apache-2.0
"""The whole graph as processes on a short piece of the demo's bag: scans and a spoken question in, an answer out."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from small_gguf import write_gguf

from edge_nodes import events, graph
from edge_nodes.bags import BagReader, BagWriter

pytest.importorskip("honcho")
BAG = Path(__file__).resolve().parents[2] / "config" / "demo" / "demo.mcap"
FROM_S, TO_S = 0.0, 6.0
"""The real scans, and the first question."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the graph once; return its outcome and its recording's messages by topic."""
    from edge_nodes.cli import session

    folder = tmp_path_factory.mktemp("graph")
    short = folder / "short.mcap"
    with BagReader(BAG) as bag, BagWriter(short) as writer:
        start, stop = (bag.start_ns + int(t * 1e9) for t in (FROM_S, TO_S))
        for message in bag.messages(start_ns=start, stop_ns=stop):
            writer.write(message.topic, message.type, message.time_ns, message.data)
    # A random model: what it says does not matter here, that it is asked and answers does.
    model = write_gguf(folder / "small.gguf", context=2048)
    overrides = {"language_node": {"model": str(model), "max_new_tokens": 8}}
    options = graph.Options(bag=str(short), overrides=overrides)
    outcome = session.run(options, folder=folder, handle=lambda event: None)
    logs = "\n".join(p.read_text() for p in (folder / "logs").glob("*.log"))
    assert outcome.first == session.MONITOR, logs
    found = {}
    with BagReader(folder / session.RECORDING) as recording:
        for message in recording.messages():
            found.setdefault(message.topic, []).append(recording.deserialize(message))
    return outcome, found, logs


def of(found, topic):
    return found.get(f"/{topic}", [])


def parsed(found, topic):
    values = [json.loads(m.data) for m in of(found, topic)]
    for value in values:
        jsonschema.validate(value, events.SCHEMAS[topic])
    return values


def test_every_output_came(run):
    outcome, found, logs = run
    missing = [t for n in graph.NODES.values() if n.pipeline for t in n.outputs if not of(found, t)]
    assert not missing, logs
    assert outcome.code == 0


def test_scenes_follow_the_scans(run):
    _, found, _ = run
    scenes = parsed(found, "scene/event")
    stamps = [e["stamp_ns"] for e in scenes]
    assert stamps == sorted(set(stamps))
    assert [e["sequence"] for e in scenes] == list(range(len(scenes)))
    assert any(e["objects"] for e in scenes), "a real street is not empty"


def test_the_question_was_heard_and_answered(run):
    _, found, _ = run
    finals = [e for e in parsed(found, "speech/event") if e["kind"] == "final" and e["text"]]
    replies = parsed(found, "language/event")
    assert finals
    asked = [e["request"]["text"] for e in replies if e["request"]["source"] == "speech"]
    assert finals[0]["text"] in asked
    answered = next(e for e in replies if e["request"]["text"] == finals[0]["text"])
    assert answered["scene_sequence"] is not None, "the answer was given the scene"


def test_nothing_was_refused(run):
    _, _, logs = run
    assert "BAD_INPUT" not in logs
    assert "Traceback" not in logs
