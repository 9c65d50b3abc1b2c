# SPDX-License-Identifier: Apache-2.0
"""speech_node's pipeline with the shipped model on the demo's audio."""

from __future__ import annotations

import array
import difflib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from edge_nodes.events import SPEECH
from edge_nodes.models import SHIPPED
from edge_nodes.pipelines.audio import audio_fields, samples_of
from edge_nodes.pipelines.speech import SpeechPipeline
from edge_nodes.speech import SpeechConfig, SpeechError

T0 = 1_700_000_000_000_000_000
ALL = {"speech/partial", "speech/text", "speech/event"}
DEMO = Path(__file__).resolve().parents[2] / "config" / "demo"


def message(block, **sizes):
    fields = audio_fields(np.asarray(block, np.int16), 16000)
    dims = [SimpleNamespace(**d | {"size": sizes.get(d["label"], d["size"])}) for d in fields["layout"]["dim"]]
    layout = SimpleNamespace(dim=dims, data_offset=0)
    return SimpleNamespace(layout=layout, data=array.array("h", np.asarray(block, np.int16).tobytes()))


def play(pipeline, samples, wanted=ALL, start_ns=T0):
    outputs = []
    for first in range(0, len(samples), 640):
        block = samples[first : first + 640]
        now = start_ns + (first + len(block)) * 62500
        outputs += pipeline.process("audio", message(block), received_ns=now, wanted=wanted)
    return outputs


@pytest.fixture(scope="module")
def pipeline():
    if not (SHIPPED / "speech" / "splitformer" / "manifest.json").is_file():
        pytest.skip("no shipped speech model")
    pipeline = SpeechPipeline(SpeechConfig())
    lines = []
    pipeline.load(lines.append)
    assert lines
    yield pipeline
    pipeline.close()
    assert pipeline.status() == {}


def words(text):
    return re.sub(r"[^a-z' ]", "", text.lower())


def clip(name):
    samples, rate = soundfile.read(DEMO / name, dtype="int16")
    assert rate == 16000
    return np.pad(samples, (8000, 12800))


@pytest.mark.parametrize("record", json.loads((DEMO / "audio.json").read_text()), ids=lambda r: r["file"])
def test_understands_the_demo(pipeline, record):
    jsonschema = pytest.importorskip("jsonschema")
    outputs = play(pipeline, clip(record["file"]))
    texts = [o.fields["data"] for o in outputs if o.topic == "speech/text"]
    # A letter may be off: the first weights spell by sound and have no word list behind them.
    assert len(texts) == 1
    assert difflib.SequenceMatcher(None, texts[0], words(record["text"])).ratio() > 0.9
    events = [json.loads(o.fields["data"]) for o in outputs if o.topic == "speech/event"]
    for event in events:
        jsonschema.validate(event, SPEECH)
    assert [e["sequence"] for e in events] == list(range(events[0]["sequence"], events[0]["sequence"] + len(events)))
    assert [e["kind"] for e in events] == ["start", *["partial"] * (len(events) - 2), "final"]
    assert len(events) > 3
    assert T0 < events[-1]["start_ns"] < events[-1]["end_ns"] < events[-1]["stamp_ns"]
    partials = [o.fields["data"] for o in outputs if o.topic == "speech/partial"]
    assert partials == [e["text"] for e in events if e["kind"] == "partial"]
    assert pipeline.status()["utterances"] > 0


def test_noise_gives_no_words(pipeline):
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(5 * 16000) * 1000).astype(np.int16)
    assert not any(o.fields["data"] for o in play(pipeline, noise) if o.topic == "speech/text")


def test_no_reader_no_work(pipeline, monkeypatch):
    samples = clip("what_do_you_see_ahead.flac")
    later = T0 + 10**12
    monkeypatch.setattr(pipeline._loaded, "_vad", None)
    assert play(pipeline, samples, wanted=set(), start_ns=later) == []
    monkeypatch.undo()
    outputs = play(pipeline, samples, wanted={"speech/text"}, start_ns=later * 2)
    assert [o.topic for o in outputs] == ["speech/text"]


@pytest.mark.parametrize(
    ("broken", "match"),
    [
        (SimpleNamespace(data=np.zeros(320, np.float32)), "Int16MultiArray"),
        (SimpleNamespace(data=[0.5, 1.0]), "Int16MultiArray"),
        (SimpleNamespace(data=np.zeros(320, np.int32)), "Int16MultiArray"),
        (SimpleNamespace(data=b"\0" * 640), "Int16MultiArray"),
        (SimpleNamespace(data=[1, 40000]), "Int16MultiArray"),
        (SimpleNamespace(data=[[1], [2, 3]]), "Int16MultiArray"),
        (SimpleNamespace(data=np.zeros((2, 160), np.int16)), "shape"),
        (message(np.zeros(320), rate_hz=44100), "rate_hz"),
        (message(np.zeros(320), channels=2), "channel"),
        (message(np.zeros(320), samples=400), "truncated"),
    ],
)
def test_refuses_what_it_cannot_use_and_goes_on(pipeline, broken, match):
    samples = clip("what_do_you_see_ahead.flac")
    start = T0 + 10**15
    half = len(samples) // 2 // 640 * 640
    before = play(pipeline, samples[:half], start_ns=start)
    with pytest.raises(SpeechError, match=match):
        list(pipeline.process("audio", broken, received_ns=start + half * 62500, wanted=ALL))
    after = play(pipeline, samples[half:], start_ns=start + half * 62500)
    texts = [o.fields["data"] for o in [*before, *after] if o.topic == "speech/text"]
    assert texts == [o.fields["data"] for o in play(pipeline, samples, start_ns=start * 2) if o.topic == "speech/text"]


@pytest.mark.parametrize("data", [array.array("h", [1, -2, 3]), np.array([1, -2, 3], np.int16), [1, -2, 3]])
def test_samples_of(data):
    assert samples_of(SimpleNamespace(data=data), 16000).tolist() == [1, -2, 3]
    assert samples_of(SimpleNamespace(data=data), 16000).dtype == np.int16


def test_empty_audio(pipeline):
    assert samples_of(SimpleNamespace(data=array.array("h")), 16000).size == 0
    assert play(pipeline, np.zeros(0, np.int16)) == []


def test_the_card_is_of_these_weights(pipeline):
    folder = SHIPPED / "speech" / "splitformer"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sha256"] in (folder / "README.md").read_text()
