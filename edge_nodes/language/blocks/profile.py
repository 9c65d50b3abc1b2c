# SPDX-License-Identifier: Apache-2.0
"""What a model's blocks take on this board to read and to compute; measured once and kept in the model cache."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

from edge_nodes import models
from edge_nodes.language.blocks.directory import INDEX, BlockDirectory
from edge_nodes.language.blocks.streamed_model import StreamedModel
from edge_nodes.paging.calibration import Step, fit
from edge_nodes.paging.plan import READERS, Plan, Profile, Run
from edge_nodes.paging.window import huge_page_budget, huge_pages, whole_pages

ROUNDS = 3  # of a measurement
STEPS = 2  # that are timed of each number of readers, in a round


def profile(
    model: Any,
    directory: BlockDirectory,
    progress: Callable[[str], None] = lambda _: None,
    *,
    direct: bool = True,
    fresh: bool = False,
    most_bytes: int = 0,
) -> Profile:
    """Return the profile of a model on this board.

    Args:
        model: the native model of the directory's sizes; it runs a few steps at the first positions.
        directory: the blocks.
        progress: called with one line of text.
        direct: whether blocks are read past the page cache.
        fresh: measure again.
        most_bytes: memory of blocks meanwhile; what would take more is not measured, and fewer readers are as good as
            more then. 0: no limit.
    """
    slow = 0 < most_bytes < huge_page_budget([file.bytes for file in directory.order()])
    for most in () if fresh else (most_bytes,) if slow else (0, most_bytes):
        if (kept := _read(_path(model, directory, direct, most))) is not None:
            return kept
    progress("measuring this board: reading and computing the model's blocks")
    profiler = Profiler(model, directory, direct=direct, most_bytes=most_bytes)
    for _ in range(ROUNDS):
        profiler.measure()
    found = profiler.fit()
    keep(found, model, directory, direct=direct, most_bytes=most_bytes)
    return found


def keep(found: Profile, model: Any, directory: BlockDirectory, *, direct: bool = True, most_bytes: int = 0) -> None:
    """Make a profile the one that `profile` returns from now on."""
    path = _path(model, directory, direct, most_bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(found)) + "\n")


class Profiler:
    """Measures in turns, so that what is to be predicted can run in between: what a disk gives drifts.

    Readers have room for as many blocks as they read at once and one in use, as in a plan whose other blocks stay. One
    reader with room for one block tells what a hand-over costs.

    Args:
        model: see `profile`.
        directory: the blocks.
        direct: whether blocks are read past the page cache.
        most_bytes: memory of blocks, see `profile`.
    """

    def __init__(self, model: Any, directory: BlockDirectory, *, direct: bool = True, most_bytes: int = 0) -> None:
        self._model, self._directory, self._direct = model, directory, direct
        self._sizes = tuple(file.bytes for file in directory.order())
        self._steps: dict[tuple[int, int], list[Step]] = {arm: [] for arm in _arms(self._sizes, most_bytes)}
        self._turns = cycle(tuple(self._steps))

    @property
    def arms(self) -> int:
        """How many combinations of readers and memory are measured."""
        return len(self._steps)

    def measure(self) -> None:
        """Run a few steps of every arm."""
        for _ in range(self.arms):
            self.measure_next()

    def measure_next(self) -> None:
        """Run a few steps of the arm whose turn it is."""
        readers, room = next(self._turns)
        plan = Plan(room, readers, (), Run(0.0, 0.0, 0))
        streamed = StreamedModel(self._model, self._directory, plan, direct=self._direct)
        try:
            streamed.probe(0)
            blocks = len(self._sizes)
            self._steps[readers, room] += [_step(streamed, position, blocks) for position in range(1, STEPS + 1)]
        finally:
            streamed.close()

    def fit(self) -> Profile:
        """Return what agrees best with all steps so far; every arm must have had its turn."""
        return fit(self._sizes, self._steps)


def _arms(sizes: Sequence[int], most_bytes: int) -> list[tuple[int, int]]:
    """Return the (readers, bytes of blocks) that fit; one reader with the least bytes always does."""
    largest, most = max(map(whole_pages, sizes)), most_bytes or sys.maxsize
    rooms = [(readers, (readers + 1) * largest) for readers in READERS]
    ahead = [(readers, min(huge_pages(room), most)) for readers, room in rooms if room <= most]
    return [(1, min(huge_page_budget(sizes), most)), *ahead]


def _step(streamed: StreamedModel, position: int, blocks: int) -> Step:
    streamed.window.clear_stats()
    begin = time.perf_counter()
    streamed.probe(position)
    took, stats = time.perf_counter() - begin, streamed.window.stats()
    uses = tuple(streamed.window.native.times(i)[1] / 1e9 for i in range(blocks))
    return Step(took, uses, stats.load_s, max(0.0, took - stats.use_s - stats.stall_s))


def _path(model: Any, directory: BlockDirectory, direct: bool, most_bytes: int) -> Path:
    about = [models.sha256(directory.folder / INDEX), str(directory.folder), platform.node(), platform.machine()]
    about += [str(model.kernel), str(model.threads), str(direct)]
    about += [str(_arms([file.bytes for file in directory.order()], most_bytes))]
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()
    return models.cache_dir() / "profiles" / f"{directory.name}-{digest[:16]}.json"


def _read(path: Path) -> Profile | None:
    try:
        values = json.loads(path.read_text())
        rates = {int(m): float(rate) for m, rate in values["bytes_per_s"].items()}
        times = {name: tuple(values[name]) for name in ("sizes", "use_s", "wait_s")}
        return Profile(**times, bytes_per_s=rates, handover_s=float(values["handover_s"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
