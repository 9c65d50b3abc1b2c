# SPDX-License-Identifier: Apache-2.0
"""The native decoder against a Llama in plain numpy, and files that are not what they should be."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy_llama import TOKENS, Llama, assert_bad, eight_bits, native_logits, one_by_one
from peer import llama_cpp_server
from small_gguf import HEAD_DIM

from edge_nodes.errors import ModelError, State
from edge_nodes.language import LanguageError, load
from edge_nodes.language.synthetic import read_shape, write_model


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"default": "F32"},
        {"default": "F16"},
        {"default": "BF16"},
        {"default": "Q4_0", "token_embd": "Q8_0"},
        {"default": "Q4_1", "token_embd": "Q8_0"},
        {"default": "Q4_1", "output": "Q8_0", "ffn_down": "Q4_0", "tied": False},
    ],
    ids=lambda kinds: "-".join(map(str, kinds.values())) or "Q8_0",
)
def test_logits_equal_the_float_reference(make_model, tmp_path, kinds):
    tied = kinds.pop("tied", True)
    path = make_model(tmp_path / "m.gguf", kinds=kinds, seed=3, tied=tied)
    got, half = native_logits(path, kv_cache="f32"), native_logits(path)
    exact, rounded = Llama(path), Llama(path, eight_bits)
    if kinds.get("default") in ("F32", "F16", "BF16"):  # the engine keeps such weights in 8 bits
        matrices = {k: eight_bits(w, np.float16) for k, w in rounded.weights.items() if w.ndim == 2}
        rounded.weights.update(matrices)
    expected = rounded.logits(TOKENS)
    assert np.linalg.norm(got - expected) <= 1e-2 * np.linalg.norm(expected)
    # What 8-bit activations cost, against no rounding at all; llama.cpp's format does the same.
    expected = exact.logits(TOKENS)
    for each in (got, half):
        assert np.linalg.norm(each - expected) <= 4e-2 * np.linalg.norm(expected)


def test_a_six_bit_embedding_and_head_equal_the_float_reference(tmp_path):
    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    path = tmp_path / "m.gguf"
    write_model(path, read_shape("2x256x512x4x2x600"), kind="Q8_0", head="Q6_K")
    got, expected = native_logits(path, kv_cache="f32"), Llama(path, eight_bits).logits(TOKENS)
    assert np.linalg.norm(got - expected) <= 1e-2 * np.linalg.norm(expected)


def linear(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def llama3(writer):
    # Llama 3.1's factors: 1 for short waves, 8 for long ones (its config: rope_scaling).
    waves = 2 * np.pi * 10000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    smooth = np.clip((8192 / 64 / waves - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    writer.add_tensor("rope_freqs.weight", (1 / (smooth + (1 - smooth) / 8.0)).astype(np.float32))


def yarn(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(512)


def longrope(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)


@pytest.mark.parametrize("rope", [linear, llama3, yarn])
def test_scaled_rope(make_model, tmp_path, rope):
    path, plain = (make_model(tmp_path / name, **changes) for name, changes in [("a", {"rope": rope}), ("b", {})])
    got, expected = native_logits(path, kv_cache="f32"), Llama(path, eight_bits).logits(TOKENS)
    assert np.linalg.norm(got - expected) <= 1e-2 * np.linalg.norm(expected)
    assert np.linalg.norm(got - native_logits(plain)) > 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("rope", [linear, llama3, yarn])
def test_scaled_rope_is_llama_cpps(make_model, tmp_path, rope):
    """The most probable token after long random prompts: of random models, so that another embedding gives another."""
    scaled, plain = (make_model(tmp_path / n, seed=3, **c) for n, c in [("a", {"rope": rope}), ("b", {})])
    ask = llama_cpp_server(scaled, context=512)
    engines = [load(path, context_tokens=512, threads=1) for path in (scaled, plain)]
    same, asked = np.zeros(2, int), 0
    for seed in range(16):
        prompt = np.random.default_rng(seed).integers(3, 260, 300).tolist()
        answer = ask("completion", prompt=prompt, n_predict=1, temperature=0.0, n_probs=1, cache_prompt=False)
        theirs = [p["id"] for p in answer.get("completion_probabilities", [])]  # none of a part of a character
        asked += len(theirs)
        for i, engine in enumerate(engines):
            logits, _ = engine.prefill(prompt)
            same[i] += theirs == [logits.argmax()]
    assert asked >= 8
    assert same[0] >= 0.9 * asked, (same, asked)
    assert same[1] <= 0.5 * asked, (same, asked)


def test_results_do_not_depend_on_threads_steps_or_batches(small_model):
    expected = native_logits(small_model, threads=1)
    np.testing.assert_array_equal(native_logits(small_model, threads=3), expected)
    np.testing.assert_array_equal(one_by_one(small_model), expected)


def test_every_kernel_gives_the_same_logits(small_model):
    from edge_nodes.native import _kernels

    expected = native_logits(small_model, kernel="portable", kv_cache="f32")
    for kernel in _kernels.supported_kernels():
        got = native_logits(small_model, kernel=kernel, kv_cache="f32")
        assert np.abs(got - expected).max() <= 5e-3 * np.abs(expected).max()


def test_steps_outside_the_context_are_refused(small_model):
    model = load(small_model, context_tokens=128).model
    for tokens, first in [([1], 128), ([1] * 5, 125), ([1], -1), ([], 0), ([1] * 65, 0), ([10**6], 0), ([-1], 0)]:
        with pytest.raises(IndexError):
            model.forward(np.array(tokens, np.int32), first)


def test_unsupported_files_are_one_clear_error(make_model, tmp_path):
    assert_bad(make_model(tmp_path / "a.gguf", arch="mamba"), "architecture.*mamba")
    assert_bad(
        make_model(tmp_path / "b.gguf", kinds={"ffn_up": "Q5_1"}), r"blk\.0\.ffn_up.*Q5_1.*expected one of F32|Q5_1"
    )
    assert_bad(make_model(tmp_path / "c.gguf", tokenizer="bert"), "tokenizer is not supported")
    assert_bad(make_model(tmp_path / "d.gguf", drop=("blk.1.attn_v",)), r"missing tensors.*blk\.1\.attn_v")
    assert_bad(make_model(tmp_path / "e.gguf", width=128), "wrong shape")
    assert_bad(make_model(tmp_path / "f.gguf", rope=longrope), "RoPE scaling.*longrope.*linear")


def test_broken_files_are_one_clear_error(small_model, tmp_path):
    content = small_model.read_bytes()
    for size in (0, 3, 24, 300, 3000, 6000, len(content) // 2, len(content) - 40):
        path = tmp_path / f"cut{size}.gguf"
        path.write_bytes(content[:size])
        assert_bad(path, "cut")
    path = tmp_path / "noise.gguf"
    path.write_bytes(np.random.default_rng(0).bytes(10000))
    assert_bad(path, "noise")


def test_missing_file_and_kernel():
    with pytest.raises(ModelError, match="no model") as caught:
        load("/nowhere/model.gguf")
    assert caught.value.state is State.MODEL_MISSING


def test_unknown_kernel(small_model):
    with pytest.raises(LanguageError, match=r"no such kernel.*portable") as caught:
        load(small_model, kernel="mmx")
    assert caught.value.state is State.NO_DEVICE


def test_weights_kept_in_eight_bits_are_rounded_as_the_native_packing_rounds(make_model, tmp_path):
    from edge_nodes.native._kernels import Matrix

    from edge_nodes.language.gguf_file import GgufFile, _eight_bits

    tensor = GgufFile(make_model(tmp_path / "m.gguf", kinds={"default": "F16"})).tensors["blk.0.ffn_up.weight"]
    values = np.ascontiguousarray(tensor.data, np.float32)
    cols = values.shape[1]
    whole, ours = (Matrix(*m, cols) for m in (("F32", values.view(np.uint8)), ("Q8_0", _eight_bits(tensor))))
    for name, part in whole.parts().items():
        np.testing.assert_array_equal(ours.parts()[name], part)
