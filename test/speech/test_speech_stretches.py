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
from edge_nodes.speech.stretches import BESIDE, CONTEXT, REACH, SILENT, STANDS_FOR, Stretches

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


def masked(encoder, index, hidden, frames):
    """Block `index` of all frames, attending to some only; the others stay as they were."""
    mask = torch.zeros(1, hidden.shape[1], dtype=torch.bool)
    mask[:, frames] = True
    return torch.where(mask[..., None], encoder.block(index, hidden, mask), hidden)


def around(spans, margin, frames):
    """The frames in a span or near one, and those that they are a pair with."""
    near = [t for first, last in spans for t in range(first - margin, last + margin + 1)]
    return sorted({t for n in near for t in (n // 2 * 2, n // 2 * 2 + 1) if 0 <= t < frames})


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
    expected, own = early.clone(), around(spans, REACH, 151)
    expected[own] = encoder.exits[2](masked(encoder, 2, hidden, around(spans, MARGIN, 151)))[0, own]
    torch.testing.assert_close(late, expected, atol=1e-5, rtol=1e-5)
    assert set(found.read_at[[first for first, _ in spans]]) == {3}
    assert (found.read_at == 2).sum() >= 75


def test_what_left_does_not_come_back(encoder):
    found = Stretches(encoder, mel(301))
    next(found)
    assert not found.keep([(30, 60)])
    early = next(found)
    assert not found.keep([(55, 58), (120, 130)])
    hidden, _ = encoder.stem(mel(301))
    hidden = encoder.block(0, hidden)
    hidden = masked(encoder, 1, hidden, around([(30, 60)], MARGIN, 151))
    expected = encoder.exits[2](masked(encoder, 2, hidden, around([(55, 58)], MARGIN, 151)))
    late = next(found)
    own = around([(55, 58)], REACH, 151)
    torch.testing.assert_close(late[:, own], expected[:, own], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(late[:, 80:], early[:, 80:], atol=0, rtol=0)
    assert found.read_at.max() == 3
    assert (found.read_at[80:] == 1).all()


def test_nearly_all_is_all(encoder):
    found = Stretches(encoder, mel(301))
    next(found)
    assert found.keep([(10, 70), (80, 140)])
    for output, expected in zip(found, list(encoder(mel(301)))[1:], strict=True):
        torch.testing.assert_close(output, expected)


def silent_but(found, sounds):
    """Have the first exit been sure of a blank but at some frames."""
    next(found)
    heard = torch.zeros_like(found._log_probs)
    heard[:, :, 0] = 10.0
    heard[:, sounds, 0] = np.log(SILENT / (1 - SILENT) * 28) - 0.01
    found._log_probs = heard.log_softmax(-1)


def test_a_few_frames_stand_for_silence(encoder):
    """As if they were there as often as they count."""
    found = Stretches(encoder, mel(300))
    silent_but(found, [51, *range(104, 150)])
    assert not found.rest()
    list(found)
    went = np.flatnonzero(found.read_at > 1).tolist()
    silent = [t for t in range(150) if t < 48 or 54 <= t < 102]
    standing = [t for t in silent if t in went]
    assert len(standing) == len(silent) / STANDS_FOR
    assert [t for t in standing if t >= 54]
    assert set(went) - set(standing) == set(range(150)) - set(silent)
    # Pair by pair, since parallel layers see every second frame.
    pairs = [[t, t + 1] for t in went[::2] for _ in range(STANDS_FOR if t in standing else 1)]
    sequence = torch.tensor(pairs).flatten()
    first = [sequence.tolist().index(t) for t in went]
    hidden = encoder.block(0, encoder.stem(mel(300))[0])[:, sequence]
    for index in (1, 2, 3):
        hidden = encoder.block(index, hidden)
    torch.testing.assert_close(found._log_probs[:, went], encoder.exits[3](hidden)[:, first], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("sounds", "frames"), [([70], 151), ([0, 150], 151), ([6, 16, 40], 150), ([], 151)])
def test_every_silence_has_a_frame_that_stands_for_it(encoder, sounds, frames):
    found = Stretches(encoder, mel(2 * frames))
    silent_but(found, sounds)
    found.rest()
    list(found)
    went = found.read_at > 1
    loud = np.zeros(frames, bool)
    loud[around([(t, t) for t in sounds], BESIDE, frames)] = True
    assert went[loud].all()
    assert found._counts[went].sum() == pytest.approx(frames)
    edges = np.flatnonzero(np.diff(~loud, prepend=False, append=False))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        assert 1 <= went[begin:end].sum() <= 2 + (end - begin) / STANDS_FOR


def test_words_go_on_with_what_stands_for_silence(encoder):
    found = Stretches(encoder, mel(301))
    silent_but(found, list(range(40, 120)))
    found.rest()
    next(found)
    standing = np.flatnonzero(found._counts > 1)
    assert not found.keep([(60, 64)])
    assert np.flatnonzero(found._computed).tolist() == sorted({*around([(60, 64)], MARGIN, 151), *standing})
    assert np.flatnonzero(found._read).tolist() == around([(60, 64)], REACH, 151)


def test_no_silence_is_all(encoder):
    found = Stretches(encoder, mel(301))
    silent_but(found, list(range(151)))
    assert found.rest()
    for output, expected in zip(found, list(encoder(mel(301)))[1:], strict=True):
        torch.testing.assert_close(output, expected)


def test_operations_are_those_that_run(encoder):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        found = Stretches(encoder, mel(400))
        silent_but(found, list(range(20, 130)))
        assert not found.rest()
        for spans in ([(30, 60)], [(40, 42)]):
            next(found)
            assert not found.keep(spans)
        next(found)
    assert counter.get_total_flops() == pytest.approx(found.operations, rel=1e-6)
    assert found.operations < 0.7 * operations(SHAPE, 400 * 160)[-1]
    assert np.bincount(found.read_at).sum() == 200
