# SPDX-License-Identifier: Apache-2.0
"""Calling the command as a shell does."""

from __future__ import annotations

import pytest

from edge_nodes.cli import main


@pytest.fixture(scope="session")
def run():
    """A function that runs `edge-nodes` with words, of which it makes texts, and returns the exit code."""

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        return end.value.code

    return call
