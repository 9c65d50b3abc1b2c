# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes worker`: this board's part in a model that several boards share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_nodes.errors import ParameterError
from edge_nodes.language.blocks.directory import BlockDirectory


def work(
    console: Console, folder: Path, *, master: str, port: int, threads: int, memory_budget_mb: int, once: bool
) -> None:
    """Take part until a signal says stop.

    Raises:
        EdgeNodesError: the shard is damaged or not one, or the master refuses it.
    """
    from edge_nodes.language.blocks.streaming import stream
    from edge_nodes.language.boards.worker import serve
    from edge_nodes.language.engine import make_model

    directory = BlockDirectory(shard_of(folder))
    shard = directory.index.get("shard")
    if not shard or shard["rank"] == 0:
        raise ParameterError("not a worker's shard", got=directory.folder, expected="one of rank 1 or more")

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    def make(settings: Mapping[str, Any]) -> Any:
        native = make_model(directory.sizes, threads=threads, kernel="auto", **settings)
        return stream(directory, native, memory_budget_mb=memory_budget_mb, progress=say)

    say(f"checking {directory.folder}")
    directory.verify()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    say(f"rank {shard['rank']} of {shard['ranks']}: waiting for {master}:{port}")
    serve(directory, make, address=master, port=port, stopped=ended.is_set, progress=say, once=once)


def shard_of(folder: Path) -> Path:
    """Return the shard in a directory of shards that the environment's RANK names, or the directory itself."""
    ranked = folder / f"rank-{os.environ.get('RANK', '')}"
    return ranked if ranked.is_dir() else folder
