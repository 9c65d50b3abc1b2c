# SPDX-License-Identifier: Apache-2.0
"""What a model's blocks take on this board to read and to compute; measured once and kept in the model cache."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_nodes import models
from edge_nodes.language.blocks.directory import INDEX, BlockDirectory
from edge_nodes.language.blocks.streamed_model import StreamedModel
from edge_nodes.paging.measure import read_rates
from edge_nodes.paging.plan import READERS, Plan, Profile, Run, calibrate
from edge_nodes.paging.window import whole_pages

STEPS = 4  # of each number of readers


def profile(
    model: Any,
    directory: BlockDirectory,
    progress: Callable[[str], None] = lambda _: None,
    *,
    direct: bool = True,
    fresh: bool = False,
) -> Profile:
    """Return the profile of a model on this board.

    Args:
        model: the native model of the directory's sizes; it runs a few steps at the first positions.
        directory: the blocks.
        progress: called with one line of text.
        direct: whether blocks are read past the page cache.
        fresh: measure again.
    """
    path = _path(model, directory, direct)
    if not fresh and (found := _read(path)) is not None:
        return found
    progress("measuring this board: reading and computing the model's blocks")
    order = directory.order()
    sizes = tuple(file.bytes for file in order)
    one, several = max(map(whole_pages, sizes)), max(sum(sizes) // 4, (READERS[-1] + 1) * max(map(whole_pages, sizes)))
    measured, uses, rests = [], [], []
    for readers, budget in ((1, several), (1, one), *((m, several) for m in READERS[1:])):
        steps = _steps(model, directory, Plan(budget, readers, (), Run(0.0, 0.0, 0)), direct)
        measured.append((readers, budget, float(np.median([took for took, _, _ in steps]))))
        uses += [use for _, use, _ in steps]
        rests += [rest for _, _, rest in steps]
    use_s = tuple(float(x) for x in np.median(uses, 0))
    wait_s = (*[0.0] * (len(order) - 1), float(np.median(rests)))
    alone = Profile(sizes, use_s, wait_s, read_rates(order, READERS, direct=direct))
    found = calibrate(alone, measured)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(found)) + "\n")
    return found


def _steps(model: Any, directory: BlockDirectory, chosen: Plan, direct: bool) -> list[tuple[float, list[float], float]]:
    """Return time, use of each block, and the rest, of some steps."""
    found = []
    streamed = StreamedModel(model, directory, chosen, direct=direct)
    try:
        streamed.probe(0)
        for position in range(1, STEPS + 1):
            streamed.window.clear_stats()
            begin = time.perf_counter()
            streamed.probe(position)
            took, stats = time.perf_counter() - begin, streamed.window.stats()
            uses = [streamed.window.native.times(i)[1] / 1e9 for i in range(len(directory.order()))]
            found.append((took, uses, max(0.0, took - stats.use_s - stats.stall_s)))
    finally:
        streamed.close()
    return found


def _path(model: Any, directory: BlockDirectory, direct: bool) -> Path:
    about = [models.sha256(directory.folder / INDEX), str(directory.folder), platform.node(), platform.machine()]
    about += [str(model.kernel), str(model.threads), str(direct)]
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
