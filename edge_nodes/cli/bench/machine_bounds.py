# SPDX-License-Identifier: Apache-2.0
"""What this machine's instructions and memory allow one token of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def token_bounds(engine: Any, path: Path, threads: int, *, part: str = "") -> tuple[float, float]:
    """Return the seconds of a token's int8 products, and those of reading all weights once, at this machine's best.

    Args:
        engine: the model as loaded.
        path: its GGUF file.
        threads: that work.
        part: what the names of the matrices that are multiplied begin with; empty: all.
    """
    from edge_nodes.language.gguf_file import GgufFile
    from edge_nodes.native import _kernels as native

    matrices = (t for t in GgufFile(path).tensors.values() if len(t.shape) == 2 and t.name.startswith(part))
    macs = sum(int(np.prod(t.shape)) for t in matrices)
    peak = native.product_peak(engine.kernel, threads, 3)
    memory = native.memory_bandwidth(engine.kernel, threads, 1)
    return macs / peak, engine.model.weight_bytes / memory
