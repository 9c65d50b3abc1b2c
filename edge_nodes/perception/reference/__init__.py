# SPDX-License-Identifier: Apache-2.0
"""The published Parallel Perception Network (arXiv 2412.18165): its maps, its two networks, its checkpoints.

Built to give the numbers of the authors' checkpoints; the networks the nodes run by default are in
`edge_nodes.perception.networks`.
"""

from __future__ import annotations

from edge_nodes.perception.reference.checkpoint import load
from edge_nodes.perception.reference.maps import MapHistory, bev
from edge_nodes.perception.reference.networks import (
    KINDS,
    ReconstructionNetwork,
    ReferenceNetwork,
    SegmentationNetwork,
    entries,
    legal_size,
)

__all__ = [
    "KINDS",
    "MapHistory",
    "ReconstructionNetwork",
    "ReferenceNetwork",
    "SegmentationNetwork",
    "bev",
    "entries",
    "legal_size",
    "load",
]
