# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
from small_bitnet import write_bitnet

from edge_nodes.language import kernel_choice, load
from edge_nodes.language.kernel_choice import Choice, Density

native = pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
SHAPES = [(64, 96), (33, 256)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_choice, "cache_file", lambda: tmp_path / "folder" / "kernels.json")


def test_tables_are_taken_from_where_they_cost_less():
    assert Choice(1, 1, dot_gmacs=100.0, lut_gmacs=200.0).tables_from == 16
    assert Choice(1, 1, dot_gmacs=200.0, lut_gmacs=100.0).tables_from > kernel_choice.TABLE_TOKENS
    assert Choice(1, 1, dot_gmacs=1.0, lut_gmacs=1000.0).tables_from == 2  # one token has a path of its own
    assert Density(2.0, 1.0, 1.0, 9.0).dense
    assert not Density(1.0, 2.0, 9.0, 1.0).dense


def test_two_bits_become_fewer_where_answers_gain_and_prompts_lose_little():
    assert Density(1.2, 1.0, 0.9, 1.0).repacked
    assert not Density(1.2, 1.0, 0.6, 1.0).repacked
    assert not Density(1.01, 1.0, 1.0, 1.0).repacked


@pytest.mark.parametrize("kernel", native.supported_kernels())
def test_what_was_measured_is_kept(kernel):
    first = kernel_choice.choices(SHAPES, kernel)
    assert [(c.rows, c.cols) for c in first] == SHAPES
    assert all(c.dot_gmacs > 0 and c.lut_gmacs > 0 for c in first)
    assert kernel_choice.choices(SHAPES, kernel) == first  # a second measurement would differ
    assert sorted(kernel_choice.known(kernel), key=str) == sorted(first, key=str)
    assert kernel_choice.density(kernel) == kernel_choice.density(kernel)
    (key, *_) = json.loads(kernel_choice.cache_file().read_text())
    assert kernel_choice.cpu_name() in key


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"KEY": 3}', '{"KEY": {"rows": 1}}', "stale", "negative"])
def test_a_bad_cache_is_measured_anew(content):
    (good,) = kernel_choice.choices(SHAPES[:1])
    path = kernel_choice.cache_file()
    (key,) = json.loads(path.read_text())
    if content == "stale":
        content = json.dumps({key.replace(f"| {native.KERNEL_VERSION} |", "| 0 |"): {"rows": 64, "cols": 96}})
    elif content == "negative":
        content = json.dumps({key: {"rows": 64, "cols": 96, "dot_gmacs": -1.0, "lut_gmacs": 1.0}})
    path.write_text(content.replace("KEY", key))
    (again,) = kernel_choice.choices(SHAPES[:1])
    assert (again.rows, again.cols) == (good.rows, good.cols)
    assert json.loads(path.read_text())[key]["dot_gmacs"] == again.dot_gmacs


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(kernel_choice, "cache_file", lambda: blocked / "kernels.json")
    assert len(kernel_choice.choices(SHAPES)) == len(SHAPES)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="no kernel 'mmx'"):
        kernel_choice.choices(SHAPES, "mmx")


def test_weights_of_less_than_two_bits_are_kept_where_that_is_no_slower(tmp_path, monkeypatch):
    write_bitnet(tmp_path / "m.gguf", "TQ1_0", seed=7)
    tokens = np.arange(45, dtype=np.int32) % 20
    results, sizes = [], []
    for found, words in ((Density(2.0, 1.0, 1.0, 9.0), "1.60"), (Density(1.0, 2.0, 9.0, 1.0), "2.00")):
        monkeypatch.setattr(kernel_choice, "density", lambda _, found=found: found)
        said = []
        model = load(tmp_path / "m.gguf", progress=said.append).model
        assert any(words in line for line in said)
        results.append(model.forward(tokens, 0, all=True))
        sizes.append(model.weight_bytes)
    np.testing.assert_array_equal(results[0], results[1])
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("kind", ["TQ2_0", "I2_S"])
def test_weights_of_two_bits_are_repacked_where_that_pays(tmp_path, monkeypatch, kind):
    write_bitnet(tmp_path / "m.gguf", kind, seed=7)
    tokens = np.arange(45, dtype=np.int32) % 20
    monkeypatch.setattr(kernel_choice, "density", lambda _: Density(2.0, 1.0, 1.0, 1.0))
    cached = load(tmp_path / "m.gguf").model.weight_bytes  # the caches hold it
    monkeypatch.setattr(kernel_choice, "FROM_MEMORY", 1)
    assert load(tmp_path / "m.gguf", slots=2).model.weight_bytes == cached
    results, sizes = [], {}
    for pays, kernel in ((True, "auto"), (False, "auto"), (True, "lut"), (True, "reference")):
        found = Density(2.0, 1.0, 1.0, 1.0) if pays else Density(1.0, 2.0, 1.0, 1.0)
        monkeypatch.setattr(kernel_choice, "density", lambda _, found=found: found)
        model = load(tmp_path / "m.gguf", kernel=kernel).model
        results.append(model.forward(tokens, 0, all=True))
        sizes[pays, kernel] = model.weight_bytes
    for other in results[1:3]:
        np.testing.assert_array_equal(results[0], other)
    np.testing.assert_allclose(results[0], results[3], rtol=1e-3, atol=1e-3)
    assert sizes[True, "auto"] < cached == sizes[False, "auto"] == sizes[True, "lut"] == sizes[True, "reference"]


def test_the_reference_can_be_forced(tmp_path):
    write_bitnet(tmp_path / "m.gguf", "TQ2_0", seed=7)
    model = load(tmp_path / "m.gguf", kernel="reference").model
    assert (model.kernel, model.method) == ("portable", "dot")


def test_the_choice_does_not_change_a_bit(tmp_path):
    write_bitnet(tmp_path / "m.gguf", "TQ1_0", seed=8)
    model = load(tmp_path / "m.gguf").model
    shapes = sorted(model.ternary_shapes())
    assert shapes == [(64, 256), (256, 256), (256, 768), (768, 256)]
    tokens = np.arange(45, dtype=np.int32) % 20
    results = []
    for tables_from in (2, 12, 33):
        model.set_table_choices([(*shape, tables_from) for shape in shapes])
        results.append(model.forward(tokens, 0, all=True))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
