# SPDX-License-Identifier: Apache-2.0
"""The streaming logic, with a voice activity model that hears loudness and a speech model that counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge_nodes.errors import ModelError, State
from edge_nodes.parameters import replace
from edge_nodes.speech import Hypothesis, Recognizer, SpeechConfig, SpeechError
from edge_nodes.speech import recognizer as module
from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.costs import LayerCosts
from edge_nodes.speech.exits import Reading

T0 = 1_700_000_000_000_000_000
MS = 1_000_000


class Loudness:
    def __call__(self, chunk):
        return float(np.abs(chunk).max() > 0.1)

    def reset(self):
        pass


class Counting:
    layers = 4
    calibration = Calibration(words=0.7, earliest=2)

    def __init__(self, *_, **__):
        self.heard = []
        self.costs = LayerCosts(range(1, 5))

    def recognise(self, samples, leave):
        self.heard.append(samples)
        layer = next(n for n in range(1, 5) if leave(n, Reading("", n / 4)) is True or n == 4)
        loud = int((np.abs(samples) > 0.1).sum())
        return Hypothesis(f"{loud}" if loud else "", layer / 4, layer, 4, {"encoder_ms": 1.0})


@pytest.fixture
def listen(monkeypatch):
    monkeypatch.setattr(module, "SpeechModel", Counting)
    monkeypatch.setattr(module, "SileroVad", Loudness)

    def start(**values):
        recognizer = Recognizer(replace(SpeechConfig(), {n.replace("__", "."): v for n, v in values.items()}))
        recognizer.load()
        recognizer.model.heard.clear()
        return recognizer

    return start


def sound(*parts):
    """(seconds, loud) -> int16 samples."""
    return np.concatenate([np.full(int(s * 16000), 8000 if loud else 0, np.int16) for s, loud in parts])


def feed(recognizer, samples, block=320, start_ns=T0, **options):
    events = []
    for first in range(0, len(samples), block):
        chunk = samples[first : first + block]
        events += recognizer.feed(chunk, start_ns + (first + len(chunk)) * 1_000_000_000 // 16000, **options)
    return events


@pytest.mark.parametrize("block", [160, 320, 1000, 7777])
def test_one_utterance(listen, block):
    recognizer = listen(partial_interval_ms=0)
    events = feed(recognizer, sound((1.0, False), (1.5, True), (1.0, False)), block)
    assert [e.kind for e in events] == ["start", "final"]
    start, final = events
    assert abs(start.start_ns - T0 - 800 * MS) <= 32 * MS  # 200 ms of padding before the speech
    assert start.start_ns == final.start_ns
    assert abs(final.end_ns - T0 - 2500 * MS) <= 32 * MS
    assert final.text == "24000"
    assert len(recognizer.model.heard[0]) == pytest.approx(1.9 * 16000, abs=1024)
    assert (final.layer, final.layers, final.policy) == (3, 4, "words")


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("block", [320, 640, 1600])
def test_partials_from_their_exit_as_often_as_asked(listen, layer, block):
    recognizer = listen(partial_interval_ms=300, exit__partial_layer=layer)
    events = feed(recognizer, sound((0.5, False), (2.0, True), (1.0, False)), block)
    partials = [e for e in events if e.kind == "partial"]
    assert 5 <= len(partials) <= 8
    assert all(e.layer == layer and e.policy == "fixed" for e in partials)
    assert all(200 * MS <= b.end_ns - a.end_ns <= 332 * MS for a, b in itertools.pairwise(partials))
    assert events[-1].kind == "final"
    assert not [e for e in feed(listen(), sound((2.0, True)), partials=False) if e.kind == "partial"]


def test_a_backlog_gets_no_partials_until_it_is_caught_up(listen):
    events = list(listen(partial_interval_ms=300).feed(sound((3.0, True)), T0))
    assert [e.kind for e in events] == ["start", "partial"]


def test_audio_that_waited_gets_no_partials(listen):
    assert [e.kind for e in feed(listen(), sound((2.0, True)), waited_s=0.5)] == ["start"]


PAUSE = (1.0, True), (0.3, False), (1.0, True), (1.0, False)


def early(listen, **options):
    return listen(partial_interval_ms=0, exit__policy="fixed", **options)


def test_the_text_is_given_before_the_silence_ends(listen):
    recognizer = early(listen, vad__early_ms=224)
    silence = sound((1.0, False))
    events = feed(recognizer, np.concatenate([sound((1.0, True)), silence[: int(0.26 * 16000)]]))
    assert [(e.kind, e.text, e.replaces) for e in events] == [("start", "", False), ("final", "16000", False)]
    assert abs(events[1].end_ns - T0 - 1000 * MS) <= 32 * MS
    assert len(recognizer.model.heard) == 1
    assert feed(recognizer, silence, start_ns=T0 + 1260 * MS) == []
    assert list(recognizer.flush()) == []


def test_speech_that_goes_on_takes_the_early_text_back(listen):
    events = feed(early(listen, vad__early_ms=224), sound(*PAUSE))
    told = [(e.kind, e.text, e.replaces) for e in events]
    assert told == [("start", "", False), ("final", "16000", False), ("start", "", False), ("final", "32000", True)]
    assert len({e.start_ns for e in events}) == 1
    later = feed(early(listen, vad__early_ms=0), sound(*PAUSE))
    assert [(e.kind, e.text, e.replaces) for e in later] == [("start", "", False), ("final", "32000", False)]
    assert later[-1].end_ns == events[-1].end_ns


def test_a_click_takes_nothing_back(listen):
    events = feed(early(listen, vad__early_ms=224), sound((1.0, True), (0.3, False), (0.04, True), (1.0, False)))
    assert [e.kind for e in events] == ["start", "final"]


def test_a_doubtful_text_waits_for_the_whole_silence(listen):
    recognizer = early(listen, vad__early_ms=224, vad__early_confidence=0.9, exit__layer=2)
    samples = sound((1.0, True), (1.0, False))
    assert [e.kind for e in feed(recognizer, samples[: int(1.35 * 16000)])] == ["start"]
    assert [e.kind for e in feed(recognizer, samples[int(1.35 * 16000) :], start_ns=T0 + 1350 * MS)] == ["final"]


def test_what_is_recognised_early_is_as_long_as_what_is_recognised_late(listen):
    lengths = []
    for early_ms in (224, 0):
        recognizer = early(listen, vad__early_ms=early_ms)
        feed(recognizer, sound((1.0, True), (1.0, False)))
        lengths.append(len(recognizer.model.heard[-1]))
    assert lengths[0] == lengths[1]


def test_long_speech_is_cut_where_it_is_quietest(listen):
    recognizer = listen(max_segment_s=4.0, partial_interval_ms=0)
    samples = sound((3.0, True), (0.12, False), (3.0, True), (1.0, False))
    events = feed(recognizer, samples)
    assert [e.kind for e in events] == ["start", "final", "start", "final"]
    assert abs(events[1].end_ns - T0 - 3060 * MS) <= 20 * MS
    assert events[2].start_ns == events[1].end_ns
    assert [e.text for e in events if e.kind == "final"] == ["48000", "48000"]


def test_a_hole_in_the_audio_ends_the_segment(listen):
    recognizer = listen(partial_interval_ms=0)
    first = feed(recognizer, sound((0.5, False), (1.0, True)))
    second = feed(recognizer, sound((0.5, False), (1.0, True), (0.5, False)), start_ns=T0 + 60_000 * MS)
    assert [e.kind for e in first] == ["start"]
    assert [e.kind for e in second] == ["final", "start", "final"]
    assert second[0].end_ns < T0 + 2000 * MS
    assert second[1].start_ns > T0 + 60_000 * MS


def test_flush_and_drop(listen):
    recognizer = listen(partial_interval_ms=0)
    feed(recognizer, sound((1.0, True)))
    assert [e.text for e in recognizer.flush()] == ["16000"]
    assert list(recognizer.flush()) == []
    feed(recognizer, sound((1.0, True)))
    recognizer.drop()
    assert feed(recognizer, sound((1.0, False))) == []


def test_memory_stays_bounded_in_silence(listen):
    recognizer = listen()
    feed(recognizer, sound((20.0, False)))
    assert len(recognizer._stream.audio) < 16000


def test_policy_follows_the_configuration(listen):
    recognizer = listen(partial_interval_ms=0, exit__policy="fixed", exit__layer=2)
    speech = sound((1.0, True), (1.0, False))
    assert feed(recognizer, speech)[-1].layer == 2
    recognizer.config = replace(
        recognizer.config, {"exit.policy": "confidence", "exit.threshold": 0.7, "exit.layer": 0}
    )
    assert feed(recognizer, speech, start_ns=T0 + 2000 * MS)[-1].layer == 3


def test_an_overloaded_node_takes_earlier_exits(listen):
    recognizer = listen(partial_interval_ms=0, exit__policy="load", exit__overload_ms=1000.0)
    speech = sound((1.0, True), (1.0, False))
    found = [
        feed(recognizer, speech, start_ns=T0 + i * 10**10, waited_s=waited)[-1]
        for i, waited in enumerate((0.0, 0.5, 3.0))
    ]
    assert [e.layer for e in found] == [4, 3, 2]
    assert {e.policy for e in found} == {"load"}


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(SpeechError, match="sample_rate_hz"):
        Recognizer(SpeechConfig(sample_rate_hz=44100)).load()
    with pytest.raises(SpeechError, match="not loaded"):
        next(Recognizer(SpeechConfig()).feed(np.zeros(320, np.int16), T0))
    with pytest.raises(ModelError) as missing:
        Recognizer(SpeechConfig(model="no/such")).load()
    assert missing.value.state is State.MODEL_MISSING
    with pytest.raises(SpeechError) as device:
        Recognizer(SpeechConfig(device="warp")).load()
    assert device.value.state is State.NO_DEVICE
    (tmp_path / "x.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(ModelError) as bad:
        Recognizer(SpeechConfig(model=str(tmp_path / "x.safetensors"))).load()
    assert bad.value.state is State.MODEL_BAD
