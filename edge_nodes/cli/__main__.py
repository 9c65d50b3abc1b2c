# SPDX-License-Identifier: Apache-2.0
"""Lets `python -m edge_nodes.cli` run the command."""

from __future__ import annotations

from edge_nodes.cli import main

if __name__ == "__main__":
    main()
