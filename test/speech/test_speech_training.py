# SPDX-License-Identifier: Apache-2.0
"""The networks that training compares, and how sure exits learn to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from edge_nodes.speech import SpeechModel
from edge_nodes.speech.lexicon import Lexicon

compare = pytest.importorskip("train.speech.compare")


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
    runs = [
        {
            "steps": 5,
            "with": [10.0 + i] * 4,
            "without": [12.0 + 3 * i] * 4,
            "loss": {"with": [0.9 - i / 10] * 4, "without": [1.0] * 4},
        }
        for i in range(3)
    ]
    found = compare.summary(runs)
    assert found["with"]["wer"]["digits"] == [11.0] * 4
    assert found["better"] == [4.0] * 4
    # t of 2 degrees of freedom 4.303, deviation 2 of the mean of three
    assert found["better_within"] == [round(4.303 * 2 / 3**0.5, 2)] * 4
    assert found["loss_lower_percent"] == [20.0] * 4
    assert found["loss_lower_percent_within"] == [round(4.303 * 10 / 3**0.5, 2)] * 4


def test_how_sure_exits_are_is_learned_from_the_last_one():
    sureness = pytest.importorskip("train.speech.sureness")
    assert sureness.same(["is", "the", "dor", "open"], ["is", "the", "door", "open"]).tolist() == [1, 1, 0, 1]
    assert sureness.same([], ["a"]).tolist() == []
    sure, right = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False])
    assert sureness.ranked(sure, right) == (1 + 1 + 1 + 0.5) / 4
    lexicon = Lexicon()
    model = SpeechModel("speech/splitformer", lexicon=lexicon, beside=False)
    folder = Path(__file__).parents[2] / "config" / "demo"
    samples, _ = soundfile.read(folder / json.loads((folder / "demo.json").read_text())["speech"][0]["file"])
    with torch.inference_mode():
        found = sureness.examples(model, lexicon, samples.astype(np.float32))
    assert sorted(found) == [2, 3]
    assert all(len(rows) == len(right) > 0 for rows, right in found.values())
