# SPDX-License-Identifier: Apache-2.0
"""How fast this board reads blocks, for the planner."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edge_nodes.paging.files import BlockFile
from edge_nodes.paging.window import BlockWindow, whole_pages

LEAST_S = 0.25  # a measurement takes at least this long


def read_rates(files: Sequence[BlockFile], readers: Sequence[int], *, direct: bool = True) -> dict[int, float]:
    """Return {readers: bytes read a second by that many at once}, measured on the blocks themselves.

    Args:
        files: the blocks.
        readers: numbers of loading threads.
        direct: past the page cache, as a window reads.
    """
    return {m: _rate(files, m, direct) for m in readers}


def _rate(files: Sequence[BlockFile], readers: int, direct: bool) -> float:
    sizes = [file.bytes for file in files]
    budget = (readers + 1) * max(map(whole_pages, sizes))
    paths = [file.path for file in files]
    with BlockWindow(sizes, paths, budget_bytes=budget, readers=readers, direct=direct) as window:
        _pass(window, len(sizes))  # the first has its memory still to be made
        begin, passes, seconds = time.perf_counter(), 0, 0.0
        while seconds < LEAST_S:
            _pass(window, len(sizes))
            passes, seconds = passes + 1, time.perf_counter() - begin
    return sum(sizes) * passes / seconds


def _pass(window: BlockWindow, blocks: int) -> None:
    for index in range(blocks):
        window.acquire(index)
        window.release(index)
