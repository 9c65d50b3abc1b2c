# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with bags and messages."""

from __future__ import annotations

from edge_nodes.errors import EdgeNodesError


class BagError(EdgeNodesError):
    """A bag is missing, damaged or empty, or a message does not fit its type."""
