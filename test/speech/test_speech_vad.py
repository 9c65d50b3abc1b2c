# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from edge_nodes.speech.config import VadConfig
from edge_nodes.speech.vad import CHUNK, Segmenter, SileroVad


def edges(probabilities, **config):
    segmenter = Segmenter(VadConfig(**config))
    return [(e.starts, e.sample // CHUNK) for p in probabilities for e in segmenter.feed(p)]


def test_starts_and_ends_where_the_runs_began():
    assert edges([0] * 5 + [0.9] * 10 + [0] * 14, speech_ms=96, silence_ms=400) == [(True, 5), (False, 15)]


def test_short_noise_is_no_speech_and_short_pause_no_end():
    assert edges([0, 0.9, 0.9, 0, 0.9, 0.9, 0], speech_ms=96) == []
    assert edges([0.9] * 5 + [0] * 11 + [0.9] * 5 + [0] * 13, speech_ms=96, silence_ms=400) == [(True, 0), (False, 21)]


def test_between_the_thresholds_the_state_stays():
    assert edges([0.45] * 40, threshold=0.5) == []
    assert edges([0.9] * 5 + [0.4] * 100, threshold=0.5) == [(True, 0)]
    # A doubtful chunk does not break a silence that has begun.
    assert edges([0.9] * 5 + [0] * 6 + [0.4] + [0] * 6, silence_ms=400) == [(True, 0), (False, 5)]


def test_silero_tells_noise_from_nothing_and_leaves_torch_alone():
    import torch

    before = torch.get_num_threads()
    vad = SileroVad()
    assert torch.get_num_threads() == before
    noise = np.random.default_rng(0).standard_normal((20, CHUNK)).astype(np.float32) * 0.01
    assert max(vad(chunk) for chunk in noise) < 0.5
