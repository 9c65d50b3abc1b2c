# SPDX-License-Identifier: Apache-2.0
"""Weights of GGUF's Q6_K in their own 6 bits; `gguf` says what they mean."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

kernels = pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
KERNELS = kernels.supported_kernels()


def six_bits(rows, blocks, rng, *, exact):
    """GGUF bytes (rows, bytes of a row) of random weights; `exact`: small scales, so that sums of floats are whole."""
    data = rng.integers(0, 256, (rows, blocks, 210), np.uint8)
    scales = rng.integers(-3, 4, (rows, blocks, 16)) if exact else rng.integers(-128, 128, (rows, blocks, 16))
    data[..., 192:208] = scales.astype(np.int8).view(np.uint8)
    scale = rng.choice([0.5, 1.0], (rows, blocks, 1)) if exact else rng.normal(0, 0.01, (rows, blocks, 1))
    data[..., 208:] = scale.astype(np.float16).view(np.uint8)
    data[0, :, :192] = rng.choice([0, 255], (blocks, 1)).astype(np.uint8)  # all codes -32, or all 31
    return data.reshape(rows, -1)


def activations(n, groups, rng, *, exact):
    q = rng.integers(-127, 128, (n, groups * 32)).astype(np.int8)
    q[0], q[-1] = 127, -127
    scale = rng.choice([0.5, 1.0, 2.0], (n, groups)) if exact else rng.uniform(0.001, 0.1, (n, groups))
    return q, scale.astype(np.float32)


def product(data, q, scale):
    weights = gguf.dequantize(data, gguf.GGMLQuantizationType.Q6_K).astype(float)
    return (q * np.repeat(scale, 32, 1).astype(float)) @ weights.T


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    rows=st.integers(1, 100),
    blocks=st.integers(1, 3),
    n=st.one_of(st.integers(1, 40), st.integers(1, 513)),
    threads=st.integers(1, 3),
)
@example(rows=33, blocks=2, n=513, threads=2)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_product_equals_integers(kernel, rows, blocks, n, threads):
    rng = np.random.default_rng([rows, blocks, n])
    data = six_bits(rows, blocks, rng, exact=True)
    q, scale = activations(n, blocks * 8, rng, exact=True)
    got = kernels.Matrix("Q6_K", data, blocks * 256).multiply(q, scale, kernel, threads)
    np.testing.assert_array_equal(got, product(data, q, scale))


def test_kernels_threads_and_companions_change_no_bit():
    rng = np.random.default_rng(5)
    data = six_bits(77, 3, rng, exact=False)
    q, scale = activations(33, 24, rng, exact=False)
    matrix = kernels.Matrix("Q6_K", data, 768)
    results = [matrix.multiply(q, scale, k, t) for k in KERNELS for t in (1, 3)]
    expected = product(data, q, scale)
    np.testing.assert_allclose(results[0], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    single = [matrix.multiply(q[i : i + 1], scale[i : i + 1])[0] for i in range(len(q))]
    np.testing.assert_array_equal(results[0], np.stack(single))


def test_rows_come_back_as_packed_and_take_no_more_bytes_than_in_the_file():
    data = six_bits(64, 2, np.random.default_rng(1), exact=False)
    matrix = kernels.Matrix("Q6_K", data, 512)
    np.testing.assert_allclose(matrix.to_float(), gguf.dequantize(data, gguf.GGMLQuantizationType.Q6_K), rtol=1e-6)
    assert matrix.bytes == data.nbytes
    again = kernels.Matrix.from_parts(matrix.parts())
    np.testing.assert_array_equal(again.to_float(), matrix.to_float())


def test_malformed_rows_are_refused():
    with pytest.raises(ValueError, match="multiple of 256"):
        kernels.Matrix("Q6_K", np.zeros((2, 210), np.uint8), 128)
    with pytest.raises(ValueError, match="take 420 bytes"):
        kernels.Matrix("Q6_K", np.zeros((2, 210), np.uint8), 512)
