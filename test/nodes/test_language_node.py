# SPDX-License-Identifier: Apache-2.0
"""language_node over a real DDS, with a small random model: what it says is noise, how it says it is tested."""

from __future__ import annotations

import json

import jsonschema
import pytest
from rclpy.parameter import Parameter
from small_gguf import write_gguf
from std_msgs.msg import Empty, String
from std_srvs.srv import Trigger

from edge_nodes import events, graph
from edge_nodes.nodes.base import EdgeNode

OUTPUTS = ("language/token", "language/reply", "language/event")
INPUTS = ("scene/event", "speech/event", "language/prompt")


@pytest.fixture
def language(world, tmp_path):
    model = write_gguf(tmp_path / "small.gguf", context=2048)
    overrides = {"model": str(model), "max_new_tokens": 12}
    parameters = [Parameter(name, value=value) for name, value in overrides.items()]
    node = world.add(EdgeNode(graph.NODES["language_node"], context=world.context, parameter_overrides=parameters))
    node.out = {topic: world.collect(String, topic, 200) for topic in OUTPUTS}
    assert world.change("language_node", "configure"), node.health()
    assert world.change("language_node", "activate")
    for topic in OUTPUTS:
        world.wait(lambda t=topic: node._output_publishers[t].get_subscription_count() > 0, what="a reader")
    node.into = {topic: world.tester.create_publisher(String, topic, 10) for topic in INPUTS}
    for topic, publisher in node.into.items():
        world.wait(lambda p=publisher: p.get_subscription_count() > 0, what=f"a subscriber on {topic}")
    return node


def send(language, topic, value):
    language.into[topic].publish(String(data=value if isinstance(value, str) else json.dumps(value)))


def speech_event(kind, text="", end_ns=2_000_000_000, sequence=0):
    event = {"schema": "edge_nodes/speech/1", "stamp_ns": end_ns, "sequence": sequence, "latency_ms": {}}
    return {**event, "kind": kind, "text": text, "start_ns": 1_000_000_000, "end_ns": end_ns}


def scene_event(sequence=0):
    car = {
        "id": 1,
        "class": "vehicle",
        "range_m": 7.0,
        "bearing_deg": 5.0,
        "center_m": [7, 0.6, 0],
        "size_m": [4, 2, 1.5],
    }
    return {
        "schema": "edge_nodes/scene/1",
        "stamp_ns": 1_500_000_000,
        "sequence": sequence,
        "latency_ms": {},
        "frame_id": "lidar",
        "objects": [{**car, "speed_mps": 0.0, "confidence": 0.9}],
        "free_m": {"ahead": 7.0, "left": 20.0, "right": 20.0},
        "text": "Ahead: a vehicle at 7 m.",
        "alarm": None,
    }


def test_answers_a_prompt_and_streams_it(world, language):
    send(language, "scene/event", scene_event(sequence=41))
    send(language, "language/prompt", "What do you see?")
    world.wait(lambda: language.out["language/event"], what="the event")
    world.wait(lambda: language.out["language/reply"], what="the reply")
    event = json.loads(language.out["language/event"][0].data)
    jsonschema.validate(event, events.LANGUAGE)
    assert event["kind"] == "reply"
    assert event["request"].items() >= {"source": "prompt", "text": "What do you see?"}.items()
    assert 0 < event["tokens"]["generated"] <= 12
    tokens = language.out["language/token"]
    world.wait(
        lambda: "".join(t.data for t in tokens).strip() == event["text"].strip(), what="all of the answer's tokens"
    )
    assert language.out["language/reply"][0].data == event["text"]
    assert {"first_token", "total"} <= set(event["latency_ms"])


def test_answers_final_words_only(world, language):
    send(language, "speech/event", speech_event("partial", "what do"))
    send(language, "speech/event", speech_event("final", "", sequence=1))
    send(language, "speech/event", speech_event("final", "what do you see", sequence=2))
    world.wait(lambda: language.out["language/event"], what="the event")
    event = json.loads(language.out["language/event"][0].data)
    assert event["request"].items() >= {"source": "speech", "text": "what do you see"}.items()
    assert event["stamp_ns"] == 2_000_000_000
    assert "from_end_of_speech" in event["latency_ms"]


def test_speech_interrupts_the_answer(world, language):
    language.set_parameters([Parameter("max_new_tokens", value=1500)])
    send(language, "language/prompt", "Tell me a long story")
    world.wait(lambda: language.out["language/token"], what="the first token")
    send(language, "speech/event", speech_event("start"))
    world.wait(lambda: language.out["language/event"], what="the event")
    event = json.loads(language.out["language/event"][0].data)
    assert (event["kind"], event["finish_reason"]) == ("cancelled", "cancelled")
    assert event["tokens"]["generated"] < 1500


def test_cancel_and_reset_services(world, language):
    language.set_parameters([Parameter("max_new_tokens", value=1500)])
    for name in ("language/cancel", "language/reset"):
        language.out["language/token"].clear()
        language.out["language/event"].clear()
        send(language, "language/prompt", "Tell me a long story")
        world.wait(lambda: language.out["language/token"], what="the first token")
        answer = world.call(Trigger, name, Trigger.Request())
        assert answer.success
        assert "cancelled" in answer.message
        world.wait(lambda: language.out["language/event"], what="the event")
        assert json.loads(language.out["language/event"][0].data)["kind"] == "cancelled"
    assert world.change("language_node", "deactivate")
    assert world.change("language_node", "cleanup")
    assert not world.tester.create_client(Trigger, "language/cancel").service_is_ready()


def test_narrates_on_request(world, language):
    send(language, "scene/event", scene_event())
    world.wait(lambda: language.pipeline._scene, what="the scene")
    asking = world.tester.create_publisher(Empty, "language/narrate", 10)
    world.wait(lambda: asking.get_subscription_count() > 0, what="a subscriber")
    asking.publish(Empty())
    world.wait(lambda: language.out["language/event"], what="the event")
    event = json.loads(language.out["language/event"][0].data)
    jsonschema.validate(event, events.LANGUAGE)
    assert event["kind"] == "narration"


@pytest.mark.parametrize(
    ("topic", "value"),
    [
        ("language/prompt", "  "),
        ("scene/event", "{not json"),
        ("speech/event", '{"kind": "final"}'),
        ("scene/event", "[]"),
    ],
)
def test_malformed_input_is_counted_and_the_node_goes_on(world, language, topic, value):
    send(language, topic, value)
    world.wait(lambda: language.statistics.counts["errors"] == 1, what="the error to be counted")
    assert language.health()[0].value == "BAD_INPUT"
    send(language, "language/prompt", "hello")
    world.wait(lambda: language.out["language/event"], what="an answer after the malformed message")


def test_missing_model_says_how_to_get_it(world):
    parameters = [Parameter("model", value="no-such-model")]
    node = world.add(EdgeNode(graph.NODES["language_node"], context=world.context, parameter_overrides=parameters))
    assert not world.change("language_node", "configure")
    state, text = node.health()
    assert state.value == "MODEL_MISSING"
    assert "edge-nodes models install" in text
