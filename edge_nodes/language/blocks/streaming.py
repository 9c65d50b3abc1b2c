# SPDX-License-Identifier: Apache-2.0
"""Opening a model from blocks within a memory budget: convert once, profile once, plan, stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_nodes import models
from edge_nodes.errors import State
from edge_nodes.language.blocks.directory import BlockDirectory, is_block_directory
from edge_nodes.language.blocks.profile import profile
from edge_nodes.language.blocks.streamed_model import StreamedModel, reserve
from edge_nodes.language.errors import LanguageError
from edge_nodes.paging.plan import READERS, Plan, Run, plan
from edge_nodes.paging.window import smallest_budget, whole_pages


def open_streamed(
    path: str | Path,
    make: Callable[[Mapping[str, Any], float], Any],
    *,
    memory_budget_mb: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[StreamedModel, dict[str, Any], str]:
    """Return a model within a budget, the metadata its tokenizer needs, and its name.

    Args:
        path: a block directory, or the name or path of a GGUF model, which is converted into the model cache first.
        make: makes a native model of (sizes, longest context).
        memory_budget_mb: most memory of weights, key/value cache and work space, MiB; 0: all weights stay.
        progress: called with one line of text at each step.

    Raises:
        ModelError: a file is missing or damaged.
        LanguageError: OUT_OF_MEMORY, the budget is too small; it says what would do.
    """
    directory = BlockDirectory(block_directory(path, progress))
    metadata = directory.metadata
    model = make(directory.sizes, context_limit(metadata))
    return stream(directory, model, memory_budget_mb=memory_budget_mb, progress=progress), metadata, directory.name


def stream(
    directory: BlockDirectory,
    model: Any,
    *,
    memory_budget_mb: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> StreamedModel:
    """Return a native model of the directory's sizes with its weights, within a budget; see `open_streamed`."""
    reserve(model, directory)
    sizes = [file.bytes for file in directory.order()]
    total = sum(map(whole_pages, sizes))
    budget = blocks_budget(model, sizes, memory_budget_mb) if memory_budget_mb else total
    if budget >= total:
        return StreamedModel(model, directory, Plan(total, READERS[1], tuple(range(len(sizes))), Run(0.0, 0.0, 0)))
    progress("planning the memory budget")
    return StreamedModel(model, directory, plan(profile(model, directory, progress, most_bytes=budget), budget))


def context_limit(metadata: Mapping[str, Any]) -> float:
    """Return the most tokens that a model was made for."""
    return float(metadata.get(f"{metadata['general.architecture']}.context_length", float("inf")))


def blocks_budget(model: Any, sizes: Sequence[int], memory_budget_mb: int) -> int:
    """Return the bytes that a budget leaves to blocks.

    Raises:
        LanguageError: OUT_OF_MEMORY, too few for one block.
    """
    fixed = int(model.cache_bytes) + int(model.work_bytes)
    if (memory_budget_mb << 20) - fixed < (least := smallest_budget(sizes)):
        raise LanguageError(
            "memory_budget_mb is too small for this model",
            got=f"{memory_budget_mb} MiB",
            expected=f"at least {-(-(least + fixed) >> 20)} MiB",
            remedy=f"The key/value cache and work space take {fixed / 2**20:.0f} MiB: lower context_tokens.",
            state=State.OUT_OF_MEMORY,
        )
    return (memory_budget_mb << 20) - fixed


def block_directory(path: str | Path, progress: Callable[[str], None]) -> Path:
    """Return the block directory of a model; one of a GGUF model is made in the model cache at the first time.

    Raises:
        ModelError: there is no such model.
        LanguageError: MODEL_BAD, it cannot be used.
    """
    if is_block_directory(path):
        return Path(path)
    from edge_nodes.language.blocks.convert import convert

    found = models.find(str(path), verify=False)
    digest = str(found.manifest.get("sha256") or models.sha256(found.path))
    folder = models.cache_dir() / "blocks" / f"{found.path.stem}-{digest[:12]}"
    if not is_block_directory(folder):
        progress(f"converting {found.path.name} into {folder}")
        convert(path, folder, dense=True, progress=progress)
    return folder
