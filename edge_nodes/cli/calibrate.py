# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes models calibrate`: thresholds of delta attention for a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from edge_nodes import models
from edge_nodes.cli.figures import DataError, show_table
from edge_nodes.language import load
from edge_nodes.language.attention import Calibration, calibration_path, model_hash
from edge_nodes.language.delta.calibration import calibrate as calibrate_model
from edge_nodes.language.evaluation.tasks import read_whole


def calibrate(
    console: Console,
    model: str,
    text: Path,
    *,
    out: Path | None,
    budget: float,
    window_scale: float,
    sink: int,
    per: str,
    skip: float,
) -> Path:
    """Calibrate a model and return where the thresholds are kept.

    Args:
        console: for progress.
        model: installed name or path of a GGUF file.
        text: UTF-8, or gzip of it.
        out: file to write; None for the model's own place.
        budget: largest increase of perplexity, a share.
        window_scale: as it will be used.
        sink: as it will be used.
        per: "channel" or "head": what has a threshold of its own.
        skip: share of the text that is left out at the beginning.

    Raises:
        EdgeNodesError: no such model, or a text that cannot be used.
    """
    if per not in ("channel", "head"):
        raise DataError("--per must be one of two words", got=per, expected="channel or head")
    path = models.find(model, verify=False).path
    with console.status("loading") as status:
        engine = load(model, context_tokens=1024)
        words = read_whole(text)
        tokens = engine.tokenizer.encode(words[int(skip * len(words)) :], special=False)
        levels, chosen = calibrate_model(
            engine,
            tokens,
            output_weights(path),
            budget=budget,
            window_scale=window_scale,
            sink=sink,
            shared=per == "head",
            progress=status.update,
        )
    found = Calibration(model_hash(path), window_scale, sink, tuple(levels), chosen)
    where = out or calibration_path(path)
    found.write(where)
    rows = [
        (f"{x['sparsity']:.3f}", f"{x['increase']:+.2%}", "chosen" if i == chosen else "") for i, x in enumerate(levels)
    ]
    show_table(console, "", ("sparsity", "perplexity", ""), rows)
    console.print(f"thresholds: {where}", highlight=False, soft_wrap=True)
    return where


def output_weights(path: Path) -> Callable[[int], npt.NDArray[np.float32]]:
    """Return the function from a layer to its output projection, float32 (width, heads * head_dim)."""
    import gguf

    from edge_nodes.language.gguf_file import PACKED, GgufFile
    from edge_nodes.native import _kernels as native

    file = GgufFile(path)

    def of_layer(layer: int) -> npt.NDArray[np.float32]:
        tensor: Any = file.tensors[f"blk.{layer}.attn_output.weight"]
        kind, cols = tensor.tensor_type.name, int(tensor.shape[0])
        if kind in PACKED:
            return np.asarray(
                native.Matrix(kind, tensor.data, cols, getattr(tensor, "scale", 1.0)).to_float()[:, :cols]
            )
        return np.ascontiguousarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)

    return of_layer
