# SPDX-License-Identifier: Apache-2.0
"""Tables of figures."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edge_nodes.cli import figures

COLUMNS = [f"column {i}" for i in range(20)]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_loses_nothing(terminal):
    """In a file each row is one line, however long; a terminal folds what is too wide for it."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, color_system=None)
    figures.show_table(console, "", COLUMNS, [[123456 + i for i in range(20)]])
    figures.show_targets(console, [figures.target("a name " * 12, 1.0, "<", 2.0)])
    text = out.getvalue()
    assert "…" not in text
    if not terminal:
        assert [f"column {word}" for word in text.splitlines()[0].replace("column", "").split()] == COLUMNS
        assert text.splitlines()[1].split() == [f"{123456 + i}" for i in range(20)]
        assert "a name " * 12 in text
