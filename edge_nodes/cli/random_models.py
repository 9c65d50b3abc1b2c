# SPDX-License-Identifier: Apache-2.0
"""Files of random weights that benchmarks run on, made once and kept."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from edge_nodes import models
from edge_nodes.language.synthetic import Shape, write_model


def random_model(console: Console, shape: Shape, *, head: str = "Q6_K") -> Path:
    """Return the file of a model of random ternary weights; writes it if it is not there yet.

    Args:
        console: for progress.
        shape: sizes.
        head: type of the embeddings.
    """
    sizes = f"{shape.architecture}-{shape.layers}x{shape.width}x{shape.hidden}-{shape.vocabulary}-words"
    path = models.cache_dir() / ".bench" / f"random-{sizes}-tq2_0-head-{head.lower()}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with console.status(f"random weights: {path}"):
            write_model(path, shape, head=head)
    return path
