# SPDX-License-Identifier: Apache-2.0
"""Writes a small random BitNet b1.58 as a GGUF file."""

from __future__ import annotations

import gguf
import numpy as np
from small_gguf import CHAT, byte_tokens

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS = 256, 768, 2, 8, 2
MERGES = ["h e", "l l", "he ll", "hell o"]
VOCABULARY = ["<|end|>", "<|im_start|>", "<|im_end|>", *byte_tokens(), *(m.replace(" ", "") for m in MERGES)]


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
