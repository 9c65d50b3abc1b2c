# SPDX-License-Identifier: Apache-2.0
"""How `edge-nodes bench` and `edge-nodes eval` call what they name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from rich.console import Console


def report(module: str, function: str, as_json: Path | None, *data: Any, **options: Any) -> None:
    """Print the figures a function of `edge_nodes.cli.<module>` returns, and write them if a file is named.

    The module is imported only now, as it is heavy; its `show` prints.
    """
    from edge_nodes.cli import figures

    command, console = importlib.import_module(f"edge_nodes.cli.{module}"), Console()
    found = getattr(command, function)(console, *data, **options)
    command.show(console, found)
    figures.write(console, as_json, found)
