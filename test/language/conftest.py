# SPDX-License-Identifier: Apache-2.0
"""A small random Llama in a GGUF file, and the real model where it is installed."""

from __future__ import annotations

import os
from pathlib import Path

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
