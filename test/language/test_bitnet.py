# SPDX-License-Identifier: Apache-2.0
"""The BitNet b1.58 decoder against one in plain numpy, for every type of ternary weights."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from small_gguf import CHAT, byte_tokens
from test_llama import TOKENS, Llama, assert_bad, eight_bits, native_logits

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS = 256, 768, 2, 8, 2
MERGES = ["h e", "l l", "he ll", "hell o"]
VOCABULARY = ["<|end|>", "<|im_start|>", "<|im_end|>", *byte_tokens(), *(m.replace(" ", "") for m in MERGES)]
KINDS = ["TQ1_0", "TQ2_0", "I2_S"]


def add_ternary(writer, name, w, scale, kind):
    if kind != "I2_S":
        number = getattr(gguf.GGMLQuantizationType, kind)
        writer.add_tensor(name, gguf.quants.quantize((w * scale).astype(np.float32), number), raw_dtype=number)
        return
    codes = (w + 1).astype(np.uint8).reshape(len(w), -1, 4, 32)
    data = (codes << np.array([6, 4, 2, 0], np.uint8)[:, None]).sum(2, dtype=np.uint8).tobytes()
    data += np.float32(scale).tobytes() + bytes(28)
    number = type("I2_S", (int,), {})(36)
    writer.add_tensor(name, np.frombuffer(data, np.int8), raw_shape=w.shape, raw_dtype=number)


def write_bitnet(path, kind, *, arch="bitnet-b1.58", seed=0, scales=False, sub_norms=True):
    """Write a random BitNet; return its weights as {name: float array}."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3] * 3 + [1] * (len(VOCABULARY) - 3))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(0)
    writer.add_chat_template(CHAT)
    weights = {"token_embd": rng.normal(0, 1, (len(VOCABULARY), WIDTH)).astype(np.float16)}
    writer.add_tensor("token_embd.weight", weights["token_embd"])
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (kv, WIDTH),
        "attn_v": (kv, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (HIDDEN, WIDTH),
        "ffn_up": (HIDDEN, WIDTH),
        "ffn_down": (WIDTH, HIDDEN),
    }
    norms = {"attn_norm": WIDTH, "ffn_norm": WIDTH}
    norms |= {"attn_sub_norm": WIDTH, "ffn_sub_norm": HIDDEN} if sub_norms else {}
    for i in range(LAYERS):
        for part, shape in shapes.items():
            name, w = f"blk.{i}.{part}", rng.integers(-1, 2, shape).astype(np.int8)
            scale = float(np.float16(rng.uniform(0.5, 1.5) * shape[1] ** -0.5))
            weights[name] = w * np.float64(scale)
            add_ternary(writer, name + ".weight", w, 1.0 if scales else scale, kind)
            if scales:
                writer.add_tensor(name + ".scale", np.array([scale], np.float32))
        for part, size in norms.items():
            weights[f"blk.{i}.{part}"] = rng.uniform(0.5, 1.5, size).astype(np.float32)
            writer.add_tensor(f"blk.{i}.{part}.weight", weights[f"blk.{i}.{part}"])
    weights["output_norm"] = rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
    writer.add_tensor("output_norm.weight", weights["output_norm"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {k: w.astype(np.float64) for k, w in weights.items()}


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
    from edge_nodes.language import load

    path = tmp_path / "m.gguf"
    write_bitnet(path, "TQ2_0", seed=4)
    expected = native_logits(path, threads=1)
    for options in ({"threads": 3}, {"kernel": "lut"}, {"kernel": "dot", "threads": 2}):
        np.testing.assert_array_equal(native_logits(path, **options), expected)
    model = load(path).model
    one_by_one = np.stack([model.forward(np.array([t], np.int32), i) for i, t in enumerate(TOKENS)])
    np.testing.assert_array_equal(one_by_one, expected)


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
