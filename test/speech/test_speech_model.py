# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from edge_nodes.errors import ModelError, State
from edge_nodes.models import write_manifest
from edge_nodes.speech import SpeechModel
from edge_nodes.speech.alphabet import SYMBOLS
from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.clips import normalise
from edge_nodes.speech.config import ExitConfig
from edge_nodes.speech.costs import LayerCosts
from edge_nodes.speech.encoder import Encoder, Shape
from edge_nodes.speech.exits import policy
from edge_nodes.speech.features import log_mel
from edge_nodes.speech.sureness import Weights

SMALL = Shape(blocks=2, width=32, heads=4, feed_forward=48, parallel_feed_forward=24, positions=200)


def write(folder, state, **changes):
    save_file(state, folder / "encoder.safetensors")
    entries = {"kind": "splitformer", "format": 1, "shape": SMALL.to_dict()} | changes
    write_manifest(folder, "encoder.safetensors", **entries)
    return str(folder)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder(SMALL).eval()


def test_reads_the_exit_it_leaves_at(encoder, tmp_path):
    model = SpeechModel(write(tmp_path, encoder.state_dict()))
    samples = (np.random.default_rng(0).standard_normal(16000) * 0.1).astype(np.float32)
    expected = list(encoder(torch.from_numpy(log_mel(samples))[None]))
    confidences = []
    last = model.recognise(samples, lambda layer, reading: confidences.append(reading.confidence))
    assert (last.layer, last.layers) == (2, 2)
    for output, confidence in zip(expected, confidences, strict=True):
        best = output[0].max(1).values[output[0][:, 0] < np.log(0.95)]
        assert confidence == pytest.approx(float(best.mean().exp().detach()), abs=1e-4)
    first = model.recognise(samples, policy(ExitConfig(policy="fixed", layer=1), 4))
    assert (first.layer, first.confidence) == (1, confidences[0])
    assert first.cost["audio_ms"] == 1000
    assert first.cost["encoder_ms"] > 0


def test_words_that_are_sure_leave_before_the_others(encoder, tmp_path):
    model = SpeechModel(write(tmp_path, encoder.state_dict()))
    samples = (np.random.default_rng(0).standard_normal(48000) * 0.1).astype(np.float32)
    whole = model.recognise(samples, lambda layer, reading: False)
    assert (whole.cost["mean_layers"], whole.shares) == (2.0, [0.0, 1.0])
    seen = []

    def leave(layer, reading):
        seen.append(reading)
        return [(10, 20), (40, 45)]

    parts = model.recognise(samples, leave)
    assert (parts.layer, len(seen), seen[1].text) == (2, 2, parts.as_heard)
    # 6 frames around each word are its own, 6 more are attended to; all in pairs.
    assert parts.shares == pytest.approx([1 - (24 + 18) / 150, (24 + 18) / 150])
    assert parts.cost["mean_layers"] == pytest.approx(1 + 42 / 150, abs=0.01)
    assert parts.cost["encoder_gflop"] < whole.cost["encoder_gflop"]
    costs = LayerCosts((1, 2))
    model.__dict__["costs"] = costs
    model.recognise(samples, leave)
    assert costs.until(2) == costs.until(1) > 0  # a part does not tell what a layer costs


def test_the_demos_orders_come_out_right_for_less():
    from edge_nodes.speech.lexicon import Lexicon

    model, spent, all_of_it = SpeechModel("speech/splitformer", lexicon=Lexicon()), 0.0, 0.0
    last, by_words = (policy(ExitConfig(policy=name), 4, model.calibration) for name in ("fixed", "words"))
    folder = Path(__file__).parents[2] / "config" / "demo"
    for clip in json.loads((folder / "demo.json").read_text())["speech"]:
        samples, _ = soundfile.read(folder / clip["file"], dtype="float32")
        whole, parts = (model.recognise(samples, leave) for leave in (last, by_words))
        assert whole.text == parts.text == normalise(clip["text"])
        all_of_it += whole.cost["encoder_gflop"]
        spent += parts.cost["encoder_gflop"]
        assert sum(parts.shares) == pytest.approx(1)
    assert spent < 0.9 * all_of_it


def test_each_exit_is_as_sure_of_a_word_as_its_weights_say(encoder, tmp_path):
    from edge_nodes.speech.lexicon import Lexicon

    model = SpeechModel(write(tmp_path, encoder.state_dict()), lexicon=Lexicon())
    model.calibration = Calibration(sureness={1: Weights(2.0, 0.0, 0.5, 0.0, 0.0, bias=3.0)})
    log_probs = np.full((30, 29), -9.0, np.float32)
    for frame, letter in enumerate("turn left qzx"):
        log_probs[2 * frame, SYMBOLS.index(letter)] = np.log(0.9)
        log_probs[2 * frame + 1, 0] = -0.01
    log_probs[26:, 0] = -0.001
    heard = model._read(log_probs, 1)
    assert heard.text == "turn left qzx"
    assert heard.sureness == pytest.approx((0.9, 0.9, 0.9), abs=1e-4)
    assert model._read(log_probs, 2).spelled().sureness == pytest.approx((0.9, 0.9, 0.9), abs=1e-4)
    spelled = heard.spelled()
    assert spelled.text == "turn left qzx"
    likely = [model._lexicon.log_bound(*pair) for pair in (("turn", None), ("left", "turn"))]
    odds = [np.exp(2.0 * np.log(0.9) + 0.5 * each + 3.0) for each in (*likely, -20.0)]
    assert spelled.sureness == pytest.approx([each / (1 + each) for each in odds], abs=1e-4)


@pytest.mark.parametrize("count", [0, 1, 160, 639])
def test_hardly_any_sound(encoder, tmp_path, count):
    model = SpeechModel(write(tmp_path, encoder.state_dict()))
    assert model.recognise(np.zeros(count, np.float32), policy(ExitConfig(policy="fixed", layer=1), 4)).layer == 1


def test_int8_weights_come_back(encoder, tmp_path):
    export = pytest.importorskip("train.speech.export")
    stored = export.quantise(encoder.state_dict())
    assert stored["blocks.0.attention_in.weight"].dtype == torch.int8
    loaded = SpeechModel(write(tmp_path, stored))._encoder.state_dict()
    for name, tensor in encoder.state_dict().items():
        assert (loaded[name] - tensor).abs().max() <= tensor.abs().max() / 250 + 1e-6


@pytest.mark.parametrize("fault", ["kind", "format", "shape", "sizes", "missing", "extra", "text"])
def test_a_bad_model_is_one_clear_error(encoder, tmp_path, fault):
    state = encoder.state_dict()
    changes = {
        "kind": {"kind": "segmentation"},
        "format": {"format": 99},
        "shape": {"shape": {"colour": 3}},
        "sizes": {"shape": SMALL.to_dict() | {"width": 64}},
    }.get(fault, {})
    if fault == "missing":
        del state["conv1.bias"]
    if fault == "extra":
        state["conv9.bias"] = torch.zeros(3)
    folder = write(tmp_path, state, **changes)
    if fault == "text":
        (tmp_path / "encoder.safetensors").write_text("not tensors")
        write_manifest(tmp_path, "encoder.safetensors", kind="splitformer", format=1, shape=SMALL.to_dict())
    with pytest.raises(ModelError) as error:
        SpeechModel(folder)
    assert error.value.state is State.MODEL_BAD
    assert str(tmp_path) in str(error.value)
