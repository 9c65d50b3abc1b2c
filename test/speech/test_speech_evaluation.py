# SPDX-License-Identifier: Apache-2.0
"""Packs of clips, and what is counted on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_packs import clip_pack
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edge_nodes.speech import ExitConfig, SpeechError
from edge_nodes.speech.clips import clips, normalise, read, records, trained_on, usable
from edge_nodes.speech.encoder import Encoder, Shape
from edge_nodes.speech.evaluation import Heard, edit_distance, summary, under, word_error_rate
from edge_nodes.speech.exits import Reading
from edge_nodes.speech.operations import operations


def test_a_pack_is_read_at_16_khz(tmp_path):
    stem = clip_pack(tmp_path / "a", ["Turn left, please.", None, "Route 66", "order 12345"], rate=8000)
    assert len(records(stem)) == 4
    assert [(text, held) for _, text, held in usable(stem)] == [("turn left please", False), ("route sixty six", False)]
    assert [len(clip.samples) for clip in clips(stem)] == [16000, 16000]
    assert read(stem.with_suffix(".flac"), records(stem)[0]).dtype == np.float32
    assert not trained_on(stem)


def test_what_is_no_pack_is_one_error(tmp_path):
    with pytest.raises(SpeechError, match="no pack of clips"):
        records(tmp_path / "none")
    stem = clip_pack(tmp_path / "a", ["one", "two"])
    for text in ("", "no json\n", "[1]\n", '{"start": 0}\n', '{"start": 0, "n": 99999}\n'):
        stem.with_suffix(".jsonl").write_text(text)
        with pytest.raises(SpeechError, match="no pack of clips"):
            records(stem)


def test_which_clips_training_saw(data_dir):
    stem = data_dir / "speech" / "picovoice_sti_commands"
    assert trained_on(stem)
    assert sum(held for *_, held in usable(stem)) == 65
    assert not trained_on(data_dir / "speech" / "fsdd_digits_4spk_8k")


def test_a_pack_of_a_trained_name_but_other_content_was_not_seen(tmp_path):
    assert not trained_on(clip_pack(tmp_path / "picovoice_sti_commands", ["one"], voice_cluster=1))


def test_word_errors():
    assert edit_distance(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert word_error_rate([["a", "b"], ["c", "d"]], ["a b", "c"]) == 25.0
    assert word_error_rate([], []) is None
    assert normalise("I'm 21!") == "i'm twenty one"


def test_operations_are_those_that_run():
    shape = Shape(blocks=3, width=32, heads=4, feed_forward=48, parallel_feed_forward=24, positions=200)
    encoder = Encoder(shape).eval()
    samples = 16000
    mel = torch.zeros(1, 80, samples // 160)
    expected = operations(shape, samples)
    # torch counts attention only outside of its fused kernels.
    for exits in (1, 2, 3):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.inference_mode():
            outputs = encoder(mel)
            for _ in range(exits):
                next(outputs)
        assert counter.get_total_flops() == pytest.approx(expected[exits - 1], rel=1e-6)


def heard(text, *readings):
    return Heard(text.split(), [Reading(*r) for r in readings], [0.1, 0.2], [1e9, 2e9], 2.0)


def test_policies():
    items = [heard("a b", ("a b", 0.99), ("a b", 0.99)), heard("a b", ("x y", 0.2), ("a y", 0.9))]
    first = under(items, ExitConfig(policy="fixed", layer=1))
    assert (first["wer"], first["layers"], first["gflop_per_s"], first["ends_at"]) == (50.0, 1.0, 0.5, [1.0, 0.0])
    confident = under(items, ExitConfig(policy="confidence", threshold=0.95))
    assert (confident["wer"], confident["layers"], confident["ends_at"]) == (25.0, 1.5, [0.5, 0.5])
    assert confident["seconds_per_s"] == pytest.approx(0.075)
    found = summary(items)
    assert found["policies"]["exit 1"] == first
    assert found["words"] == 4
