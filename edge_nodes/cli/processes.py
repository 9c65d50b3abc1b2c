# SPDX-License-Identifier: Apache-2.0
"""Measuring in processes of their own, and what a core can do at best."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from edge_nodes.cli.figures import DataError
from edge_nodes.cli.memory_group import MemoryGroup
from edge_nodes.errors import EdgeNodesError

TIMEOUT_S = 240.0


class BenchError(DataError):
    """A measurement did not come to its end."""


def peak_gflop_s(precision: str = "float32") -> float:
    """Return the most that one thread reaches here in a torch dtype: a matrix product or a convolution."""
    import torch

    n, channels, side = 1024, 128, 64
    dtype, last = getattr(torch, precision), torch.channels_last
    a, b = torch.randn(2, n, n).to(dtype)
    maps = torch.randn(1, channels, side, side).to(dtype=dtype, memory_format=last)
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1).to(dtype=dtype, memory_format=last)  # type: ignore[call-overload]
    with torch.inference_mode():
        product = 2 * n**3 / min(seconds(torch.mm, a, b) for _ in range(12))
        convolved = 18 * channels**2 * side**2 / min(seconds(convolution, maps) for _ in range(30))
    return float(max(product, convolved) / 1e9)


def seconds(work: Callable[..., Any], *args: Any) -> float:
    """Return how long a call takes."""
    begin = time.perf_counter()
    work(*args)
    return time.perf_counter() - begin


def answer(results: Any, work: Callable[..., Any], *args: Any) -> None:
    """Put what `work` returns, or its error, into a queue; runs in the other process."""
    try:
        results.put(work(*args))
    except Exception as error:  # noqa: BLE001  # told to the parent, which raises
        results.put(error)


def in_process(work: Callable[..., dict[str, Any]], *args: Any, group: MemoryGroup | None = None) -> dict[str, Any]:
    """Return what `work` returns in a process of its own, in a control group if one is given."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=answer, args=(results, work, *args))
    with group.hosting() if group else nullcontext():
        process.start()
    found: dict[str, Any] = received(results, [process])
    process.join()
    return found


def received(results: Any, processes: list[Any]) -> Any:
    """Return the next answer of one of the processes.

    Raises:
        EdgeNodesError: what one of them raised, or that one ended without an answer.
    """
    begin, found = time.monotonic(), None
    while found is None:
        try:
            found = results.get(timeout=1.0)
        except queue.Empty:
            dead = [p.exitcode for p in processes if p.exitcode]
            if dead or time.monotonic() - begin > TIMEOUT_S:
                found = BenchError("a measuring process gave no answer", got=f"exit codes {dead}")
    if isinstance(found, Exception):
        for process in processes:
            process.terminate()
        raise found if isinstance(found, EdgeNodesError) else BenchError("measuring failed", got=repr(found))
    return found
