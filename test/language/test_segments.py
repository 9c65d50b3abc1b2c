# SPDX-License-Identifier: Apache-2.0
"""Steps that hold rows of several sequences: every row is what it is alone, whatever runs beside it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_nodes.language import LanguageError, load
from edge_nodes.native import _kernels

SLOTS, LENGTH = 4, 60
SEQUENCES = np.random.default_rng(11).integers(3, 260, (SLOTS, LENGTH)).astype(np.int32)


@pytest.fixture(scope="module", params=_kernels.supported_kernels())
def model(request, small_model):
    return load(small_model, context_tokens=128, slots=SLOTS, threads=2, kernel=request.param).model


@pytest.fixture(scope="module")
def alone(model):
    """Logits after each token of each sequence, from steps of one token."""
    return np.array([[model.forward(np.array([t]), i) for i, t in enumerate(tokens)] for tokens in SEQUENCES])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rows_are_what_they_are_alone(model, alone, seed):
    rng = np.random.default_rng(seed)
    done = [0] * SLOTS
    while min(done) < LENGTH:
        segments, rows, expected, tokens = [], [], [], []
        for slot in rng.permutation(SLOTS):
            count = int(min(rng.integers(0, 17), LENGTH - done[slot]))
            if not count:
                continue
            wanted = int(rng.choice((0, 1, count)))
            rows += range(len(tokens) + count - wanted, len(tokens) + count)
            expected += list(alone[slot][done[slot] + count - wanted : done[slot] + count])
            segments.append((slot, done[slot], count))
            tokens += list(SEQUENCES[slot][done[slot] : done[slot] + count])
            done[slot] += count
        if segments:
            got = model.forward(np.array(tokens, np.int32), segments=segments, rows=rows)
            assert got.shape == (len(rows), model.vocabulary)
            np.testing.assert_array_equal(got, np.array(expected).reshape(got.shape))


@pytest.mark.parametrize(("begin", "end"), [(0, 40), (0, 33), (5, 16), (3, 14), (17, 31), (8, 8)])
def test_copied_positions_go_on_as_their_source(model, alone, begin, end):
    other = SEQUENCES[1]
    model.forward(SEQUENCES[0][:40], segments=[(0, 0, 40)], rows=[])
    # A sequence of its own, except for the positions that are copied: as if these tokens had stood there.
    mixed = [*other[:begin], *SEQUENCES[0][begin:end], *other[end:40]]
    model.forward(np.array(mixed, np.int32), segments=[(3, 0, 40)], rows=[])
    expected = model.forward(other[40:50], segments=[(3, 40, 10)], rows=[9])
    model.forward(np.array(mixed, np.int32), segments=[(2, 0, 40)], rows=[])
    model.copy_cache(2, 1, 0, begin)
    model.copy_cache(2, 1, begin, end)
    model.copy_cache(2, 1, end, 40)
    got = model.forward(other[40:50], segments=[(1, 40, 10)], rows=[9])
    np.testing.assert_array_equal(got, expected)


def test_bad_steps_are_refused(model):
    tokens = np.ones(2, np.int32)
    for segments, rows in [
        ([(0, 0, 1), (0, 1, 1)], []),
        ([(SLOTS, 0, 2)], []),
        ([(-1, 0, 2)], []),
        ([(0, 127, 2)], []),
        ([(0, 0, 2)], [2]),
        ([(0, 0, 2), (1, 0, 0)], []),
    ]:
        with pytest.raises(IndexError):
            model.forward(tokens, segments=segments, rows=rows)
    with pytest.raises(ValueError, match="differ in length"):
        model.forward(tokens, segments=[(0, 0, 3)], rows=[])
    for arguments in ((0, SLOTS, 0, 1), (-1, 0, 0, 1), (0, 1, 0, 129)):
        with pytest.raises(IndexError):
            model.copy_cache(*arguments)


def test_single_precision_cache_is_twice_as_large_and_nearly_the_same(small_model):
    half, single = (load(small_model, kv_cache=kind).model for kind in ("f16", "f32"))
    assert single.cache_bytes == 2 * half.cache_bytes
    a, b = (m.forward(SEQUENCES[0], 0, all=True) for m in (half, single))
    assert 0 < np.abs(a - b).max() <= 5e-2 * np.abs(b).max()
    with pytest.raises(LanguageError, match="no key/value cache"):
        load(small_model, kv_cache="f8")
