# SPDX-License-Identifier: Apache-2.0
"""The distribution that tokens are drawn from, against one computed by sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_nodes.errors import State
from edge_nodes.language import LanguageError, SamplingConfig
from edge_nodes.language.sampling import Sampler, read_bias

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")

VOCABULARY = 3000


def reference(logits, config, allowed):
    """Probabilities (vocabulary,) after all cuts, in float64, by one full sort."""
    scaled = np.where(allowed, logits.astype(np.float64), -np.inf) / config.temperature
    order = np.argsort(-scaled, kind="stable")
    keep = order[: config.top_k] if config.top_k else order
    p = np.exp(scaled[keep] - scaled.max())
    p /= p.sum()
    keep, p = (x[: int(np.searchsorted(p.cumsum(), config.top_p)) + 1] for x in (keep, p))
    keep, p = (x[p >= config.min_p * p[0]] for x in (keep, p))
    out = np.zeros(len(logits))
    out[keep] = p / p.sum()
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 7, 40, 5000]),
    st.sampled_from([0.13, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    st.sampled_from([0.3, 1.0, 2.5]),
)
def test_draws_come_from_the_reference_distribution(seed, k, p, min_p, temperature):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, VOCABULARY).astype(np.float32)
    allowed = rng.random(VOCABULARY) < 0.7
    bits = np.packbits(allowed, bitorder="little")
    config = SamplingConfig(temperature=temperature, top_k=k, top_p=p, min_p=min_p, seed=seed)
    expected = reference(logits, config, allowed)
    draw = Sampler(config)
    counts = np.bincount([draw(logits, allowed=bits) for _ in range(300)], minlength=VOCABULARY)
    assert not counts[expected == 0].any()
    # Chi-squared over tokens that are expected at least 5 times, the rest as one: within 6 sigma.
    often = np.flatnonzero(expected * 300 >= 5)
    seen = np.append(counts[often], 300 - counts[often].sum())
    wanted = np.append(expected[often] * 300, (1 - expected[often].sum()) * 300)
    with np.errstate(divide="ignore", invalid="ignore"):
        chi = np.where(wanted > 1e-6, (seen - wanted) ** 2 / np.maximum(wanted, 0.5), 0.0).sum()
    assert chi <= len(often) + 1 + 6 * np.sqrt(2 * (len(often) + 1)) + 6


def test_drawn_tokens_have_the_models_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    draw = Sampler(SamplingConfig(temperature=1.0, top_k=0, top_p=1.0))
    counts = np.bincount([draw(logits) for _ in range(20000)], minlength=4) / 20000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.015)
    draw = Sampler(SamplingConfig(temperature=0.5, top_k=0, top_p=1.0))
    counts = np.bincount([draw(logits) for _ in range(20000)], minlength=4) / 20000
    np.testing.assert_allclose(counts, np.array([25, 9, 2.25, 0.25]) / 36.5, atol=0.015)


def test_repetition_is_penalised():
    logits = np.array([1.0, 4.0, 2.0, 4.0, -1.0], np.float32)
    assert Sampler(SamplingConfig(repetition_penalty=3.0))(logits, [1, 3, 3]) == 2
    assert Sampler(SamplingConfig(repetition_penalty=3.0))(-logits, [4, 0, 2]) == 4
    assert Sampler(SamplingConfig(repetition_penalty=3.0))(-logits, [4, 4]) == 4
    assert Sampler(SamplingConfig(repetition_penalty=1.5))(np.array([-2.0, -2.5], np.float32), [0]) == 1


def test_ties_go_by_number_and_never_beyond_the_cut():
    logits = np.zeros(5000, np.float32)
    draw = Sampler(SamplingConfig(temperature=1.0, top_k=3, top_p=1.0))
    assert {draw(logits) for _ in range(200)} == {0, 1, 2}


def test_bias_and_penalty_change_the_choice():
    logits = np.array([1.0, 5.0, 4.9, 0.0], np.float32)
    kept = logits.copy()
    assert Sampler(SamplingConfig())(logits) == 1
    assert Sampler(SamplingConfig(), {2: 0.2})(logits) == 2
    assert Sampler(SamplingConfig(), {1: -np.inf, 2: -np.inf})(logits) == 0
    assert Sampler(SamplingConfig(temperature=2.0), {0: -np.inf, 1: -np.inf, 2: -np.inf})(logits) == 3
    assert not Sampler(SamplingConfig(), {2: 0.2}).greedy
    np.testing.assert_array_equal(logits, kept)


def test_nothing_left_is_one_clear_error():
    for temperature in (0.0, 1.0):
        draw = Sampler(SamplingConfig(temperature=temperature), {0: -np.inf})
        with pytest.raises(LanguageError, match="bans every token"):
            draw(np.zeros(2, np.float32), allowed=np.array([1], np.uint8))


class Words:
    """A tokenizer of one token a letter."""

    size = 256

    def encode(self, text, *, special):
        assert not special
        return list(text.encode())


def test_bias_is_read():
    assert read_bias("", Words()) == {}
    assert read_bias('[["a", 2], [7, -1.5], ["b", false]]', Words()) == {97: 2.0, 7: -1.5, 98: -np.inf}


@pytest.mark.parametrize(
    "text", ["{", "3", "[3]", '[["ab", 1]]', '[["a", true]]', "[[256, 1]]", '[["a", NaN]]', "[[true, 1]]"]
)
def test_wrong_bias_is_one_clear_error(text):
    with pytest.raises(LanguageError, match="logit bias") as caught:
        read_bias(text, Words())
    assert caught.value.state is State.BAD_INPUT
