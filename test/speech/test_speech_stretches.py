# SPDX-License-Identifier: Apache-2.0
"""Parts of an utterance that leave early, against whole passes with masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edge_nodes.speech.encoder import Encoder, Shape
from edge_nodes.speech.operations import operations
from edge_nodes.speech.stretches import CONTEXT, REACH, Stretches

SHAPE = Shape(blocks=4, width=32, heads=4, feed_forward=48, parallel_feed_forward=24, positions=200)
MARGIN = REACH + CONTEXT


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    made = Encoder(SHAPE).eval()
    torch.nn.init.normal_(made.positions, 0, 0.5)
    return made


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def mel(frames):
    return torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(1))


def masked(encoder, index, hidden, begin, end):
    """Block `index` of all frames, attending to some only; those are returned."""
    mask = torch.zeros(1, hidden.shape[1], dtype=torch.bool)
    mask[:, begin:end] = True
    return encoder.block(index, hidden, mask)[:, begin:end]


def window(first, last, frames):
    begin = max(0, first - MARGIN) // 2 * 2
    return begin, min(frames, last + 1 + MARGIN)


def test_a_whole_utterance_goes_through_as_ever(encoder):
    found = Stretches(encoder, mel(301))
    for output, expected in zip(found, encoder(mel(301)), strict=True):
        torch.testing.assert_close(output, expected)
    assert (found.read_at == 4).all()
    assert found.operations == pytest.approx(operations(SHAPE, 301 * 160)[-1])


@pytest.mark.parametrize("spans", [[(40, 45)], [(41, 44)], [(0, 3)], [(148, 150)], [(20, 22), (90, 95)]])
def test_later_blocks_see_the_unsure_words_and_some_context(encoder, spans):
    found = Stretches(encoder, mel(301))
    next(found)
    early = next(found)[0]
    assert not found.keep(spans)
    late = next(found)[0]
    hidden, _ = encoder.stem(mel(301))
    for index in range(2):
        hidden = encoder.block(index, hidden)
    expected = early.clone()
    for first, last in spans:
        begin, end = window(first, last, 151)
        here = encoder.exits[2](masked(encoder, 2, hidden, begin, end))[0]
        own = slice(max(0, first - REACH) // 2 * 2, last + 1 + REACH)
        expected[own] = here[own.start - begin : own.stop - begin]
    torch.testing.assert_close(late, expected, atol=1e-5, rtol=1e-5)
    assert set(found.read_at[[first for first, _ in spans]]) == {3}
    assert (found.read_at == 2).sum() >= 75


def test_what_left_does_not_come_back(encoder):
    found = Stretches(encoder, mel(301))
    next(found)
    assert not found.keep([(40, 60)])
    early = next(found)
    assert not found.keep([(55, 58), (120, 130)])
    hidden, _ = encoder.stem(mel(301))
    hidden = encoder.block(0, hidden)
    hidden[:, 24:77] = masked(encoder, 1, hidden, 24, 77)
    expected = encoder.exits[2](masked(encoder, 2, hidden, 38, 75))
    late = next(found)
    torch.testing.assert_close(late[:, 48:65], expected[:, 10:27], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(late[:, 80:], early[:, 80:], atol=0, rtol=0)
    assert found.read_at.max() == 3
    assert (found.read_at[80:] == 1).all()


def test_nearly_all_is_all(encoder):
    found = Stretches(encoder, mel(301))
    next(found)
    assert found.keep([(10, 70), (80, 140)])
    for output, expected in zip(found, list(encoder(mel(301)))[1:], strict=True):
        torch.testing.assert_close(output, expected)


def test_operations_are_those_that_run(encoder):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        found = Stretches(encoder, mel(400))
        for spans in ([(30, 70), (120, 125)], [(40, 44), (60, 62)], [(41, 42)]):
            next(found)
            assert not found.keep(spans)
        next(found)
    assert counter.get_total_flops() == pytest.approx(found.operations, rel=1e-6)
    assert found.operations < 0.7 * operations(SHAPE, 400 * 160)[-1]
    assert np.bincount(found.read_at).sum() == 200
