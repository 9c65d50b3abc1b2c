# SPDX-License-Identifier: Apache-2.0
"""Samples from the messages of both packages that are called audio_common_msgs."""

from __future__ import annotations

import array
from types import SimpleNamespace as Message

import numpy as np
import pytest

from edge_nodes.pipelines.audio import TYPES, choose, needs_info, samples_of
from edge_nodes.speech import SpeechError

PCM = np.array([1, -2, 32767, -32768], np.int16)
STD, STAMPED, DATA, DATA_STAMPED = TYPES


def stamped(name="audio_data", rate=16000, channels=1, **data):
    """mgonzs13's AudioStamped."""
    empty = {"float32_data": [], "int32_data": [], "int8_data": [], "uint8_data": []}
    samples = Message(**empty | {"int16_data": array.array("h", PCM.tobytes())} | data)
    return Message(audio=Message(**{name: samples, "info": Message(format=8, rate=rate, channels=channels, chunk=512)}))


def data(payload=None):
    """ros-drivers' AudioData."""
    return Message(data=array.array("B", PCM.tobytes() if payload is None else payload))


def info(**values):
    known = {"channels": 1, "sample_rate": 16000, "sample_format": "S16LE", "bitrate": 0, "coding_format": "wave"}
    return Message(**known | values)


@pytest.mark.parametrize(
    ("kind", "message", "told"),
    [
        (STAMPED, stamped(), None),
        (STAMPED, stamped("audio"), None),
        (DATA, data(), None),
        (DATA, data(), info()),
        (DATA, data(), info(coding_format="WAVE")),
        (DATA_STAMPED, Message(audio=data()), info()),
    ],
)
def test_samples(kind, message, told):
    found = samples_of(message, 16000, kind, told)
    assert found.dtype == np.int16
    assert found.tolist() == PCM.tolist()


@pytest.mark.parametrize(
    ("kind", "message", "told", "match"),
    [
        (STAMPED, stamped(rate=44100), None, "44100 Hz.*rate and channels"),
        (STAMPED, stamped(channels=2), None, "channel"),
        (STAMPED, stamped(int16_data=[], float32_data=[0.5]), None, "float32_data.*audio_capturer_node"),
        (DATA, data(), info(coding_format="mp3"), "mp3.*format to wave"),
        (DATA, data(), info(sample_format="F32LE"), "F32LE.*sample_format"),
        (DATA, data(), info(sample_rate=48000), "48000 Hz.*sample_rate"),
        (DATA, data(), info(channels=2), "channel"),
        (DATA, data(b"odd"), None, "even.*mp3"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_parameter_to_change(kind, message, told, match):
    with pytest.raises(SpeechError, match=match):
        samples_of(message, 16000, kind, told)


def test_the_type_is_the_one_that_is_published():
    assert choose("auto", []) == STD
    assert choose("auto", ["audio_common_msgs/msg/AudioStamped"]) == STAMPED
    assert choose("auto", ["audio_common_msgs/msg/AudioData", "std_msgs/msg/Int16MultiArray"]) == STD
    assert choose(DATA, ["std_msgs/msg/Int16MultiArray"]) == DATA
    with pytest.raises(SpeechError, match="std_msgs/String"):
        choose("auto", ["std_msgs/msg/String"])
    assert [needs_info(kind) for kind in TYPES] == [False, False, True, True]
