# SPDX-License-Identifier: Apache-2.0
"""Measuring a model's blocks: within the memory that is given, and once."""

from __future__ import annotations

import pytest

from edge_nodes.language.blocks import profile as profiles
from edge_nodes.language.blocks.convert import convert
from edge_nodes.language.blocks.directory import BlockDirectory
from edge_nodes.language.engine import make_model
from edge_nodes.paging.window import huge_pages, smallest_budget


@pytest.fixture(scope="module")
def directory(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiled")
    convert(make_model(folder / "model.gguf"), folder / "blocks")
    return BlockDirectory(folder / "blocks")


@pytest.fixture
def native(directory):
    return make_model(directory.sizes, 64, slots=1, kv_cache="f16", threads=1, kernel="auto")


@pytest.fixture
def peaks(tmp_path, monkeypatch):
    """The most bytes of blocks that each run of the measurement held."""
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path / "cache"))
    found = []

    class Watched(profiles.StreamedModel):
        def close(self):
            found.append(self.window.stats().peak_bytes)
            super().close()

    monkeypatch.setattr(profiles, "StreamedModel", Watched)
    return found


@pytest.mark.parametrize(("blocks", "readers"), [(1, [1]), (2, [1]), (3, [1, 2]), (0, [1, 2, 4, 6])])
def test_measures_within_the_memory_that_is_given_and_once(directory, native, peaks, blocks, readers):
    largest = smallest_budget([file.bytes for file in directory.order()])
    found = profiles.profile(native, directory, most_bytes=blocks * largest)
    assert sorted(found.bytes_per_s) == readers
    assert min(found.bytes_per_s.values()) > 0.0
    assert 0 < max(peaks) <= (blocks * largest or huge_pages(7 * largest))
    peaks.clear()
    assert profiles.profile(native, directory, most_bytes=blocks * largest) == found
    assert peaks == []


def test_what_was_measured_without_a_limit_serves_a_small_budget(directory, native, peaks):
    found = profiles.profile(native, directory)
    peaks.clear()
    assert profiles.profile(native, directory, most_bytes=1 << 20) == found
    assert peaks == []
