# SPDX-License-Identifier: Apache-2.0
"""The error of the perception domain."""

from __future__ import annotations

from edge_nodes.errors import EdgeNodesError


class PerceptionError(EdgeNodesError):
    """A cloud, a map or a device that perception cannot use."""
