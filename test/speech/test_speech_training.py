# SPDX-License-Identifier: Apache-2.0
"""What training makes of features, and the networks that it compares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_nodes.speech.alphabet import encode
from edge_nodes.speech.encoder import Encoder, Shape
from edge_nodes.speech.features import log_mel

bend = pytest.importorskip("train.speech.bend")
compare = pytest.importorskip("train.speech.compare")
heads = pytest.importorskip("train.speech.heads")


def tone(hz, seconds=1.0):
    times = np.arange(int(16000 * seconds)) / 16000
    return torch.from_numpy(log_mel((0.3 * np.sin(2 * np.pi * hz * times)).astype(np.float32)))


@pytest.mark.parametrize("factor", [0.85, 1.18])
def test_another_voice_has_its_tones_elsewhere(factor, monkeypatch):
    monkeypatch.setattr(bend, "TRACT", (factor, factor))
    monkeypatch.setattr(bend, "TEMPO", (0.8, 0.8))
    monkeypatch.setattr(bend, "GAIN_DB", 0.0)
    found = bend.bend(tone(2000), np.random.default_rng(0))
    expected = tone(2000 / factor, 1.25)
    assert found.shape == expected.shape
    assert abs(int(found[:, 60].argmax()) - int(expected[:, 60].argmax())) <= 1
    assert found.dtype == torch.float32


def test_a_microphone_is_a_smooth_gain_within_the_features_range(monkeypatch):
    monkeypatch.setattr(bend, "TRACT", (1.0, 1.0))
    monkeypatch.setattr(bend, "TEMPO", (1.0, 1.0))
    mel = torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 1.0, (80, 50)).astype(np.float32))
    gain = bend.bend(mel, np.random.default_rng(1)) - mel
    spread = gain.amax(1) - gain.amin(1)
    assert spread.max() < 1e-5
    assert gain[:, 0].std() > 0.01
    assert gain[:, 0].diff().abs().max() < 0.1


def test_both_networks_have_used_as_much_at_every_exit():
    both = compare.networks(compare.SIZES, 1)
    inner = 4 * compare.SIZES.width + 2
    for exits in range(1, compare.SIZES.exits + 1):
        used = []
        for network in both.values():
            parts = [*network.conformer[:exits], *network.conformer_parallel[: 1 + (exits == compare.SIZES.exits)]]
            used.append(sum(map(compare.count, parts)))
        assert abs(used[0] - used[1]) <= inner
    mel = torch.randn(1, 80, 90)
    assert all(network.eval()(mel).shape == (4, 1, 21, 29) for network in both.values())


def test_means_over_speakers_with_students_interval():
    runs = [{"steps": 5, "with": [10.0 + i] * 4, "without": [12.0 + 3 * i] * 4} for i in range(3)]
    found = compare.summary(runs)
    assert found["with"]["wer"]["digits"] == [11.0] * 4
    assert found["better"] == [4.0] * 4
    # t of 2 degrees of freedom 4.303, deviation 2 of the mean of three
    assert found["better_within"] == [round(4.303 * 2 / 3**0.5, 2)] * 4


def test_the_middle_exits_learn_and_nothing_else_moves():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shape = Shape(blocks=4, width=32, heads=4, feed_forward=48, parallel_feed_forward=24, positions=200, exit_width=16)
    encoder = Encoder(shape).eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    texts = ("stop", "go", "turn left")
    symbols = [torch.tensor(encode(text), dtype=torch.int16) for text in texts]
    items = [
        ("a", text, s, torch.randn(80, 60 + 9 * i)) for i, (text, s) in enumerate(zip(texts, symbols, strict=True))
    ]
    clips = heads.given(encoder, items, rng)
    assert [len(clip.symbols) for clip in clips] == [len(text) for text in texts]
    assert all(clip.hidden.shape == (2, len(clip.teacher), 32) for clip in clips)
    assert torch.allclose(clips[0].teacher.float().exp().sum(-1), torch.ones(len(clips[0].teacher)), atol=1e-2)
    batch = [clip for clip in clips for _ in range(2)]
    wrong = heads.loss_of(encoder.exits[1:-1], batch, 0.5)
    heads.learn(encoder, clips, 40, 0.5, rng)
    assert (heads.loss_of(encoder.exits[1:-1], batch, 0.5) < 0.8 * wrong).all()
    moved = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith(("exits.1.", "exits.2.")) for name in moved)
