# SPDX-License-Identifier: Apache-2.0
"""Models in blocks: what is written, and that streaming changes no bit of what a model says."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_bitnet import write_bitnet

from edge_nodes.errors import ModelError, State
from edge_nodes.language import LanguageError, load
from edge_nodes.language.blocks.convert import convert
from edge_nodes.language.blocks.directory import BlockDirectory
from edge_nodes.language.blocks.streamed_model import StreamedModel, reserve
from edge_nodes.language.gguf_file import GgufFile
from edge_nodes.paging.files import views
from edge_nodes.paging.plan import Plan, Run
from edge_nodes.paging.window import smallest_budget, whole_pages

TOKENS = np.random.default_rng(5).integers(3, 260, 40).astype(np.int32)
RUN = Run(0.0, 0.0, 0)


@pytest.fixture(scope="module", params=["q8 tied", "q4_1 untied", "tq2_0 bitnet", "i2_s bitnet"])
def source(request, make_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "model.gguf"
    kind, form = request.param.split()
    if form == "bitnet":
        write_bitnet(path, kind.upper())
    else:
        make_model(path, kinds={"default": "Q4_1"} if kind == "q4_1" else None, tied=form == "tied")
    return path


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("blocks") / "model"
    assert convert(source, out) == [out]
    return out


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path / "cache"))


def streamed(folder, plan, engine):
    """A model of the same sizes as the engine's that streams."""
    from edge_nodes.native import _kernels

    directory = BlockDirectory(folder)
    made = {"context": engine.context_tokens, "batch": engine.model.batch, "threads": 2}
    return StreamedModel(_kernels.Model(**directory.sizes, **made), directory, plan)


def say(model):
    """Logits of a prompt and of three tokens after it."""
    logits = [model.forward(TOKENS[:33], 0, all=True)]
    return np.concatenate(logits + [model.forward(TOKENS[i : i + 1], i)[None] for i in range(33, 36)])


def test_every_budget_gives_the_same_bits(source, folder):
    engine = load(source, context_tokens=64)
    expected = say(engine.model)
    sizes = [file.bytes for file in BlockDirectory(folder).order()]
    least = smallest_budget(sizes)
    pinned = (1, len(sizes) - 1)
    plans = [Plan(least, m, (), RUN) for m in (1, 2, 8)] + [
        Plan(2 * least, 3, (), RUN),
        Plan(4 * least, 2, pinned, RUN),
    ]
    for plan in plans:
        model = streamed(folder, plan, engine)
        np.testing.assert_array_equal(say(model), expected)
        assert model.window.stats().peak_bytes <= plan.budget_bytes
        model.close()


def test_work_space_is_counted_before_it_is_made(source, folder):
    from edge_nodes.native import _kernels

    directory = BlockDirectory(folder)
    sizes = [file.bytes for file in directory.order()]
    native = _kernels.Model(**directory.sizes, context=512, batch=8, threads=1)
    reserve(native, directory)
    counted = native.work_bytes
    plan = Plan(sum(map(whole_pages, sizes)), 1, (), RUN)
    with contextlib.closing(StreamedModel(native, directory, plan)) as model:
        model.forward(TOKENS[:8], 0)
    logits = 4 * directory.sizes["vocabulary"]
    assert counted <= native.work_bytes <= counted + 2 * logits


def test_budget_of_load(source, folder):
    expected = say(load(source, context_tokens=64).model)
    with pytest.raises(LanguageError, match="at least") as caught:
        load(source, context_tokens=8192, memory_budget_mb=1, slots=8)
    assert caught.value.state is State.OUT_OF_MEMORY
    least = int(caught.value.expected.split()[2])
    with pytest.raises(LanguageError, match="too small"):
        load(folder, context_tokens=8192, memory_budget_mb=least - 1, slots=8)
    for path, budget in ((source, 64), (folder, 64), (folder, 0)):
        engine = load(path, context_tokens=64, memory_budget_mb=budget)
        np.testing.assert_array_equal(say(engine.model), expected)
        engine.close()
    engine = load(folder, context_tokens=8192, memory_budget_mb=least, slots=8)
    assert engine.tokenizer.decode(engine.tokenizer.encode("hello there")) == "hello there"
    engine.close()


def test_files_are_safetensors_with_the_packed_weights(folder):
    directory = BlockDirectory(folder)
    directory.verify()
    for file in directory.files.values():
        read, seen = load_file(file.path), views(file.path)
        for name, array in read.items():
            matrix, _, part = name.rpartition(".")
            np.testing.assert_array_equal(seen[matrix][part] if matrix else seen[name], array)


def test_embedding_rows_are_those_of_the_file(source, folder):
    import gguf

    tensor = GgufFile(source).tensors["token_embd.weight"]
    rows = gguf.dequantize(tensor.data, tensor.tensor_type)
    engine = load(folder, context_tokens=64)
    tokens = np.array([0, 31, 32, 250, len(rows) - 1], np.int32)
    got = engine.model.embed(tokens)
    np.testing.assert_allclose(got, rows[tokens], atol=np.abs(rows).max() / 120)


def test_damaged_block_is_an_error_of_the_request_and_the_next_one_works(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    engine = load(copy, context_tokens=64)
    whole = say(engine.model)
    least = smallest_budget([file.bytes for file in BlockDirectory(copy).order()])
    model = streamed(copy, Plan(least, 1, (), RUN), engine)
    broken = copy / "blk.1.attn.safetensors"
    kept = broken.read_bytes()
    broken.write_bytes(kept[: len(kept) // 2])
    for _ in range(2):
        with pytest.raises(ModelError, match=r"blk\.1\.attn\.safetensors has") as caught:
            model.forward(TOKENS[:1], 0)
        assert caught.value.state is State.MODEL_BAD
    broken.write_bytes(kept)
    np.testing.assert_array_equal(say(model), whole)
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model.forward(TOKENS[:1], 0)


def test_bad_tokens_leave_the_window_as_it_was(folder):
    engine = load(folder, context_tokens=64)
    model = streamed(folder, Plan(1 << 20, 2, (), RUN), engine)
    with pytest.raises(IndexError, match="token beyond"):
        model.forward(np.array([99_999], np.int32), 0)
    say(model)
    model.close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "blk.0.ffn.safetensors").unlink(), "blk.0.ffn.safetensors is truncated or missing"),
        (lambda folder: edit(folder, version=99), "blocks of another version; got 99"),
        (lambda folder: edit(folder, packing=99), "packed for another version of the kernels"),
        (lambda folder: (folder / "blocks.json").write_text("{}"), "truncated or not the file of its manifest"),
    ],
)
def test_directory_that_is_not_what_it_says(folder, tmp_path, damage, message):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(ModelError if "manifest" in message else LanguageError, match=message) as caught:
        load(copy)
    assert caught.value.state is State.MODEL_BAD


def edit(folder, **changes):
    from edge_nodes.models import write_manifest

    index = json.loads((folder / "blocks.json").read_text()) | changes
    (folder / "blocks.json").write_text(json.dumps(index))
    write_manifest(folder, "blocks.json", name="edited")


def test_flipped_bit_is_found_by_the_hash(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "blk.1.ffn.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(LanguageError, match=r"blk\.1\.ffn\.safetensors has the wrong sha256"):
        BlockDirectory(copy).verify()


def test_nothing_is_left_of_a_conversion_that_failed(make_model, tmp_path):
    bad = make_model(tmp_path / "bad.gguf", drop=("blk.1.ffn_up",))
    with pytest.raises(LanguageError, match=r"missing tensors; got blk\.1\.ffn_up"):
        convert(bad, tmp_path / "out")
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]
    (tmp_path / "out").mkdir()
    with pytest.raises(LanguageError, match="exists already"):
        convert(bad, tmp_path / "out")
