# SPDX-License-Identifier: Apache-2.0
"""A small random Llama in a GGUF file, and the real model where it is installed."""

from __future__ import annotations

import pytest
from small_gguf import write_gguf


@pytest.fixture(scope="session")
def make_model():
    """The function that writes random models."""
    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    return write_gguf


@pytest.fixture(scope="session")
def small_model(make_model, tmp_path_factory):
    """Path of a random Llama with Q8_0 weights."""
    return make_model(tmp_path_factory.mktemp("model") / "small.gguf")


@pytest.fixture(scope="module")
def engine(small_model):
    """Engine of the random Llama."""
    from edge_nodes.language import load

    return load(small_model, context_tokens=256, threads=1)


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    """Engine of SmolLM2-135M."""
    pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")
    from edge_nodes.language import load

    return load(smollm2_path, context_tokens=1024)


@pytest.fixture(scope="session", autouse=True)
def own_kernel_choices(tmp_path_factory):
    """Keep what is measured about small models out of the user's cache."""
    from edge_nodes.language import kernel_choice

    path = tmp_path_factory.mktemp("kernels") / "kernels.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_choice, "cache_file", lambda: path)
        yield
