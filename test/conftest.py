# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the repository's and the shared data's places."""

from __future__ import annotations

import os
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
