# SPDX-License-Identifier: Apache-2.0
"""Ternary matrices: what is read from GGUF, and products against integers in numpy."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

kernels = pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
KERNELS = kernels.supported_kernels()
METHODS = ["dot", "lut"]


def trits(rng, rows, cols, kind="random"):
    if kind != "random":
        return np.full((rows, cols), {"plus": 1, "minus": -1, "zero": 0}[kind], np.int8)
    return rng.integers(-1, 2, (rows, cols)).astype(np.int8)


def matrix(w, scale=1.0, dense=False):
    return kernels.Matrix("TRITS", w.view(np.uint8), w.shape[1], scale, dense)


def pack_i2_s(w):
    """Bytes of bitnet.cpp's I2_S on x86: 128 weights in 32 bytes, the first 32 in the top bits."""
    codes = (w + 1).astype(np.uint8).reshape(len(w), -1, 4, 32)
    return (codes << np.array([6, 4, 2, 0], np.uint8)[:, None]).sum(2, dtype=np.uint8).reshape(len(w), -1)


def float_reference(w, scales, q, q_scale):
    """What every kernel computes, rounding by rounding: w (rows, k), scales (rows, blocks) or a number."""
    uniform = np.ndim(scales) == 0
    step = w.shape[1] if uniform else 256
    total = np.zeros((len(q), len(w)), np.float32)
    for b in range(0, w.shape[1], step):
        exact = q[:, b : b + step].astype(np.int64) @ w[:, b : b + step].T.astype(np.int64)
        s = np.float32(scales) if uniform else scales[:, b // 256].astype(np.float32)
        # float64 holds the product of two float32 exactly, so this is a fused multiply-add but for rare ties.
        total = (exact.astype(np.float32).astype(np.float64) * s + total).astype(np.float32)
    return total * q_scale[:, None]


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
@pytest.mark.parametrize("uniform", [True, False])
def test_gguf_types_are_read_exactly(kind, uniform):
    rng = np.random.default_rng(5)
    w = trits(rng, 37, 768).astype(np.float32)
    w[3, :256] = 0.0
    scales = np.full((37, 3), 0.375) if uniform else rng.uniform(0.01, 2.0, (37, 3)).astype(np.float16)
    values = (w.reshape(37, 3, 256) * scales[..., None]).reshape(37, 768).astype(np.float32)
    type_ = getattr(gguf.GGMLQuantizationType, kind)
    data = gguf.quants.quantize(values, type_)
    packed = kernels.Matrix(kind, data, 768)
    np.testing.assert_array_equal(packed.to_float(), gguf.quants.dequantize(data, type_))
    assert packed.uniform == uniform
    if uniform:
        assert packed.scale == 0.375
        assert packed.bytes == 64 * 768 // 4  # 2.00 bits per weight


def test_i2_s_is_read_exactly():
    w = trits(np.random.default_rng(6), 40, 384)
    packed = kernels.Matrix("I2_S", pack_i2_s(w), 384, 1.7)
    np.testing.assert_array_equal(packed.to_float(), w * np.float32(1.7))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@given(
    rows=st.integers(1, 150),
    cols=st.integers(1, 700),
    n=st.one_of(st.integers(1, 70), st.integers(1, 513)),
    threads=st.integers(1, 3),
    method=st.sampled_from(METHODS),
    weights=st.sampled_from(["random", "random", "plus", "minus", "zero"]),
    extreme=st.sampled_from([None, None, -128, -127, 127]),
)
@example(rows=33, cols=513, n=513, threads=2, method="dot", weights="random", extreme=None)
@example(rows=33, cols=513, n=513, threads=2, method="lut", weights="random", extreme=None)
@example(rows=64, cols=1024, n=64, threads=1, method="lut", weights="minus", extreme=-128)
@example(rows=64, cols=1024, n=64, threads=1, method="lut", weights="plus", extreme=127)
@example(rows=32, cols=1024, n=12, threads=1, method="dot", weights="plus", extreme=-128)
@example(rows=32, cols=1024, n=1, threads=1, method="dot", weights="minus", extreme=-128)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_products_equal_integers(kernel, dense, rows, cols, n, threads, method, weights, extreme):
    rng = np.random.default_rng([rows, cols, n])
    w = trits(rng, rows, cols, weights)
    q = rng.integers(-128, 128, (n, cols)).astype(np.int8) if extreme is None else np.full((n, cols), extreme, np.int8)
    packed = matrix(w, dense=dense)
    got = packed.multiply_ternary(q, np.ones(n, np.float32), kernel, method, threads)
    np.testing.assert_array_equal(got, q.astype(np.float32) @ w.T.astype(np.float32))  # exact: sums are below 2^24
    some = rng.integers(0, n, 3)  # the same tokens in another batch
    again = packed.multiply_ternary(q[some], np.ones(3, np.float32), kernel, method)
    np.testing.assert_array_equal(again, got[some])


@pytest.mark.parametrize("cols", [1, 19, 20, 21, 544, 640])
def test_dense_weights_are_kept_exactly(cols):
    w = trits(np.random.default_rng(cols), 40, cols)
    packed = matrix(w, 0.5, dense=True)
    assert packed.dense
    np.testing.assert_array_equal(packed.to_float()[:, :cols], w * np.float32(0.5))
    if cols == 640:
        assert packed.bytes == 64 * 640 // 5  # 1.60 bits per weight
    again = kernels.Matrix.from_parts(packed.parts())
    assert again.dense
    np.testing.assert_array_equal(again.to_float(), packed.to_float())


def test_dense_weights_need_one_scale():
    rng = np.random.default_rng(0)
    values = trits(rng, 32, 512) * rng.uniform(0.5, 1.5, (32, 1)).astype(np.float32)
    data = gguf.quants.quantize(values, gguf.GGMLQuantizationType.TQ1_0)
    packed = kernels.Matrix("TQ1_0", data, 512, 1.0, True)
    assert not packed.dense  # rows differ in scale: kept at 2 bits
    np.testing.assert_array_equal(packed.to_float(), gguf.quants.dequantize(data, gguf.GGMLQuantizationType.TQ1_0))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 9, 33, 130])
@pytest.mark.parametrize("kind", ["TQ2_0", "TRITS"])
def test_scales_are_applied_in_one_order(kernel, method, n, kind):
    rng = np.random.default_rng(n)
    w = trits(rng, 70, 768)
    q, q_scale = rng.integers(-127, 128, (n, 768)).astype(np.int8), rng.uniform(0.001, 0.1, n).astype(np.float32)
    if kind == "TRITS":
        scales, packed = np.float32(0.37), matrix(w, 0.37)
    else:
        scales = rng.uniform(0.01, 2.0, (70, 3)).astype(np.float16)
        values = (w.reshape(70, 3, 256) * scales[..., None].astype(np.float32)).reshape(70, 768)
        packed = kernels.Matrix(kind, gguf.quants.quantize(values, gguf.GGMLQuantizationType.TQ2_0), 768)
        assert not packed.uniform
    got = packed.multiply_ternary(q, q_scale, kernel, method, 2)
    np.testing.assert_array_equal(got, float_reference(w, scales, q, q_scale))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_token_does_not_depend_on_its_batch(kernel, dense):
    rng = np.random.default_rng(8)
    packed = matrix(trits(rng, 100, 544), 0.1, dense)
    q, scale = rng.integers(-127, 128, (67, 544)).astype(np.int8), rng.uniform(0.001, 1, 67).astype(np.float32)
    one_by_one = [packed.multiply_ternary(q[t : t + 1], scale[t : t + 1], kernel)[0] for t in range(67)]
    for method in METHODS:
        np.testing.assert_array_equal(packed.multiply_ternary(q, scale, kernel, method), np.stack(one_by_one))


@pytest.mark.parametrize("kernel", KERNELS)
def test_quantise_tokens(kernel):
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(9, 544)) * 10.0 ** rng.integers(-3, 3, (9, 1))).astype(np.float32)
    x[4] = 0.0
    x[5, 7] = -50.0  # the largest magnitude is negative
    q, scale, total = kernels.quantise_tokens(x, kernel)
    largest = np.maximum(np.abs(x).max(1, keepdims=True), np.float32(1e-5))
    expected = np.rint(x * (np.float32(127) / largest)).astype(int)
    np.testing.assert_array_equal(q, expected)
    np.testing.assert_array_equal(scale, largest[:, 0] / np.float32(127))
    np.testing.assert_array_equal(total, np.add.reduceat(expected, [0, 256, 512], axis=1))


@pytest.mark.parametrize("dense", [False, True])
def test_random_weights_are_ternary(dense):
    w = kernels.random_ternary(40, 1000, dense).to_float()
    assert {*np.unique(w)} == {-1.0, 0.0, 1.0}
    assert np.abs([np.mean(w == value) - 1 / 3 for value in (-1, 0, 1)]).max() < 0.02


def test_malformed_input_is_refused():
    with pytest.raises(ValueError, match="multiple of 256"):
        kernels.Matrix("TQ2_0", np.zeros((2, 66), np.uint8), 128)
    with pytest.raises(ValueError, match="multiple of 128"):
        kernels.Matrix("I2_S", np.zeros((2, 8), np.uint8), 32)
    with pytest.raises(ValueError, match="take 54 bytes"):
        kernels.Matrix("TQ1_0", np.zeros((2, 66), np.uint8), 256)
    with pytest.raises(ValueError, match="not ternary"):
        kernels.Matrix("TRITS", np.full((2, 64), 2, np.uint8), 64)
    packed = kernels.Matrix("TRITS", np.zeros((2, 64), np.uint8), 64)
    with pytest.raises(ValueError, match="activations"):
        packed.multiply_ternary(np.zeros((1, 32), np.int8), np.ones(1, np.float32))
    with pytest.raises(ValueError, match="no method 'x'"):
        packed.multiply_ternary(np.zeros((1, 64), np.int8), np.ones(1, np.float32), method="x")
    with pytest.raises(ValueError, match="multiply_ternary"):
        packed.multiply(np.zeros((1, 64), np.int8), np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="not ternary"):
        kernels.Matrix("Q8_0", np.zeros((2, 34), np.uint8), 32).multiply_ternary(
            np.zeros((1, 32), np.int8), np.ones(1, np.float32)
        )


@pytest.mark.parametrize("kernel", KERNELS)
def test_measurements(kernel):
    packed = matrix(trits(np.random.default_rng(0), 64, 256))
    for method in METHODS:
        assert 0 < kernels.time_products([packed, packed.copy()], 33, kernel, method, 2, 2) < 1
    assert kernels.time_products([kernels.Matrix("Q8_0", np.zeros((32, 34), np.uint8), 32)], 3, kernel) > 0
    assert kernels.time_reading([packed], kernel) > 0
    assert kernels.table_rows(kernel, 1, 1) > 0
    assert kernels.memory_bandwidth(kernel, 2, 1, 1 << 20) > 0
    assert (kernels.product_peak(kernel, 1, 1) > 0) == (kernel != "portable")
    with pytest.raises(ValueError, match="one type and shape"):
        kernels.time_products([packed, matrix(trits(np.random.default_rng(0), 65, 256))], 1)
