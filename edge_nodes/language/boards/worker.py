# SPDX-License-Identifier: Apache-2.0
"""A board that takes part in the steps of a master."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edge_nodes.errors import EdgeNodesError
from edge_nodes.language.blocks.directory import BlockDirectory
from edge_nodes.language.blocks.streamed_model import StreamedModel
from edge_nodes.language.boards.join import await_verdict, make_link, open_store
from edge_nodes.language.boards.link import BoardError, Link

STEP, COPY, TRUNCATE, PING, STOP = range(5)
SEGMENTS = 256  # most of a step
SILENCE_S = 60.0  # how long a worker waits for a master that pings
_LENGTH = 4 + 3 * SEGMENTS  # kind, step, tokens, segments, then (slot, first, count) of each

MakeModel = Callable[[Mapping[str, Any]], StreamedModel]


def header(kind: int, step: int, tokens: int, segments: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Return what the master says before a step: positions, never tokens."""
    found = np.zeros(_LENGTH, np.int64)
    found[:4] = kind, step, tokens, len(segments)
    found[4 : 4 + 3 * len(segments)] = np.reshape(segments, -1)
    return found


def serve(
    directory: BlockDirectory,
    make: MakeModel,
    *,
    address: str,
    port: int,
    progress: Callable[[str], None] = lambda _: None,
    once: bool = False,
) -> None:
    """Be a worker: join the master's groups and take part in its steps.

    Args:
        directory: this board's shard, hashes checked.
        make: makes its model of the master's settings {context_tokens, slots, kv_cache}.
        address: of the master.
        port: of its store.
        progress: called with one line of text at each change.
        once: return when the master ends, instead of waiting for the next.

    Raises:
        LanguageError: the master refuses this board.
    """
    torch.set_num_threads(1)
    worker = _Worker(directory, make, progress)
    rank, ranks = (int(directory.index["shard"][key]) for key in ("rank", "ranks"))
    try:
        while True:
            try:
                worker.follow(open_store(address, port, rank, ranks, patience_s=10.0))
            except (BoardError, RuntimeError) as error:
                progress(f"no master: {str(error).splitlines()[0]}")
            if once and worker.joined:
                return
    finally:
        worker.close()


class _Worker:
    """A shard, and its model once a master has said what it must be like."""

    def __init__(self, directory: BlockDirectory, make: MakeModel, progress: Callable[[str], None]) -> None:
        self.joined = False
        self._directory, self._make, self._progress = directory, make, progress
        self._model: StreamedModel | None = None
        self._settings: Mapping[str, Any] = {}

    def follow(self, store: Any) -> None:
        """Take part in one generation after the other until the master ends."""
        generation = -1
        while True:
            generation, said = await_verdict(store, self._directory, generation)
            model = self._model_of(said["settings"])
            link = None
            try:
                link = make_link(store, generation, self._directory, said["options"])
                self.joined = True
                self._progress(f"rank {link.rank} of {link.ranks}: latency {1e3 * link.network.latency_s:.2f} ms")
                model.set_reducer(link.reduce)
                _take_part(link, model, int(self._directory.sizes["width"]))
                return
            except (EdgeNodesError, IndexError, ValueError) as error:
                self._progress(str(error))
            finally:
                model.set_reducer(None)
                if link is not None:
                    link.close()

    def close(self) -> None:
        """Free the model."""
        if self._model is not None:
            self._model.close()
        self._model = None

    def _model_of(self, settings: Mapping[str, Any]) -> StreamedModel:
        if self._model is None or settings != self._settings:
            self.close()
            self._model, self._settings = self._make(settings), settings
        return self._model


def _take_part(link: Link, model: StreamedModel, width: int) -> None:
    """Do the master's steps until it says stop."""
    said = header(PING, 0, 0, [])
    states = np.zeros((int(model.batch), width), np.float32)
    while True:
        link.receive(said, 0, patience_s=SILENCE_S)
        kind, link.step, tokens, count = (int(x) for x in said[:4])
        numbers = [int(x) for x in said[4 : 4 + 3 * count]]
        if kind == STEP:
            link.receive(states[:tokens], 0)
            model.forward_states(states[:tokens], [tuple(numbers[i : i + 3]) for i in range(0, 3 * count, 3)])
        elif kind == COPY:
            model.copy_cache(*numbers[:4])
        elif kind == TRUNCATE:
            model.truncate_cache(*numbers[:2])
        elif kind == PING:
            link.measure_again()
        elif kind == STOP:
            return
