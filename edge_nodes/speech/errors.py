# SPDX-License-Identifier: Apache-2.0
"""Errors of the speech domain."""

from __future__ import annotations

from edge_nodes.errors import EdgeNodesError


class SpeechError(EdgeNodesError):
    """Audio that cannot be used, or a missing audio device."""
