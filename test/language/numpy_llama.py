# SPDX-License-Identifier: Apache-2.0
"""A Llama in plain numpy, and the native decoder asked the same."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from edge_nodes.errors import State
from edge_nodes.language import LanguageError, load

TOKENS = np.random.default_rng(7).integers(3, 260, 100)


def eight_bits(x, scale_type=np.float64):
    """Round rows as the engine does: 8-bit codes with one scale for 32 columns."""
    padded = np.pad(x, [(0, 0), (0, -x.shape[1] % 32)]).astype(np.float32)
    blocks = padded.reshape(len(x), -1, 32)
    scale = (np.abs(blocks).max(-1, keepdims=True) / np.float64(127)).astype(scale_type).astype(np.float64)
    codes = np.rint(np.divide(blocks, scale, out=np.zeros(blocks.shape), where=scale > 0))
    return (codes * scale).reshape(padded.shape)[:, : x.shape[1]]


class Llama:
    """The weights of a GGUF file as float64 and the decoder over them."""

    def __init__(self, path, rounding=lambda x: x):
        self.rounding = rounding
        reader = gguf.GGUFReader(path)
        self.weights = {
            t.name.removesuffix(".weight"): gguf.dequantize(t.data, t.tensor_type).astype(np.float64)
            for t in reader.tensors
        }
        self.fields = {k.removeprefix("llama."): f.contents() for k, f in reader.fields.items() if "llama." in k}

    def _norm(self, x, name):
        eps = self.fields["attention.layer_norm_rms_epsilon"]
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.weights[name]

    def _linear(self, x, name):
        return self.rounding(x) @ self.weights[name].T

    def _rope(self, x):
        dim = x.shape[-1]
        frequencies = self.fields["rope.freq_base"] ** (-np.arange(0, dim, 2) / dim)
        factor, magnitude = self.fields.get("rope.scaling.factor", 1.0), 1.0
        if self.fields.get("rope.scaling.type") == "yarn":
            frequencies, magnitude = self._yarn(frequencies, factor)
        else:
            frequencies /= factor * self.weights.get("rope_freqs", 1.0)
        angles = np.arange(len(x))[:, None] * frequencies
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * magnitude * np.exp(1j * angles)[:, None]
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    def _yarn(self, frequencies, factor):
        """Frequencies by their number of turns in the trained context: all of the 32 kept, all of the 1 squeezed."""
        turns = self.fields["rope.scaling.original_context_length"] * frequencies / (2 * np.pi)
        place = np.interp([32.0, 1.0], turns[::-1], np.arange(len(turns))[::-1])
        first, last = np.floor(place[0]), np.ceil(place[1])
        out = [
            f if i <= first else f / factor if i >= last else f + (f / factor - f) * (i - first) / (last - first)
            for i, f in enumerate(frequencies)
        ]
        return np.array(out), 1 + np.log(factor) / 10

    def _attention(self, x, layer):
        heads, kv_heads = self.fields["attention.head_count"], self.fields["attention.head_count_kv"]
        n = len(x)
        q, k, v = (self._linear(x, f"{layer}.attn_{p}") for p in "qkv")
        q, k, v = (
            self._rope(q.reshape(n, heads, -1)),
            self._rope(k.reshape(n, kv_heads, -1)),
            v.reshape(n, kv_heads, -1),
        )
        k, v = np.repeat(k, heads // kv_heads, 1), np.repeat(v, heads // kv_heads, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        scores[:, ~np.tri(n, dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1)
        return self._linear(mixed, f"{layer}.attn_output")

    def _feed_forward(self, x, layer):
        gate, up = self._linear(x, f"{layer}.ffn_gate"), self._linear(x, f"{layer}.ffn_up")
        return self._linear(gate / (1 + np.exp(-gate)) * up, f"{layer}.ffn_down")

    def logits(self, tokens):
        """Return float64 (n, vocabulary)."""
        x = self.weights["token_embd"][tokens]
        for i in range(self.fields["block_count"]):
            x = x + self._attention(self._norm(x, f"blk.{i}.attn_norm"), f"blk.{i}")
            x = x + self._feed_forward(self._norm(x, f"blk.{i}.ffn_norm"), f"blk.{i}")
        return self._linear(self._norm(x, "output_norm"), "output" if "output" in self.weights else "token_embd")


def native_logits(path, **options):
    model = load(path, **options).model
    rows = [
        model.forward(TOKENS[i : i + model.batch].astype(np.int32), i, all=True)
        for i in range(0, len(TOKENS), model.batch)
    ]
    return np.concatenate(rows)


def one_by_one(path):
    """The native decoder's logits from steps of one token."""
    model = load(path).model
    return np.stack([model.forward(np.array([t], np.int32), i) for i, t in enumerate(TOKENS)])


def assert_bad(path, match):
    with pytest.raises(LanguageError, match=match) as caught:
        load(path)
    assert caught.value.state is State.MODEL_BAD
