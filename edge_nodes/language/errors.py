# SPDX-License-Identifier: Apache-2.0
"""Errors of the language domain."""

from __future__ import annotations

from edge_nodes.errors import EdgeNodesError


class LanguageError(EdgeNodesError):
    """A model file, a prompt or a request that the language model cannot work with."""
