# SPDX-License-Identifier: Apache-2.0
"""Files of random weights: of the shape asked for, the same for the same seed, and usable."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest

from edge_nodes.language import LanguageError, load
from edge_nodes.language.gguf_file import GgufFile
from edge_nodes.language.synthetic import HEAD_TYPES, SHAPES, TYPES, read_shape, write_model
from edge_nodes.language.tokenizer import Tokenizer
from edge_nodes.language.vocabulary import bytes_only, extended

SMALL = "2x256x512x4x2x600"


BITNET = replace(SHAPES["bitnet-2b"], layers=1, vocabulary=600)


@pytest.fixture(autouse=True)
def no_models(monkeypatch, tmp_path_factory):
    """No vocabulary is installed."""
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path_factory.mktemp("empty")))


@pytest.mark.parametrize(
    ("kind", "head"), [*((kind, "Q8_0") for kind in TYPES), *(("Q8_0", head) for head in HEAD_TYPES)]
)
def test_weights_are_random_and_of_the_shape(tmp_path, kind, head):
    shape = read_shape(SMALL)
    write_model(tmp_path / "m.gguf", shape, kind=kind, head=head, seed=1)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert tensors["token_embd.weight"].tensor_type.name == head
    for name, rows, cols in [*shape.matrices(), ("token_embd.weight", 600, 256)]:
        tensor = tensors[name]
        assert tensor.shape.tolist() == [cols, rows]
        w = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert w.shape == (rows, cols)
        assert abs(w.mean()) < 0.1 * cols**-0.5
        assert w.std() == pytest.approx(cols**-0.5, rel=0.1)
        if tensor.tensor_type.name in ("TQ1_0", "TQ2_0"):
            levels, counts = np.unique(w, return_counts=True)
            assert len(levels) == 3
            assert counts.min() > 0.3 * w.size
    assert sorted(tensors) == sorted(["token_embd.weight", *(n for n, *_ in (*shape.matrices(), *shape.norms()))])


def test_the_seed_decides_every_byte(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_model(tmp_path / name, read_shape(SMALL), seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("shape", [read_shape(SMALL), BITNET], ids=["llama", "bitnet"])
def test_engine_runs_it(tmp_path, shape):
    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    write_model(tmp_path / "m.gguf", shape)
    engine = load(tmp_path / "m.gguf", threads=2, context_tokens=128)
    prompt = engine.tokenizer.chat([{"role": "user", "content": "hello"}])
    logits, _ = engine.prefill(prompt)
    assert np.isfinite(logits).all()
    assert logits.std() > 0.1
    assert sum(1 for _ in engine.generate(prompt, max_new_tokens=4)) <= 4  # an end may be drawn at once
    assert "random" in str(GgufFile(tmp_path / "m.gguf").metadata["general.name"])


def test_vocabulary_reads_and_writes_text():
    vocabulary = extended(None, 5000)
    assert len(set(vocabulary.tokens)) == 5000
    keys = {"tokens": vocabulary.tokens, "merges": vocabulary.merges, "token_type": vocabulary.types}
    metadata = {f"tokenizer.ggml.{k}": list(v) for k, v in keys.items()}
    tokenizer = Tokenizer({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": vocabulary.pre, **metadata})
    text = "Hello there, 你好 abc zzz"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("abc")) == 1
    assert extended(vocabulary, 6000).tokens[:5000] == list(vocabulary.tokens)
    assert len(bytes_only().tokens) == 259


@pytest.mark.parametrize(
    ("shape", "options", "match"),
    [
        ("3b", {}, "no such shape"),
        ("2x256x512x3x2", {}, "no such shape"),
        ("2x0x512x4x2", {}, "no such shape"),
        ("2x256x512x4x2x100", {}, "vocabulary is too small"),
        ("135m", {}, "does not fit"),
        (SMALL, {"kind": "IQ1_S"}, "no such type"),
        (SMALL, {"head": "TQ2_0"}, "no such type"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(tmp_path, shape, options, match):
    with pytest.raises(LanguageError, match=match):
        write_model(tmp_path / "m.gguf", read_shape(shape), **options)
    assert list(tmp_path.iterdir()) == []


def test_no_place_to_write(tmp_path):
    with pytest.raises(LanguageError, match="cannot be written"):
        write_model(tmp_path / "missing" / "m.gguf", read_shape(SMALL))
