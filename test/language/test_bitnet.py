# SPDX-License-Identifier: Apache-2.0
"""The BitNet b1.58 decoder against one in plain numpy, for every type of ternary weights."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_llama import TOKENS, Llama, assert_bad, eight_bits, native_logits, one_by_one
from small_bitnet import HEADS, KV_HEADS, LAYERS, write_bitnet

KINDS = ["TQ1_0", "TQ2_0", "I2_S"]


def token_eight_bits(x):
    scale = 127 / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
    return np.clip(np.rint(x * scale), -128, 127) / scale


class BitNet(Llama):
    """The decoder with int8 activations where the weights are ternary."""

    def __init__(self, weights):
        self.weights = dict(weights)
        self.weights["token_embd"] = eight_bits(weights["token_embd"], np.float16)  # the engine keeps it in 8 bits
        self.fields = {
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 500000.0,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS,
            "block_count": LAYERS,
        }

    def _linear(self, x, name):
        layer, _, part = name.rpartition(".")
        if part == "token_embd":
            return eight_bits(x) @ self.weights[name].T
        if part in ("attn_output", "ffn_down"):
            x = self._norm(x, f"{layer}.{'attn' if part == 'attn_output' else 'ffn'}_sub_norm")
        return token_eight_bits(x) @ self.weights[name].T

    def _rope(self, x):
        half = x.shape[-1] // 2
        angles = np.arange(len(x))[:, None] * self.fields["rope.freq_base"] ** (-np.arange(half) / half)
        turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
        return np.concatenate([turned.real, turned.imag], -1)

    def _feed_forward(self, x, layer):
        gate, up = self._linear(x, f"{layer}.ffn_gate"), self._linear(x, f"{layer}.ffn_up")
        return self._linear(np.maximum(gate, 0) ** 2 * up, f"{layer}.ffn_down")


@pytest.fixture(scope="module", autouse=True)
def _native():
    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["bitnet", "bitnet-b1.58"])
@pytest.mark.parametrize("scales", [False, True])
def test_logits_equal_the_numpy_reference(tmp_path, kind, arch, scales):
    weights = write_bitnet(tmp_path / "m.gguf", kind, arch=arch, seed=3, scales=scales)
    expected = BitNet(weights).logits(TOKENS)
    for cache, bound in (("f32", 1e-2), ("f16", 4e-2)):
        got = native_logits(tmp_path / "m.gguf", kv_cache=cache)
        assert np.linalg.norm(got - expected) <= bound * np.linalg.norm(expected)


def test_methods_threads_and_steps_do_not_change_a_bit(tmp_path):
    path = tmp_path / "m.gguf"
    write_bitnet(path, "TQ2_0", seed=4)
    expected = native_logits(path, threads=1)
    for options in ({"threads": 3}, {"kernel": "lut"}, {"kernel": "dot", "threads": 2}):
        np.testing.assert_array_equal(native_logits(path, **options), expected)
    np.testing.assert_array_equal(one_by_one(path), expected)


def test_every_kernel_gives_the_same_logits(tmp_path):
    from edge_nodes.native import _kernels

    path = tmp_path / "m.gguf"
    expected = BitNet(write_bitnet(path, "I2_S", seed=5)).logits(TOKENS)
    for kernel in _kernels.supported_kernels():
        got = native_logits(path, kernel=kernel, kv_cache="f32")
        assert np.linalg.norm(got - expected) <= 1e-2 * np.linalg.norm(expected)


def test_missing_norms_and_cut_files_are_one_clear_error(tmp_path):
    write_bitnet(tmp_path / "a.gguf", "TQ2_0", sub_norms=False)
    assert_bad(tmp_path / "a.gguf", r"missing tensors.*blk\.0\.attn_sub_norm")
    write_bitnet(tmp_path / "b.gguf", "I2_S")
    content = (tmp_path / "b.gguf").read_bytes()
    (tmp_path / "c.gguf").write_bytes(content[: len(content) // 2])
    assert_bad(tmp_path / "c.gguf", "part of one")


def test_unknown_types_are_named(tmp_path):
    write_bitnet(tmp_path / "a.gguf", "I2_S")
    content = bytearray((tmp_path / "a.gguf").read_bytes())
    name = b"blk.0.attn_q.weight"
    at = content.index(name) + len(name) + 4 + 16
    assert content[at] == 36
    content[at] = 99
    (tmp_path / "a.gguf").write_bytes(content)
    assert_bad(tmp_path / "a.gguf", r"unsupported weight type in tensor blk\.0\.attn_q.*number 99")
