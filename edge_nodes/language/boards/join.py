# SPDX-License-Identifier: Apache-2.0
"""How boards find each other: a store on the master, one generation of the group after the other.

A lost board ends a generation. The others come back to the store at once and say hello to the next one, so that the
master can tell who is missing; the group is made anew when all have come.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from edge_nodes import __version__
from edge_nodes.language.blocks.directory import BlockDirectory
from edge_nodes.language.blocks.shards import trees
from edge_nodes.language.boards.link import BoardError, Link
from edge_nodes.language.errors import LanguageError

PROTOCOL = 2
_NEVER_S = 10.0  # of a wait that is begun again
_READ_S = 5.0  # for a refused board to read why


def hello(directory: BlockDirectory) -> dict[str, Any]:
    """Return what a board says of itself: all but the rank must be equal on all boards."""
    index = directory.index
    return {
        "protocol": PROTOCOL,
        "package": __version__,
        "model": index["source"]["sha256"],
        "shares": index["shard"]["table"],
        "rank": index["shard"]["rank"],
    }


def open_store(address: str, port: int, rank: int, ranks: int, *, patience_s: float) -> Any:
    """Return the store: that of torchrun if it started this process, else one that rank 0 keeps.

    Raises:
        BoardError: nobody keeps a store at that address.
    """
    patience = timedelta(seconds=patience_s)
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return next(iter(rendezvous("env://", rank, ranks, timeout=patience)))[0]
        return TCPStore(address, port, None, rank == 0, timeout=patience, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        what = f"no store of a master at {address}:{port}" if rank else f"cannot keep a store at {address}:{port}"
        raise BoardError(what, got=str(error).split("\n")[0][:200], remedy="Is the language node running?") from error


class Master:
    """Rank 0's side of joining.

    Args:
        store: see `open_store`.
        directory: rank 0's shard.
        settings: what the models of all boards must have in common: {context_tokens, slots, kv_cache}.
        options: of `Link`.
    """

    def __init__(self, store: Any, directory: BlockDirectory, settings: Mapping[str, Any], **options: Any) -> None:
        self._store, self._directory, self._settings, self._options = store, directory, dict(settings), options
        self._hello, self._ranks = hello(directory), int(directory.index["shard"]["ranks"])
        self.generation = int(store.add("generation", 0))
        self._open()

    def missing(self, patience_s: float) -> list[int]:
        """Return the ranks that have not said hello within a time."""
        end = time.monotonic() + patience_s
        absent = []
        for rank in range(1, self._ranks):
            left = max(0.001, end - time.monotonic())
            if not _wait(self._store, f"hello/{self.generation}/{rank}", left):
                absent.append(rank)
        return absent

    def join(self, patience_s: float) -> Link:
        """Return the group when all boards are there.

        Raises:
            BoardError: some have not come in time.
            LanguageError: one has another model, other shares or another version.
        """
        if absent := self.missing(patience_s):
            raise BoardError(
                "boards have not joined: " + ", ".join(f"rank {rank}" for rank in absent),
                expected=f"{self._ranks - 1} workers within {patience_s:g} s",
                remedy="Run there: edge-nodes worker.",
            )
        generation = self.generation
        said = {r: json.loads(self._store.get(f"hello/{generation}/{r}")) for r in range(1, self._ranks)}
        refused = {rank: why for rank in said if (why := self._differs(said[rank], rank))}
        for rank in said:
            verdict = (
                {"refused": refused[rank]}
                if rank in refused
                else {"settings": self._settings, "options": self._options}
            )
            self._store.set(f"verdict/{generation}/{rank}", json.dumps(verdict))
        if refused:
            for rank in refused:  # the store may end with the error: the boards must have read it
                _wait(self._store, f"read/{generation}/{rank}", _READ_S)
            self.renew()
            rank, why = next(iter(refused.items()))
            raise LanguageError(f"board of rank {rank} is refused", got=why, remedy="Convert and copy its shard again.")
        return make_link(self._store, generation, self._directory, self._options)

    def renew(self) -> None:
        """End this generation."""
        self.generation = int(self._store.add("generation", 1))
        self._open()

    def _open(self) -> None:
        self._store.set(f"open/{self.generation}", "")

    def _differs(self, said: Mapping[str, Any], rank: int) -> str:
        for name, mine in {**self._hello, "rank": rank}.items():
            if said.get(name) != mine:
                return f"{name} {said.get(name)}, expected {mine}"
        return ""


def make_link(store: Any, generation: int, directory: BlockDirectory, options: Mapping[str, Any]) -> Link:
    """Return the group of a generation, when all its boards call this with their shards.

    Raises:
        BoardError: it could not be made.
    """
    shard = directory.index["shard"]
    prefixed = PrefixStore(f"group/{generation}", store)
    return Link(prefixed, int(shard["rank"]), int(shard["ranks"]), trees=trees(shard), **options)


def await_verdict(store: Any, directory: BlockDirectory, after: int) -> tuple[int, dict[str, Any]]:
    """Return (generation, {settings, options}) when the master makes the next group.

    Args:
        store: see `open_store`.
        directory: this board's shard.
        after: generation that has ended; -1 for none.

    Raises:
        LanguageError: the master refuses this board.
        RuntimeError: the store is gone.
    """
    shard = directory.index["shard"]
    rank, generation = int(shard["rank"]), after + 1
    if after < 0:
        generation = int(store.add("generation", 0))
        if store.check([f"verdict/{generation}/{rank}"]):  # a group that runs with this board's past
            generation += 1
    while not _wait(store, f"open/{generation}", _NEVER_S):
        pass
    store.set(f"hello/{generation}/{rank}", json.dumps(hello(directory)))
    while not _wait(store, f"verdict/{generation}/{rank}", _NEVER_S):
        if store.check([f"open/{generation + 1}"]):
            return await_verdict(store, directory, generation)
    verdict: dict[str, Any] = json.loads(store.get(f"verdict/{generation}/{rank}"))
    if "refused" in verdict:
        store.set(f"read/{generation}/{rank}", "")
        why = verdict["refused"]
        raise LanguageError("the master refuses this board", got=why, remedy="Convert and copy the shard again.")
    return generation, verdict


def _wait(store: Any, key: str, seconds: float) -> bool:
    try:
        store.wait([key], timedelta(seconds=seconds))
    except RuntimeError as error:  # also of a store that is gone
        if "timeout" in str(error).lower() or "timed out" in str(error).lower():
            return False
        raise
    return True
