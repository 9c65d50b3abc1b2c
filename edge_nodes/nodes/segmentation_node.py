# SPDX-License-Identifier: Apache-2.0
"""segmentation_node: see its entry in graph.py."""

from __future__ import annotations

from edge_nodes.nodes.running import run


def main() -> None:
    """Run the node."""
    run("segmentation_node")


if __name__ == "__main__":
    main()
