# SPDX-License-Identifier: Apache-2.0
"""Point clouds to bird's-eye-view maps, through two networks, to a scene a robot can act on."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "BevConfig": "config",
    "CLASSES": "config",
    "COLOURS": "config",
    "ReconstructionConfig": "config",
    "SceneConfig": "config",
    "SegmentationConfig": "config",
    "PerceptionError": "errors",
    "Cloud": "cloud",
    "decode": "cloud",
    "BevHistory": "history",
    "BevMap": "bev",
    "bev_map": "bev",
    "Ground": "ground",
    "GroundEstimator": "ground",
    "Segmenter": "segmentation",
    "Reconstructor": "reconstruction",
    "SceneBuilder": "scene",
    "SceneState": "scene",
}
__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and scipy stay out until then."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
