# SPDX-License-Identifier: Apache-2.0
"""The fused loop on real kernels: the tokens of each request are those of its run alone, bit for bit in the logits."""

from __future__ import annotations

import numpy as np
import pytest
from fused_runs import compare, run_all
from small_bitnet import write_bitnet

from edge_nodes.language import SamplingConfig, load
from edge_nodes.language.blocks.convert import convert
from edge_nodes.language.config import FusionConfig
from edge_nodes.language.fusion.plan import ARRANGEMENTS


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "TQ2_0"])
def test_random_requests_on_a_random_model(make_model, tmp_path, kind):
    path = tmp_path / "small.gguf"
    if kind == "TQ2_0":
        write_bitnet(path, kind)
    else:
        make_model(path, kinds={"default": kind})
    one, many = (load(path, context_tokens=256, threads=2, slots=slots) for slots in (1, 4))
    rng = np.random.default_rng(3)
    common = rng.integers(3, 250, 70).tolist()
    requests = []
    for number in range(12):
        prompt = [*(common if number % 2 else []), *rng.integers(3, 250, int(rng.integers(1, 100))).tolist()]
        hot = SamplingConfig(temperature=1.2, seed=number) if number % 3 == 0 else SamplingConfig()
        requests.append((prompt, hot, int(rng.integers(1, 30))))
    arrivals = np.sort(rng.integers(0, 60, len(requests))).tolist()
    for arrangement in sorted(ARRANGEMENTS):
        config = FusionConfig(queue=100, prefill_tokens=int(rng.integers(1, 40)), arrangement=arrangement)
        handles, metrics = run_all(many, requests, config, arrivals=arrivals)
        compare(one, requests, handles)
        assert metrics.occupancy > 1.5
        assert metrics.shared_tokens > 0


def test_requests_on_a_model_streamed_from_disk(small_model, tmp_path):
    """One pass over the blocks an iteration, for the rows of all requests."""
    folder = tmp_path / "blocks"
    convert(small_model, folder)
    one, many = load(small_model, context_tokens=64), load(folder, context_tokens=64, slots=4)
    requests = [([5 + n, 6, 7], SamplingConfig(), 5 + n) for n in range(5)]
    handles, metrics = run_all(many, requests, FusionConfig(), arrivals=[0, 0, 1, 2, 3])
    compare(one, requests, handles)
    assert metrics.occupancy > 2
    many.close()


def test_questions_to_smollm2_at_once_are_answered_as_alone(smollm2, smollm2_path):
    many = load(smollm2_path, context_tokens=256, slots=4)
    questions = ["Is there a person ahead?", "Name three colours.", "What is 3 + 4?", "Who are you?", "Why is it dark?"]
    requests = [
        (smollm2.tokenizer.chat([{"role": "user", "content": q}]), SamplingConfig(), 8 + 2 * i)
        for i, q in enumerate(questions)
    ]
    handles, metrics = run_all(many, requests, FusionConfig(prefill_tokens=16), arrivals=[0, 0, 3, 5, 9])
    compare(smollm2, requests, handles)
    assert metrics.occupancy > 2
