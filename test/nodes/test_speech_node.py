# SPDX-License-Identifier: Apache-2.0
"""speech_node over a real DDS: spoken questions in, words out; malformed audio is counted and refused."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import soundfile
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float32MultiArray, Int16MultiArray, String, UInt8MultiArray

from edge_nodes import events
from edge_nodes.nodes.messages import build, message_type
from edge_nodes.nodes.speech_node import SpeechNode
from edge_nodes.pipelines.audio import audio_fields
from edge_nodes.speech.evaluation import edit_distance

DEMO = Path(__file__).resolve().parents[2] / "config" / "demo"
CHUNK = 1600


@pytest.fixture
def speech(world):
    node = world.add(SpeechNode(context=world.context))
    node.out = {t: world.collect(String, t, 100) for t in ("speech/partial", "speech/text", "speech/event")}
    assert world.change("speech_node", "configure"), node.health()
    assert world.change("speech_node", "activate")
    for topic in node.out:
        world.wait(lambda t=topic: node._output_publishers[t].get_subscription_count() > 0, what="a reader")
    node.audio = world.tester.create_publisher(Int16MultiArray, "audio", 100)
    world.wait(lambda: node.audio.get_subscription_count() > 0, what="a subscriber on audio")
    return node


def say(world, speech, samples):
    """Publish samples in chunks, each when the one before is worked on."""
    for begin in range(0, len(samples), CHUNK):
        before = speech.statistics.counts["processed"]
        chunk = samples[begin : begin + CHUNK]
        speech.audio.publish(build(Int16MultiArray, audio_fields(chunk, 16000)))
        world.wait(lambda n=before: speech.statistics.counts["processed"] > n, what="a chunk to be worked on")


def recorded(record):
    samples, rate = soundfile.read(DEMO / record["file"], dtype="int16")
    assert rate == 16000
    silence = np.zeros(16000, np.int16)
    return np.concatenate([silence[:4800], samples, silence])


def test_spoken_questions_become_words(world, speech):
    records = json.loads((DEMO / "audio.json").read_text())
    records = records["clips"] if isinstance(records, dict) else records
    errors = words = 0
    for number, record in enumerate(records[:3]):
        say(world, speech, recorded(record))
        world.wait(lambda n=number: len(speech.out["speech/text"]) > n, what="the final words")
        said = "".join(c for c in record["text"].lower() if c.isalpha() or c in " '").split()
        errors += edit_distance(said, speech.out["speech/text"][-1].data.split())
        words += len(said)
    assert errors <= 0.35 * words, [t.data for t in speech.out["speech/text"]]
    found = [json.loads(m.data) for m in speech.out["speech/event"]]
    for event in found:
        jsonschema.validate(event, events.SPEECH)
    kinds = [e["kind"] for e in found]
    assert kinds.count("final") == kinds.count("start") == 3
    assert kinds.count("partial") >= 3
    assert [e["sequence"] for e in found] == list(range(len(found)))
    for event in found:
        assert event["start_ns"] < event["end_ns"] or event["kind"] == "start"
    final = next(e for e in found if e["kind"] == "final")
    assert final["exit"]["layer"] <= final["exit"]["of"]


def test_silence_and_noise_give_no_words(world, speech):
    noise = np.random.default_rng(3).normal(0, 200, 5 * 16000).astype(np.int16)
    say(world, speech, noise)
    assert [t.data for t in speech.out["speech/text"] if t.data] == []


def test_malformed_audio_is_refused_and_the_node_goes_on(world, speech):
    World = type(world)
    good = audio_fields(np.zeros(CHUNK, np.int16), 16000)
    wrong_rate = audio_fields(np.zeros(800, np.int16), 8000)
    stereo = audio_fields(np.zeros(CHUNK, np.int16), 16000)
    for dim in stereo["layout"]["dim"]:
        if dim["label"] == "channels":
            dim["size"] = 2
    for number, fields in enumerate((wrong_rate, stereo)):
        speech.audio.publish(build(Int16MultiArray, fields))
        world.wait(lambda n=number: speech.statistics.counts["errors"] == n + 1, what="the error to be counted")
        assert speech.health()[0].value == "BAD_INPUT"
    assert "rate" in speech.health()[1] or "channel" in speech.health()[1]
    other = World()  # a publisher of another type on the same topic needs a participant of its own
    other.tester.create_publisher(Float32MultiArray, "audio", 10).publish(Float32MultiArray(data=[0.5]))
    other.close()
    speech.audio.publish(build(Int16MultiArray, good))
    world.wait(lambda: speech.statistics.counts["processed"] == 1, what="the good chunk")


@pytest.fixture
def drivers(monkeypatch):
    """A package audio_common_msgs like ros-drivers'; its AudioData has the wire format of a message that is there."""
    package = types.ModuleType("audio_common_msgs.msg")
    package.AudioData, package.AudioInfo = UInt8MultiArray, String
    monkeypatch.setitem(sys.modules, "audio_common_msgs", types.ModuleType("audio_common_msgs"))
    monkeypatch.setitem(sys.modules, "audio_common_msgs.msg", package)
    message_type.cache_clear()
    yield
    message_type.cache_clear()


def test_another_packages_audio_is_found_when_it_comes(world, drivers, monkeypatch):
    node = world.add(SpeechNode(context=world.context, parameter_overrides=[Parameter("always_work", value=True)]))
    published = []
    monkeypatch.setattr(node, "get_publishers_info_by_topic", lambda _: published)
    heard = []
    assert world.change("speech_node", "configure"), node.health()
    monkeypatch.setattr(node.pipeline._loaded, "feed", lambda samples, *_, **__: heard.append(samples) or [])
    assert world.change("speech_node", "activate")
    assert node.pipeline.audio_type == "std_msgs/Int16MultiArray"
    published.append(types.SimpleNamespace(topic_type="audio_common_msgs/msg/AudioData"))
    world.wait(lambda: node.pipeline.audio_type == "audio_common_msgs/AudioData", what="another look")
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    source = world.tester.create_publisher(UInt8MultiArray, "audio", best_effort)
    world.wait(lambda: source.get_subscription_count() > 0, what="a subscriber of that type")
    samples = np.array([1, -2, 300], np.int16)
    source.publish(UInt8MultiArray(data=samples.tobytes()))
    world.wait(lambda: heard, what="the samples")
    assert heard[0].tolist() == samples.tolist()


def test_a_type_that_is_not_installed_fails_to_configure(world):
    node = world.add(
        SpeechNode(
            context=world.context,
            parameter_overrides=[Parameter("audio_type", value="audio_common_msgs/AudioStamped")],
        )
    )
    assert not world.change("speech_node", "configure")
    assert "audio_common_msgs" in node.health()[1]
