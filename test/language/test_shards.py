# SPDX-License-Identifier: Apache-2.0
"""Shares of a model: who gets what, and that the shards together compute what the whole does."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import small_bitnet
import small_gguf
from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.language import LanguageError, load
from edge_nodes.language.blocks.convert import convert
from edge_nodes.language.blocks.directory import BlockDirectory
from edge_nodes.language.blocks.shards import balanced_shares, cut_cols, split_units, trees
from edge_nodes.language.blocks.streaming import stream
from edge_nodes.language.blocks.sum_tree import SumTree
from edge_nodes.paging.files import views

TOKENS = np.random.default_rng(2).integers(3, 260, 20).astype(np.int32)
BUILT = {"context": 32, "batch": 64, "threads": 1}


@pytest.mark.parametrize(
    ("total", "shares", "multiple", "expected"),
    [
        (8, (0.5, 0.25, 0.125, 0.125), 1, [4, 2, 1, 1]),
        (8, (0.4, 0.3, 0.3), 1, [3, 3, 2]),
        (11008, (1, 1, 1), 1, [3670, 3669, 3669]),
        (11008, (1, 1, 1), 256, [3840, 3584, 3584]),
        (4, (100, 1, 1), 1, [2, 1, 1]),
        (160, (1, 1), 32, [96, 64]),
        (170, (1, 1), 32, [96, 74]),
    ],
)
def test_units_by_largest_remainder(total, shares, multiple, expected):
    assert split_units(total, shares, multiple=multiple) == expected


@given(st.integers(1, 400), st.lists(st.floats(0.01, 10.0), min_size=1, max_size=8), st.sampled_from([1, 32]))
def test_units_sum_up_and_follow_the_shares(units, shares, multiple):
    total = units * multiple
    if units < len(shares):
        with pytest.raises(LanguageError, match="would get nothing"):
            split_units(total, shares, multiple=multiple)
        return
    found = split_units(total, shares, multiple=multiple)
    assert sum(found) == total
    assert min(found) >= multiple
    assert all(size % multiple == 0 for size in found)
    for a, x in zip(shares, found, strict=True):
        for b, y in zip(shares, found, strict=True):
            assert not (a > b and x < y)


@pytest.mark.parametrize(
    ("speeds", "rooms", "expected"),
    [
        ((1, 1), (99, 99), [4, 4]),
        ((3, 1), (99, 99), [6, 2]),
        ((3, 1), (4, 99), [4, 4]),
        ((2, 1, 1), (99, 99, 99), [4, 2, 2]),
    ],
)
def test_balanced_shares_follow_speed_up_to_the_memory(speeds, rooms, expected):
    assert balanced_shares(speeds, rooms, units=8, unit_bytes=1) == expected


def test_boards_that_are_too_small_together_are_refused():
    with pytest.raises(LanguageError, match="do not hold the model"):
        balanced_shares((1, 1), (3, 4), units=8, unit_bytes=1)


@pytest.fixture
def four_groups(monkeypatch):
    for name, value in {"HEADS": 8, "KV_HEADS": 4, "WIDTH": 96, "HIDDEN": 160}.items():
        monkeypatch.setattr(small_gguf, name, value)
    monkeypatch.setattr(small_bitnet, "KV_HEADS", 4)


@pytest.fixture
def blocked(form, monkeypatch):
    if form == "blocked":  # 256 columns share a scale: a group of heads has as many
        for name, value in {"HEADS": 32, "WIDTH": 256, "HIDDEN": 1280}.items():
            monkeypatch.setattr(small_gguf, name, value)


def write(path, form):
    if form == "bitnet":
        small_bitnet.write_bitnet(path, "I2_S")
    else:
        kinds = {"q4_1": {"default": "Q4_1"}, "blocked": {"default": "TQ2_0", "token_embd": "Q8_0"}}.get(form)
        small_gguf.write_gguf(path, kinds=kinds, tied=form != "untied")
    return path


class Sum:
    """Adds up what all ranks have, each sum by its tree."""

    def __init__(self, shards):
        self._trees = trees(shards[0]) | {"sum": SumTree((1,) * len(shards))}
        self._values, self._barrier = [None] * len(shards), threading.Barrier(len(shards), timeout=30)

    def __call__(self, rank, values, how):
        tree = self._trees.get(how)
        self._values[rank] = values.reshape(len(tree.roots[rank]) if tree else 1, -1).copy()
        self._barrier.wait()
        total = tree.total(self._values) if tree else np.maximum.reduce(self._values)[0]
        values[: len(total)] = total
        self._barrier.wait()


def together(folders, steps, **options):
    """Logits of rank 0, with the other ranks in threads."""
    from edge_nodes.native import _kernels

    directories = [BlockDirectory(folder) for folder in folders]
    models = [stream(d, _kernels.Model(**d.sizes, **BUILT, **options)) for d in directories]
    exchange, found = Sum([d.index["shard"] for d in directories]), []
    for rank, model in enumerate(models):
        model.set_reducer(lambda values, how, rank=rank: exchange(rank, values, how))
    for first, tokens in steps:
        states = models[0].embed(tokens)
        segments = [(0, first, len(tokens))]
        others = [threading.Thread(target=m.forward_states, args=(states, segments)) for m in models[1:]]
        for thread in others:
            thread.start()
        found.append(models[0].forward(tokens, first, all=True))
        for thread in others:
            thread.join()
    for model in models:
        model.set_reducer(None)
        model.close()
    return np.concatenate(found)


@pytest.mark.parametrize("shares", [(1, 1), (3, 1), (2, 1, 1), (1, 2, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("form", ["q8", "q4_1", "untied", "bitnet", "blocked"])
@pytest.mark.usefixtures("make_model", "four_groups", "blocked")
def test_shards_together_are_the_whole_bit_for_bit(tmp_path, form, shares):
    source = write(tmp_path / "model.gguf", form)
    folders = convert(source, tmp_path / "shards", shares=shares)
    steps = [(0, TOKENS[:16]), *((i, TOKENS[i : i + 1]) for i in range(16, 20))]
    whole = load(source, context_tokens=32)
    expected = np.concatenate([whole.model.forward(tokens, first, all=True) for first, tokens in steps])
    np.testing.assert_array_equal(together(folders, steps), expected)


@pytest.mark.parametrize("form", ["q4_1", "blocked"])
@pytest.mark.usefixtures("make_model", "four_groups", "blocked")
def test_all_kernels_add_up_by_the_same_tree(tmp_path, form):
    from edge_nodes.native import _kernels

    source, steps = write(tmp_path / "model.gguf", form), [(0, TOKENS[:16]), (16, TOKENS[16:17])]
    folders = convert(source, tmp_path / "shards", shares=(1, 2, 1))
    for kernel in _kernels.supported_kernels():
        whole = load(source, context_tokens=32, kernel=kernel).model
        expected = np.concatenate([whole.forward(tokens, first, all=True) for first, tokens in steps])
        np.testing.assert_array_equal(together(folders, steps, kernel=kernel), expected, kernel)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_any_cut_of_a_sum_gives_the_same_bits(units, seed):
    total = sum(units)
    values = np.random.default_rng(seed).normal(0, 1, (total, 3)).astype(np.float32)
    whole = SumTree((total,))

    def pairwise(begin, end):  # the order by itself
        middle = begin + (end - begin + 1) // 2
        return values[begin] if end - begin == 1 else pairwise(begin, middle) + pairwise(middle, end)

    parts = [np.array([pairwise(*node) for node in nodes]) for nodes in SumTree(tuple(units)).roots]
    np.testing.assert_array_equal(SumTree(tuple(units)).total(parts), pairwise(0, total))
    assert whole.roots == (((0, total),),)
    assert SumTree(tuple(units)).most_roots <= 2 * total.bit_length()


@pytest.mark.usefixtures("make_model", "four_groups")
def test_weights_of_the_shards_put_together_are_those_of_the_whole(tmp_path):
    from edge_nodes.native._kernels import Matrix

    source = write(tmp_path / "model.gguf", "q4_1")
    (folder,) = convert(source, tmp_path / "whole")
    shards = convert(folder, tmp_path / "shards", shares=(2, 1, 1))

    def floats(folder, block, name):
        parts = {"scales": np.empty(0, np.uint16), "mins": np.empty(0, np.uint16)}
        parts |= views(BlockDirectory(folder).files[block].path)[name]
        return Matrix.from_parts(
            {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in parts.items()}
        ).to_float()

    for block, name, axis in [
        ("blk.0.attn", "attn_q", 0),
        ("blk.1.attn", "attn_v", 0),
        ("blk.0.attn", "attn_output", 1),
        ("blk.0.ffn", "ffn_up", 0),
        ("blk.1.ffn", "ffn_down", 1),
    ]:
        joined = np.concatenate([floats(shard, block, name) for shard in shards], axis)
        np.testing.assert_array_equal(joined, floats(folder, block, name))


@pytest.mark.usefixtures("make_model", "four_groups")
def test_workers_have_no_tokens_embedding_or_head(tmp_path):
    shards = convert(write(tmp_path / "model.gguf", "untied"), tmp_path / "shards", shares=(1, 1))
    names = [set(BlockDirectory(shard).files) for shard in shards]
    assert any(name.startswith("head.") for name in names[0])
    assert "embedding" in names[0]
    assert not [name for name in names[1] if name.startswith(("head.", "embedding"))]
    assert not Path(shards[1] / "metadata.json").exists()
    with pytest.raises(LanguageError, match="cannot be cut again"):
        convert(shards[0], tmp_path / "again", shares=(1, 1))


@pytest.mark.usefixtures("make_model", "four_groups")
def test_more_boards_than_groups_of_heads_are_refused(tmp_path):
    with pytest.raises(LanguageError, match="rank 4 would get nothing"):
        convert(write(tmp_path / "model.gguf", "q8"), tmp_path / "shards", shares=(1,) * 5)


@pytest.mark.usefixtures("make_model")
def test_columns_that_share_a_scale_are_not_cut():
    import gguf
    from edge_nodes.native._kernels import Matrix

    values = np.random.default_rng(1).normal(0, 1, (40, 768)).astype(np.float32)
    matrix = Matrix("TQ2_0", gguf.quants.quantize(values, gguf.GGMLQuantizationType.TQ2_0), 768)
    parts = matrix.parts()
    assert parts["scales"].size
    cut = cut_cols(parts, 256, 768)
    np.testing.assert_array_equal(Matrix.from_parts(cut).to_float(), matrix.to_float()[:, 256:])
    with pytest.raises(LanguageError, match="packed together"):
        cut_cols(parts, 0, 128)
