# SPDX-License-Identifier: Apache-2.0
"""One model over several boards: tensor parallelism with unequal shares (TPI-LLM, arXiv 2410.00531).

Rank 0 has the embedding, the head, sampling and the token ids; the others get hidden states and positions, and every
board adds its share of each block's result. Hidden states can be turned back into tokens: this is not privacy.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_nodes.errors import EdgeNodesError
from edge_nodes.language.blocks.directory import BlockDirectory
from edge_nodes.language.blocks.streamed_model import StreamedModel
from edge_nodes.language.blocks.streaming import context_limit, open_streamed, stream
from edge_nodes.language.boards.join import Master, open_store
from edge_nodes.language.boards.link import BoardError, Link
from edge_nodes.language.boards.worker import COPY, PING, SEGMENTS, STEP, STOP, TRUNCATE, header
from edge_nodes.language.config import BoardsConfig
from edge_nodes.language.errors import LanguageError

PING_S = 15.0  # of a master that has nothing to do
AGAIN_S = 0.5  # how long a request waits for boards that were lost


def shard_directory(folder: Path) -> BlockDirectory:
    """Return rank 0's shard, of the directory itself or of all shards.

    Raises:
        LanguageError: it is not a shard of rank 0.
    """
    directory = BlockDirectory(folder / "rank-0" if (folder / "rank-0").is_dir() else folder)
    shard = directory.index.get("shard")
    if not shard or shard["rank"] != 0:
        raise LanguageError(
            "not the master's part of a model",
            got=directory.folder,
            expected="a directory of shards, or of rank 0",
            remedy="Run: edge-nodes models convert MODEL OUT --shards N.",
        )
    return directory


class BoardsModel:
    """Rank 0's model: does what a model of all weights does, together with the other boards.

    Args:
        model: rank 0's model.
        master: its side of joining.
        join_s: longest wait for the boards at the start.
        deadline_s: of a step; the longest wait for those that answer after one was lost, too.
        alone: makes a model of all weights to carry on with when a board is lost; None: wait for the board.

    Raises:
        BoardError: the boards have not come in time.
    """

    def __init__(
        self,
        model: StreamedModel,
        master: Master,
        *,
        join_s: float,
        deadline_s: float,
        alone: Callable[[], Any] | None = None,
    ) -> None:
        torch.set_num_threads(1)
        self._model, self._master, self._deadline_s, self._make_alone = model, master, deadline_s, alone
        self._alone: Any = None
        self._token_bytes = 4 * model.width
        self._step, self._known = 0, np.zeros(int(model.slots), np.int64)  # positions of each slot on all boards
        self._lock, self._closing = threading.Lock(), threading.Event()
        self.link: Link | None = master.join(join_s)
        model.set_reducer(self._reduce)
        self._pinging = threading.Thread(target=self._ping, name="boards", daemon=True)
        self._pinging.start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._alone or self._model, name)

    def forward(
        self,
        tokens: Any,
        first: int = 0,
        all: bool = False,  # noqa: A002  # as of the native model
        *,
        segments: Sequence[tuple[int, int, int]] = (),
        rows: Sequence[int] | None = None,
    ) -> Any:
        """Run a step, see the native model.

        Raises:
            BoardError: a board is lost; names it and the step. The next request waits for it, or goes on alone.
            LanguageError: a block cannot be read, or a sequence's keys were lost with a board.
        """
        with self._lock:
            if self._alone is not None:
                options = {"segments": segments, "rows": rows} if segments else {"first": first, "all": all}
                return self._alone.forward(tokens, **options)
            link = self._joined()
            tokens = np.ascontiguousarray(tokens, np.int32)
            steps = list(segments) or [(0, first, len(tokens))]
            wanted = list(rows) if rows is not None else list(range(len(tokens)) if all else [len(tokens) - 1])
            self._check(steps, len(tokens))
            states = self._model.embed(tokens)
            self._step += 1
            link.step = self._step
            try:
                self._tell(link, STEP, len(tokens), steps)
                link.send(range(1, link.ranks), states)
                logits = self._model.forward(tokens, segments=steps, rows=wanted)
            except BoardError as error:
                raise self._lost(error) from error
            except EdgeNodesError:
                self._drop()
                raise
            for slot, begin, count in steps:
                self._known[slot] = begin + count
            return logits if segments or all else logits[0]

    def copy_cache(self, from_slot: int, to_slot: int, begin: int, end: int) -> int:
        """Copy or share keys and values on all boards, see the native model."""
        copied = self._on_all(COPY, (from_slot, to_slot, begin, end))
        self._known[to_slot] = end
        return int(copied)

    def truncate_cache(self, slot: int, length: int) -> None:
        """Forget keys and values on all boards, see the native model."""
        self._on_all(TRUNCATE, (slot, length))
        self._known[slot] = min(self._known[slot], length)

    def figures(self) -> dict[str, str | int | float]:
        """Return what a status says of the boards and of the sums of one token."""
        link = self.link
        if link is None:
            return {"boards": 1 if self._alone else "lost"}
        return link.network.figures(self._token_bytes)

    def close(self) -> None:
        """Let the other boards go, and end what reads weights."""
        self._closing.set()
        self._pinging.join()
        with self._lock:
            if self.link is not None:
                with contextlib.suppress(BoardError):  # it may be gone already
                    self._tell(self.link, STOP, 0, [])
                self._drop()
        self._model.set_reducer(None)
        self._model.close()
        if self._alone is not None:
            self._alone.close()

    def _on_all(self, kind: int, numbers: tuple[int, ...]) -> Any:
        with self._lock:
            if self._alone is None:
                link = self._joined()
                try:
                    self._tell(link, kind, 0, [(*numbers, 0, 0, 0)[:3], (*numbers[3:], 0, 0, 0)[:3]])
                except BoardError as error:
                    raise self._lost(error) from error
            model = self._alone or self._model
            return (model.copy_cache if kind == COPY else model.truncate_cache)(*numbers)

    def _tell(self, link: Link, kind: int, tokens: int, segments: Sequence[tuple[int, ...]]) -> None:
        link.send(range(1, link.ranks), header(kind, self._step, tokens, segments))

    def _reduce(self, values: Any, how: str) -> None:
        assert self.link is not None
        self.link.reduce(values, how)

    def _joined(self) -> Link:
        if self.link is None:
            self.link = self._master.join(AGAIN_S)
        return self.link

    def _check(self, steps: Sequence[tuple[int, int, int]], tokens: int) -> None:
        if len(steps) > SEGMENTS or sum(count for _, _, count in steps) != tokens:
            raise LanguageError("tokens and segments differ", got=f"{tokens} tokens, {steps}")
        for slot, first, _ in steps:
            if first > self._known[slot]:
                raise LanguageError(
                    "keys of this sequence were lost with a board",
                    got=f"position {first} after {self._known[slot]}",
                    remedy="Begin it anew.",
                )

    def _lost(self, error: BoardError) -> BoardError:
        """End the group and return the error that names who does not come back."""
        self._drop()
        absent = self._master.missing(self._deadline_s)
        who = ", ".join(f"rank {rank}" for rank in absent) or "a board that is back"
        if absent and self._make_alone is not None:
            self._alone = self._make_alone()
        return BoardError(
            f"lost {who} in step {self._step}",
            got=error.got or error.what,
            remedy="The node carries on alone." if self._alone else "It goes on when the board is back.",
        )

    def _drop(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None
            self._master.renew()
        self._known[:] = 0

    def _ping(self) -> None:
        heard = 0
        while not self._closing.wait(PING_S):
            with self._lock:
                if self._step != heard:
                    heard = self._step
                elif self.link is not None:
                    try:
                        self._tell(self.link, PING, 0, [])
                        self.link.measure_again()
                    except BoardError:
                        self._drop()


def open_boards(
    path: str | Path,
    make: Callable[[Mapping[str, Any], float], Any],
    config: BoardsConfig,
    *,
    memory_budget_mb: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[BoardsModel, dict[str, Any], str]:
    """Return the model of all boards, the metadata its tokenizer needs, and its name; waits for the boards.

    Args:
        path: directory of shards, or of rank 0's.
        make: makes a native model of (sizes, longest context).
        config: where the boards come to, and how long they are waited for.
        memory_budget_mb: of this board, see `open_streamed`.
        progress: called with one line of text at each step.

    Raises:
        BoardError: a board has not come in time.
        LanguageError: a shard that does not fit, or a budget that is too small.
    """
    directory = shard_directory(Path(path))
    metadata = directory.metadata
    native = make(directory.sizes, context_limit(metadata))

    def alone() -> Any:
        return open_streamed(config.alone, make, memory_budget_mb=memory_budget_mb, progress=progress)[0]

    options: dict[str, Any] = {"memory_budget_mb": memory_budget_mb, "progress": progress}
    made = share(directory, native, config, alone=alone if config.alone else None, **options)
    return made, metadata, directory.name


def share(
    directory: BlockDirectory,
    native: Any,
    config: BoardsConfig,
    *,
    memory_budget_mb: int = 0,
    alone: Callable[[], Any] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BoardsModel:
    """Return the model of all boards, of rank 0's shard and a native model of its sizes; see `open_boards`."""
    model = stream(directory, native, memory_budget_mb=memory_budget_mb, progress=progress)
    try:
        ranks = int(directory.index["shard"]["ranks"])
        store = open_store(config.address, config.port, 0, ranks, patience_s=config.join_s)
        settings = {"context_tokens": int(native.context), "slots": int(native.slots), "kv_cache": str(native.cache)}
        options = {"deadline_s": config.deadline_s, "algorithm": config.allreduce, "backend": config.backend}
        progress(f"waiting for {ranks - 1} boards on port {config.port}")
        master = Master(store, directory, settings, **options)
        return BoardsModel(model, master, join_s=config.join_s, deadline_s=config.deadline_s, alone=alone)
    except BaseException:
        model.close()
        raise
