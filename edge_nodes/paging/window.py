# SPDX-License-Identifier: Apache-2.0
"""Blocks read ahead in order within a budget of bytes (PIPELOAD, arXiv 2409.04249; window of TPI-LLM, 2410.00531)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_nodes.errors import ModelError, State
from edge_nodes.paging.files import PAGE

HUGE_PAGE = 1 << 21
Load = Callable[[int, memoryview], None]


@dataclass(frozen=True)
class WindowStats:
    """What a window did since its counters were cleared.

    Attributes:
        loads, bytes_read: blocks read, and their bytes.
        load_s: time spent reading, of all threads together.
        stall_s: time that the user waited for blocks.
        use_s: time between acquire and release.
        held_bytes, peak_bytes: memory of blocks now and at most, with that kept for the next ones.
        peak_blocks: most blocks in memory that are not pinned.
    """

    loads: int
    bytes_read: int
    load_s: float
    stall_s: float
    use_s: float
    held_bytes: int
    peak_bytes: int
    peak_blocks: int


def whole_pages(size: int) -> int:
    """Return what a block of `size` bytes takes."""
    return -(-size // PAGE) * PAGE


def huge_pages(size: int) -> int:
    """Return `size` in whole huge pages."""
    return -(-size // HUGE_PAGE) * HUGE_PAGE


def smallest_budget(sizes: Sequence[int], pinned: Collection[int] = ()) -> int:
    """Return the least bytes that blocks can be used in: the pinned ones and the largest other one."""
    pages = [whole_pages(size) for size in sizes]
    others = [p for i, p in enumerate(pages) if i not in pinned]
    return sum(pages[i] for i in pinned) + max(others, default=0)


def huge_page_budget(sizes: Sequence[int]) -> int:
    """Return the least bytes in which blocks can be used and all are read into huge pages, which is faster."""
    return min(huge_pages(smallest_budget(sizes)), sum(map(whole_pages, sizes)))


class BlockWindow:
    """A window over blocks, for one thread that uses them in cyclic order.

    A block is admitted only after all before it and only if it fits the budget, so that no budget deadlocks; it is
    freed when it is released.

    Args:
        sizes: bytes of each block, in the order of use.
        source: a file for each block, or a function (index, memory) that fills the memory; called by several threads.
        budget_bytes: most memory of blocks; see `smallest_budget`.
        readers: loading threads.
        pinned: blocks that stay once they are read.
        window: most blocks in memory that are not pinned; 0: only the budget counts.
        cyclic: read on from the last block to the first; else only when the first is asked for.
        deadline_s: longest wait for a block.
        direct: read files past the page cache, or drop them from it; False: leave them there.

    Raises:
        ModelError: OUT_OF_MEMORY, the budget is too small for any block, or more than the system gives.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        source: Sequence[Path] | Load,
        *,
        budget_bytes: int,
        readers: int = 1,
        pinned: Collection[int] = (),
        window: int = 0,
        cyclic: bool = True,
        deadline_s: float = 60.0,
        direct: bool = True,
    ) -> None:
        from edge_nodes.native import _kernels

        if budget_bytes < (least := smallest_budget(sizes, pinned)):
            raise ModelError(
                "the budget is too small for the blocks",
                got=f"{budget_bytes} bytes",
                expected=f"at least {least} bytes",
                state=State.OUT_OF_MEMORY,
            )
        self._error: type[Exception] = _kernels.BlockError
        try:
            self.native: Any = _kernels.BlockWindow(
                list(sizes),
                source if callable(source) else [str(path) for path in source],
                budget=budget_bytes,
                readers=readers,
                pinned=sorted(pinned),
                window=window,
                cyclic=cyclic,
                deadline_s=deadline_s,
                direct=direct,
            )
        except MemoryError as error:
            what, remedy = "no memory for the blocks", "Lower the budget."
            raise ModelError(what, got=f"{budget_bytes} bytes", remedy=remedy, state=State.OUT_OF_MEMORY) from error

    def __enter__(self) -> BlockWindow:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def acquire(self, index: int) -> memoryview:
        """Return the memory of the next block, which must be `index`; waits until it is read.

        Raises:
            ModelError: MODEL_BAD, the block cannot be read, not within the deadline, or the window is closed.
            IndexError: it is not the next one.
        """
        with self.errors():
            found: memoryview = self.native.acquire(index)
            return found

    def release(self, index: int) -> None:
        """Free the block that was acquired, unless it is pinned."""
        self.native.release(index)

    def restart(self) -> None:
        """Begin again at block 0, after an error or in the middle of a pass."""
        with self.errors():
            self.native.restart()

    def close(self) -> None:
        """End the threads; whoever waits for a block gets an error."""
        self.native.close()

    def stats(self) -> WindowStats:
        """Return the counters."""
        s = self.native.stats()
        times = {f"{k}_s": s[f"{k}_ns"] / 1e9 for k in ("load", "stall", "use")}
        counts = {k: s[k] for k in ("loads", "bytes_read", "held_bytes", "peak_bytes", "peak_blocks")}
        return WindowStats(**counts, **times)

    def clear_stats(self) -> None:
        """Set the counters to zero, the peaks to what is held."""
        self.native.clear_stats()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the native side raises about blocks into a ModelError."""
        try:
            yield
        except self._error as error:
            remedy = "Check the disk, or convert the model again: edge-nodes models convert."
            raise ModelError("a block cannot be had", got=error, remedy=remedy, state=State.MODEL_BAD) from error
