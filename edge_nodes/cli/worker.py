# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes worker`: this board's part in a model that several boards share."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_nodes.errors import ParameterError
from edge_nodes.language.blocks.directory import BlockDirectory

ENDING_S = 0.2  # for a thread that is just done


def work(
    console: Console, folder: Path, *, master: str, port: int, threads: int, memory_budget_mb: int, once: bool
) -> None:
    """Take part until a signal says stop, which ends the process.

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
    say(f"rank {shard['rank']} of {shard['ranks']}: waiting for {master}:{port}")
    _until_signal(lambda: serve(directory, make, address=master, port=port, progress=say, once=once))


def _until_signal(serve: Callable[[], None]) -> None:
    """Run `serve` beside the main thread, as no signal reaches a thread that waits in gloo; raises what it raises."""
    ended, errors = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            serve()
        except BaseException as error:  # noqa: BLE001  # raised again by the main thread
            errors.append(error)
        ended.set()

    serving = threading.Thread(target=run, name="worker", daemon=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    serving.start()
    ended.wait()
    if errors:
        raise errors[0]
    serving.join(ENDING_S)
    if serving.is_alive():  # within gloo or a step: nothing is lost by leaving it there
        sys.stdout.flush()
        os._exit(0)


def shard_of(folder: Path) -> Path:
    """Return the shard in a directory of shards that the environment's RANK names, or the directory itself."""
    ranked = folder / f"rank-{os.environ.get('RANK', '')}"
    return ranked if ranked.is_dir() else folder
