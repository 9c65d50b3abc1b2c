# SPDX-License-Identifier: Apache-2.0
"""Writes a small random Llama as a GGUF file."""

from __future__ import annotations

import numpy as np

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 96, 160, 2, 6, 2, 32
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokens():
    """The 256 byte symbols of GPT-2's alphabet, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(extra)) for b in range(256)]


def write_gguf(path, *, kinds=None, seed=0, tied=True, arch="llama", drop=(), **changes):
    """Write a random Llama; `kinds` gives the type of each kind of matrix (default Q8_0)."""
    import gguf

    kinds = {"default": "Q8_0", **(kinds or {})}
    rng = np.random.default_rng(seed)
    alphabet = byte_tokens()
    merges = ["h e", "l l", "he ll", "hell o"]
    tokens = ["<|end|>", "<|im_start|>", "<|im_end|>", *alphabet, *(m.replace(" ", "") for m in merges)]
    tokens = changes.get("tokens", tokens)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(LAYERS)
    writer.add_context_length(changes.get("context", 8192))
    writer.add_embedding_length(changes.get("width", WIDTH))
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_tokenizer_model(changes.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types(changes.get("types", [3] * 3 + [1] * (len(tokens) - 3)))
    if "scores" in changes:
        writer.add_token_scores(changes["scores"])
    else:
        writer.add_token_merges(changes.get("merges", merges))
    if "rope" in changes:
        changes["rope"](writer)
    writer.add_eos_token_id(0)
    writer.add_chat_template(changes.get("template", CHAT))
    shapes = {"token_embd": (len(tokens), WIDTH)} | ({} if tied else {"output": (len(tokens), WIDTH)})
    for i in range(LAYERS):
        shapes |= {
            f"blk.{i}.attn_q": (HEADS * HEAD_DIM, WIDTH),
            f"blk.{i}.attn_k": (KV_HEADS * HEAD_DIM, WIDTH),
            f"blk.{i}.attn_v": (KV_HEADS * HEAD_DIM, WIDTH),
            f"blk.{i}.attn_output": (WIDTH, HEADS * HEAD_DIM),
            f"blk.{i}.ffn_gate": (HIDDEN, WIDTH),
            f"blk.{i}.ffn_up": (HIDDEN, WIDTH),
            f"blk.{i}.ffn_down": (WIDTH, HIDDEN),
        }
    for name, shape in shapes.items():
        if name in drop:
            continue
        kind = getattr(gguf.GGMLQuantizationType, kinds.get(name.rpartition(".")[2], kinds["default"]))
        values = rng.normal(0, shape[1] ** -0.5, shape).astype(np.float32)
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(name + ".weight", data, raw_dtype=kind)
    norms = ["output_norm", *(f"blk.{i}.{n}_norm" for i in range(LAYERS) for n in ("attn", "ffn"))]
    for name in norms:
        writer.add_tensor(name + ".weight", rng.uniform(0.5, 1.5, WIDTH).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
