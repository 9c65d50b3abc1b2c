# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_nodes.errors import ModelError, State
from edge_nodes.models import write_manifest
from edge_nodes.speech import SpeechModel
from edge_nodes.speech.config import ExitConfig
from edge_nodes.speech.encoder import Encoder, Shape
from edge_nodes.speech.exits import policy
from edge_nodes.speech.features import log_mel

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
