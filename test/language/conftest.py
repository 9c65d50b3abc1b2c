# SPDX-License-Identifier: Apache-2.0
"""A small random Llama in a GGUF file, and the real model where it is installed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

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
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
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


@pytest.fixture(scope="session")
def make_model():
    """The function that writes random models."""
    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    return write_gguf


@pytest.fixture(scope="session")
def small_model(make_model, tmp_path_factory):
    """Path of a random Llama with Q8_0 weights."""
    return make_model(tmp_path_factory.mktemp("model") / "small.gguf")


@pytest.fixture(scope="session")
def smollm2():
    """Engine of the installed SmolLM2-135M; the test is skipped where it is not installed."""
    from edge_nodes import models
    from edge_nodes.errors import ModelError

    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    try:
        path = models.find(os.environ.get("EDGE_NODES_TEST_MODEL", "smollm2-135m"), verify=False).path
    except ModelError:
        pytest.skip("smollm2-135m is not installed (edge-nodes models install smollm2-135m)")
    from edge_nodes.language import load

    return load(Path(path), context_tokens=1024)
