# SPDX-License-Identifier: Apache-2.0
"""The command `edge-nodes`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(args: list[str] | None = None) -> None:
    """Run `edge-nodes`; every error of the package is one line and exit code 1.

    Args:
        args: command line, sys.argv by default.
    """
    from rich.console import Console

    from edge_nodes.cli.app import app
    from edge_nodes.errors import EdgeNodesError

    words = sys.argv[1:] if args is None else args
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(words, prog_name="edge-nodes")
    except EdgeNodesError as error:
        if debug:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        sys.exit(1)
