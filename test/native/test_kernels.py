# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

kernels = pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
KERNELS = kernels.supported_kernels()


def half(values):
    return np.asarray(values, np.float16).view(np.uint8).reshape(*np.shape(values), 2)


def pack_nibbles(codes):
    return codes[..., :16] | codes[..., 16:] << 4


def random_blocks(kind, rows, groups, rng, *, exact):
    """GGUF bytes (rows, groups * block bytes), integer codes, scales and mins of random weights."""
    shape = (rows, groups)
    scale = rng.choice([0.25, 0.5, 1.0, 2.0], shape) if exact else rng.normal(0, 0.1, shape)
    low = rng.integers(-8, 8, shape).astype(float) if exact else rng.normal(0, 0.1, shape)
    scale, low = (np.asarray(x, np.float16).astype(np.float32) for x in (scale, low))
    if kind == "Q8_0":
        codes = rng.integers(-128, 128, (*shape, 32))
        body, head, low = codes.astype(np.int8).view(np.uint8), [half(scale)], np.zeros(shape, np.float32)
    else:
        raw = rng.integers(0, 16, (*shape, 32)).astype(np.uint8)
        codes, body, head = raw.astype(int), pack_nibbles(raw), [half(scale)]
        if kind == "Q4_0":
            codes, low = codes - 8, np.zeros(shape, np.float32)
        else:
            head.append(half(low))
    return np.concatenate([*head, body], -1).reshape(rows, -1), codes, scale, low


def activations(n, groups, rng, *, exact):
    q = rng.integers(-127, 128, (n, groups * 32)).astype(np.int8)
    q[0] = 127 * (-1) ** np.arange(groups * 32)
    q[-1] = -127
    scale = rng.choice([0.5, 1.0, 2.0], (n, groups)) if exact else rng.uniform(0.001, 0.1, (n, groups))
    return q, scale.astype(np.float32)


def reference(codes, scale, low, q, q_scale):
    groups = scale.shape[1]
    q = q.reshape(len(q), groups, 32).astype(np.int64)
    dots = np.einsum("rgk,ngk->nrg", codes.astype(np.int64), q)
    products = dots * scale.astype(float) * q_scale[:, None, :].astype(float)
    return (products + low.astype(float) * (q_scale * q.sum(-1))[:, None, :].astype(float)).sum(-1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
@given(
    rows=st.integers(1, 100),
    groups=st.integers(1, 12),
    n=st.one_of(st.integers(1, 40), st.integers(1, 513)),
    threads=st.integers(1, 3),
)
@example(rows=33, groups=3, n=513, threads=2)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_product_equals_integers(kernel, kind, rows, groups, n, threads):
    # Scales are powers of two and sums stay below 2^24: the float arithmetic is exact, so equality is too.
    rng = np.random.default_rng([rows, groups, n])
    data, codes, scale, low = random_blocks(kind, rows, groups, rng, exact=True)
    q, q_scale = activations(n, groups, rng, exact=True)
    got = kernels.Matrix(kind, data, groups * 32).multiply(q, q_scale, kernel, threads)
    np.testing.assert_array_equal(got, reference(codes, scale, low, q, q_scale))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_kernels_and_thread_counts_agree_bit_for_bit(kind):
    rng = np.random.default_rng(5)
    data, codes, scale, low = random_blocks(kind, 77, 9, rng, exact=False)
    q, q_scale = activations(17, 9, rng, exact=False)
    matrix = kernels.Matrix(kind, data, 288)
    results = [matrix.multiply(q, q_scale, k, t) for k in KERNELS for t in (1, 3)]
    np.testing.assert_allclose(results[0], reference(codes, scale, low, q, q_scale), rtol=1e-4, atol=1e-2)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    single = [matrix.multiply(q[i : i + 1], q_scale[i : i + 1])[0] for i in range(len(q))]
    np.testing.assert_array_equal(results[0], np.stack(single))


def test_rows_come_back_as_packed():
    rng = np.random.default_rng(1)
    for kind in ("Q4_0", "Q4_1", "Q8_0"):
        data, codes, scale, low = random_blocks(kind, 40, 3, rng, exact=True)
        expected = (codes * scale[..., None] + low[..., None]).reshape(40, 96)
        np.testing.assert_array_equal(kernels.Matrix(kind, data, 96).to_float(), expected)


def test_float_rows_become_eight_bits():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(37, 50)).astype(np.float32)
    matrix = kernels.Matrix("F32", weights.view(np.uint8), 50)
    got = matrix.to_float()
    assert np.all(got[:, 50:] == 0)
    assert np.abs(got[:, :50] - weights).max() <= np.abs(weights).max() / 127 * 0.51


@pytest.mark.parametrize("kernel", KERNELS)
def test_quantise(kernel):
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(9, 96)) * 10.0 ** rng.integers(-3, 3, (9, 1))).astype(np.float32)
    x[4] = 0.0
    q, scale, total = kernels.quantise(x, kernel)
    blocks = x.reshape(9, 3, 32)
    largest = np.abs(blocks).max(-1)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    np.testing.assert_array_equal(q.reshape(9, 3, 32), np.rint(blocks * inverse[..., None]).astype(np.int8))
    np.testing.assert_array_equal(scale, largest / np.float32(127))
    np.testing.assert_array_equal(total, q.reshape(9, 6, 16).astype(int).sum(-1))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [1, 15, 16, 1000])
def test_statistics(kernel, size):
    x = np.random.default_rng(size).normal(0, 5, size).astype(np.float32)
    best, log_sum_exp, entropy = kernels.statistics(x, kernel)
    p = np.exp(x.astype(float) - x.max())
    expected = np.log(p.sum()) + x.max()
    p /= p.sum()
    assert best == x.argmax()
    assert log_sum_exp == pytest.approx(expected, abs=1e-5)
    assert entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)


def test_malformed_input_is_refused():
    with pytest.raises(ValueError, match="take 18 bytes"):
        kernels.Matrix("Q4_0", np.zeros((2, 17), np.uint8), 32)
    with pytest.raises(ValueError, match="multiple of 32"):
        kernels.Matrix("Q4_1", np.zeros((2, 20), np.uint8), 33)
    with pytest.raises(ValueError, match="no packing"):
        kernels.Matrix("IQ1_S", np.zeros((2, 20), np.uint8), 32)
    matrix = kernels.Matrix("Q8_0", np.zeros((2, 34), np.uint8), 32)
    with pytest.raises(ValueError, match="activations"):
        matrix.multiply(np.zeros((1, 64), np.int8), np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="no kernel 'mmx'"):
        matrix.multiply(np.zeros((1, 32), np.int8), np.zeros((1, 1), np.float32), "mmx")


def test_packed_parts_are_looked_at_and_not_copied():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(70, 96)).astype(np.float32)
    matrix = kernels.Matrix("F32", values.view(np.uint8), 96)
    parts = matrix.parts()
    assert sum(a.nbytes for a in parts.values() if isinstance(a, np.ndarray)) == matrix.bytes
    again = kernels.Matrix.from_parts(parts)
    np.testing.assert_array_equal(again.to_float(), matrix.to_float())
    assert np.shares_memory(again.parts()["codes"], parts["codes"])
    del matrix, parts
    assert again.to_float().shape == (70, 96)
    with pytest.raises(ValueError, match="packed codes"):
        kernels.Matrix.from_parts({**again.parts(), "codes": np.zeros(5, np.uint8)})
    with pytest.raises(ValueError, match="not a packed matrix"):
        kernels.Matrix.from_parts({**again.parts(), "bits": 3})
