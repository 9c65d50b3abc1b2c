# SPDX-License-Identifier: Apache-2.0
"""The pipeline with several requests at once: order, priorities, streams, attempts, a full queue."""

from __future__ import annotations

import json

import jsonschema
import pytest
from robot_messages import OUTPUTS, SECOND, message, scene, speech

from edge_nodes import parameters
from edge_nodes.errors import State
from edge_nodes.events import LANGUAGE
from edge_nodes.language.config import LanguageConfig
from edge_nodes.language.errors import LanguageError

ALARM = {"text": "A person is close ahead.", "object": 1}


@pytest.fixture
def pipeline(small_model):
    from edge_nodes.pipelines.language import LanguagePipeline

    values = {"model": str(small_model), "max_new_tokens": 12, "fusion.slots": 2, "fusion.queue": 3}
    values |= {"narrate": "alarms", "narrate_interval_s": 0.0}
    made = LanguagePipeline(parameters.replace(LanguageConfig(), values))
    made.load(lambda line: None)
    yield made
    made.close()


def change(pipeline, **values):
    pipeline.update(parameters.replace(pipeline.config, {k.replace("__", "."): v for k, v in values.items()}))


def arrive(pipeline, topic, content):
    assert not pipeline.arrived(topic, content, received_ns=12 * SECOND)
    return topic, content


def drive(pipeline, *arrived, wanted=OUTPUTS):
    """What comes of processing messages in the order of their arrival, one list a message."""
    return [list(pipeline.process(t, m, received_ns=12 * SECOND, wanted=wanted)) for t, m in arrived]


def events(outputs):
    found = [json.loads(o.fields["data"]) for o in outputs if o.topic == "language/event"]
    for event in found:
        jsonschema.validate(event, LANGUAGE)
    return found


def test_requests_that_wait_are_answered_beside_the_first(pipeline):
    texts = ["What do you see?", "Who are you?", "Is it clear?"]
    alone = [events(drive(pipeline, arrive(pipeline, "language/prompt", message(t)))[0])[0]["text"] for t in texts]
    before = pipeline._loop.metrics.iterations
    outputs = drive(pipeline, *[arrive(pipeline, "language/prompt", message(t)) for t in texts])
    found = events(o for part in outputs for o in part)
    assert {e["request"]["text"]: e["text"] for e in found} == dict(zip(texts, alone, strict=True))
    assert [e["request"]["id"] for e in sorted(found, key=lambda e: e["request"]["id"])] == [3, 4, 5]
    assert [e["sequence"] for e in found] == [3, 4, 5]
    assert pipeline._loop.metrics.iterations - before < 3 * 12


def test_an_alarm_is_told_before_what_was_asked_earlier(pipeline):
    arrived = [arrive(pipeline, "language/prompt", message(f"Question {i}?")) for i in range(3)]
    arrived += [arrive(pipeline, "speech/event", speech("final", "who are you"))]
    arrived += [arrive(pipeline, "scene/event", scene(1, ALARM))]
    found = events(o for part in drive(pipeline, *arrived) for o in part)
    assert found[0]["kind"] == found[0]["request"]["source"] == "narration"
    waited = {source: [] for source in ("narration", "speech", "prompt")}
    for event in found:
        waited[event["request"]["source"]].append(event["latency_ms"]["queue"])
    assert len(waited["prompt"]) == 3
    assert max(waited["narration"] + waited["speech"]) < min(waited["prompt"])


def test_tokens_are_of_one_answer_at_a_time(pipeline):
    arrived = [arrive(pipeline, "language/prompt", message(f"Question {i}?")) for i in range(3)]
    outputs = [o for part in drive(pipeline, *arrived) for o in part]
    said, told = "", []
    for output in outputs:
        if output.topic == "language/token":
            said += output.fields["data"]
        elif output.topic == "language/reply":
            told.append(output.fields["data"])
            if said.strip() == told[-1]:
                said = ""
    assert said == ""
    assert len(told) == 3


def test_barge_in_stops_all_but_alarms(pipeline):
    arrived = [arrive(pipeline, "language/prompt", message("Question?"))]
    arrived += [arrive(pipeline, "scene/event", scene(1, ALARM))]
    assert pipeline.arrived("speech/event", speech("start", ""), received_ns=0)
    found = events(o for part in drive(pipeline, *arrived) for o in part)
    assert {e["request"]["source"]: e["kind"] for e in found} == {"prompt": "cancelled", "narration": "narration"}
    assert pipeline.status()["requests"] == 0


def test_a_message_that_the_node_dropped_is_still_answered(pipeline):
    arrive(pipeline, "language/prompt", message("Question?"))
    kept = arrive(pipeline, "language/prompt", message("And this?"))
    assert len(events(drive(pipeline, kept)[0])) == 2


def test_a_full_queue_is_said_at_once(pipeline):
    arrived = [arrive(pipeline, "language/prompt", message(f"Question {i}?")) for i in range(5)]
    with pytest.raises(LanguageError, match="queue") as caught:
        pipeline.arrived("language/prompt", message("One more?"), received_ns=0)
    assert caught.value.state is State.OVERLOADED
    assert len(events(o for part in drive(pipeline, *arrived) for o in part)) == 5
    assert pipeline.status()["rejected"] == 1


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_several_attempts_are_voted_on_and_told(pipeline, mode):
    change(pipeline, reasoning__mode=mode, reasoning__attempts=3, reasoning__max_new_tokens=8, reasoning__vote="last")
    arrived = arrive(pipeline, "language/prompt", message("Question?"))
    (outputs,) = drive(pipeline, arrived)
    (event,) = events(outputs)
    about = event["reasoning"]
    assert (about["mode"], about["vote"], len(about["attempts"])) == (mode, "last", 3)
    weights = [a["weight"] for a in about["attempts"]]
    assert sum(weights) == 1.0
    assert event["text"] == about["attempts"][weights.index(1.0)]["text"]
    assert all(0 < a["entropy_bits"] < 4.33 for a in about["attempts"])  # log2(20)
    assert event["tokens"]["generated"] == sum(a["tokens"] for a in about["attempts"])
    assert "".join(o.fields["data"] for o in outputs if o.topic == "language/token").strip() == event["text"]


def test_a_deadline_gives_what_there_is(pipeline):
    change(pipeline, max_new_tokens=4096, reasoning__deadline_s=0.005)
    (event,) = events(drive(pipeline, arrive(pipeline, "language/prompt", message("Question?")))[0])
    assert event["finish_reason"] == "deadline"
    assert event["kind"] == "reply"


def test_a_failure_of_the_model_is_told_and_the_next_answer_given(pipeline, monkeypatch):
    arrived = arrive(pipeline, "language/prompt", message("Question?"))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline._loop, "model", None)
        with pytest.raises(AttributeError):
            drive(pipeline, arrived)
    assert pipeline.status()["failed"] == 1
    (event,) = events(drive(pipeline, arrive(pipeline, "language/prompt", message("Question?")))[0])
    assert event["kind"] == "reply"
