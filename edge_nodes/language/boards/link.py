# SPDX-License-Identifier: Apache-2.0
"""Boards that share a model, joined by torch.distributed (gloo; NCCL where every board has a GPU): exchange of sums.

Star and direct exchange after TPI-LLM (arXiv 2410.00531, section 3); sums are put together by `SumTree`, so that they
are those of one process bit for bit. The ring is the library's, in an order of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from edge_nodes.errors import State
from edge_nodes.language.blocks.sum_tree import SumTree
from edge_nodes.language.boards.costs import ALGORITHMS, Network
from edge_nodes.language.boards.probe import Probe
from edge_nodes.language.errors import LanguageError

Floats = npt.NDArray[np.float32]


class BoardError(LanguageError):
    """A board that does not answer."""

    def __init__(self, what: str, *, got: object = None, expected: str = "", remedy: str = "") -> None:
        super().__init__(what, got=got, expected=expected, remedy=remedy, state=State.NO_DEVICE)


class Link:
    """This board's place in a group of boards. Not thread-safe.

    Args:
        store: the rendezvous, with keys of this group only.
        rank: of this board; 0 has the head.
        ranks: boards of the group.
        trees: how sums are made, by name; see `reduce`.
        deadline_s: longest wait for another board within a step.
        algorithm: "auto", or one of `ALGORITHMS` for every message.
        backend: of torch.distributed.

    Attributes:
        step: number of the step, for errors.
        bytes_sent: payload sent by this board.
        reduced: {algorithm: messages}.

    Raises:
        BoardError: the group could not be made within the deadline.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        ranks: int,
        *,
        trees: Mapping[str, SumTree] | None = None,
        deadline_s: float = 5.0,
        algorithm: str = "auto",
        backend: str = "gloo",
    ) -> None:
        self.rank, self.ranks, self.algorithm = rank, ranks, algorithm
        self.step, self.bytes_sent, self.reduced = 0, 0, dict.fromkeys(ALGORITHMS, 0)
        self._deadline = timedelta(seconds=deadline_s)
        self._others = [r for r in range(ranks) if r != rank]
        self._trees = {"sum": SumTree((1,) * ranks), **(trees or {})}
        self._device = torch.device("cuda" if backend == "nccl" else "cpu")
        self._received: dict[int, torch.Tensor] = {}
        with self._failing("joining the group"), _with_transport():
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=ranks, timeout=max(self._deadline, timedelta(seconds=5))
            )
        self._probe = Probe(self)
        self.bytes_sent, self.reduced = 0, dict.fromkeys(ALGORITHMS, 0)

    @property
    def network(self) -> Network:
        """What was measured when the group was made, and since."""
        return self._probe.network

    def measure_again(self) -> None:
        """Time each way to add up shares once more, for messages of one size; all boards call it at once.

        Networks change, above all without wires, and a measurement may have been disturbed.

        Raises:
            BoardError: a board does not answer within the deadline.
        """
        counts = self.bytes_sent, dict(self.reduced)
        self._probe.again(self)
        self.bytes_sent, self.reduced = counts

    def close(self) -> None:
        """Leave the group; the others notice at their next exchange."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def reduce(self, values: Floats, how: str) -> None:
        """Make `values` the sum or the largest over all boards; all boards call it in the same order.

        Args:
            values: float32 (n,). With a tree of several roots on this rank, n values for each root; the sum of all goes
                where the first root's are.
            how: "max", "sum", or the name of a tree.

        Raises:
            BoardError: a board does not answer within the deadline.
        """
        tree = self._trees.get(how)
        rows = values.reshape(len(tree.roots[self.rank]) if tree else 1, -1)
        algorithm = self.algorithm
        if algorithm == "auto":
            size = rows[0].nbytes * (tree.most_roots if tree else 1)
            algorithm = self.network.choose(size)
        if algorithm == "ring" and tree is None:
            algorithm = "direct"
        self.reduced[algorithm] += 1
        work: Callable[[Floats, SumTree | None], None] = getattr(self, f"_{algorithm}")
        work(rows, tree)

    def send(self, to: Sequence[int], *arrays: npt.NDArray[Any]) -> None:
        """Send arrays to other boards.

        Raises:
            BoardError: one does not answer within the deadline.
        """
        with self._failing("sending a step"):
            self._wait([self._send(a, rank) for a in arrays for rank in to])

    def receive(self, array: npt.NDArray[Any], sender: int, *, patience_s: float | None = None) -> None:
        """Fill an array with what a board sends.

        Raises:
            BoardError: nothing came within `patience_s`, by default the deadline.
        """
        patience = self._deadline if patience_s is None else timedelta(seconds=patience_s)
        with self._failing("waiting for a step"):
            into, work = self._receive(array, sender)
            work.wait(timeout=patience)
            self._fetch(array, into)

    def exchange(self, array: npt.NDArray[Any], peer: int) -> None:
        """Send an array to another board, which does the same, and receive what it sends.

        Raises:
            BoardError: it does not answer within the deadline.
        """
        with self._failing("exchanging with a board"):
            into = np.empty_like(array)
            sent = self._send(array, peer)
            self._gather([(into, peer)])
            self._wait([sent])

    def _star(self, rows: Floats, tree: SumTree | None) -> None:
        with self._failing("star allreduce"):
            if self.rank:
                self._wait([self._send(rows, 0)])
                self._gather([(rows[0], 0)])
                return
            parts = self._parts(rows, tree)
            self._gather([(parts[r], r) for r in self._others])
            rows[0] = _combined(parts, tree)
            self._wait([self._send(rows[0], r) for r in self._others])

    def _direct(self, rows: Floats, tree: SumTree | None) -> None:
        with self._failing("direct allreduce"):
            sent = [self._send(rows, r) for r in self._others]
            parts = self._parts(rows, tree)
            self._gather([(parts[r], r) for r in self._others])
            self._wait(sent)
            rows[0] = _combined(parts, tree)

    def _split(self, rows: Floats, tree: SumTree | None) -> None:
        with self._failing("split allreduce"):
            cuts = [rows.shape[1] * r // self.ranks for r in range(self.ranks + 1)]
            pieces = [np.ascontiguousarray(rows[:, begin:end]) for begin, end in pairwise(cuts)]
            sent = [self._send(pieces[r], r) for r in self._others]
            parts = self._parts(pieces[self.rank], tree)
            self._gather([(parts[r], r) for r in self._others])
            self._wait(sent)
            sums = [rows[0, begin:end] for begin, end in pairwise(cuts)]
            sums[self.rank][:] = _combined(parts, tree)
            sent = [self._send(sums[self.rank], r) for r in self._others]
            self._gather([(sums[r], r) for r in self._others])
            self._wait(sent)

    def _ring(self, rows: Floats, _: SumTree | None) -> None:
        with self._failing("ring allreduce"):
            tensor = torch.from_numpy(rows.sum(0)).to(self._device)
            dist.all_reduce(tensor)
            self.bytes_sent += 2 * (self.ranks - 1) * rows[0].nbytes // self.ranks
            self._fetch(rows[0], tensor)

    def _parts(self, rows: Floats, tree: SumTree | None) -> list[Floats]:
        """Return an array for what each rank has, this one's own among them."""
        found = []
        for rank in range(self.ranks):
            shape = (len(tree.roots[rank]) if tree else 1, rows.shape[1])
            size = shape[0] * shape[1]
            if rank not in self._received or self._received[rank].numel() < size:
                self._received[rank] = torch.empty(size)
            found.append(rows if rank == self.rank else self._received[rank][:size].numpy().reshape(shape))
        return found

    def _send(self, array: npt.NDArray[Any], rank: int) -> Any:
        self.bytes_sent += array.nbytes
        return dist.isend(torch.from_numpy(array).to(self._device), rank)

    def _receive(self, array: npt.NDArray[Any], rank: int) -> tuple[torch.Tensor, Any]:
        into = torch.from_numpy(array)
        into = into if self._device.type == "cpu" else torch.empty_like(into, device=self._device)
        return into, dist.irecv(into, rank)

    def _gather(self, wanted: Sequence[tuple[npt.NDArray[Any], int]]) -> None:
        started = [(array, *self._receive(array, rank)) for array, rank in wanted]
        for array, into, work in started:
            self._wait([work])
            self._fetch(array, into)

    def _fetch(self, array: npt.NDArray[Any], into: torch.Tensor) -> None:
        if into.data_ptr() != array.ctypes.data:
            array[:] = into.cpu().numpy()

    def _wait(self, works: Sequence[Any]) -> None:
        for work in works:
            work.wait(timeout=self._deadline)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            text = str(error).split("\n")[0].rpartition("] ")[2] or str(error)
            raise BoardError(f"step {self.step}: {what} failed on rank {self.rank}", got=text[:200]) from error


@contextmanager
def _with_transport() -> Iterator[None]:
    """Tell when torch lacks the transport that was asked for, TLS above all."""
    try:
        yield
    except RuntimeError as error:
        if "unsupported gloo device" not in str(error):
            raise
        raise BoardError(
            "this torch lacks the transport between boards",
            got=f"GLOO_DEVICE_TRANSPORT={os.environ.get('GLOO_DEVICE_TRANSPORT')}",
            expected="a torch built with it (USE_GLOO_WITH_OPENSSL for TCP_TLS)",
            remedy="Unset it and let the boards meet in a VPN: docs/boards.md.",
        ) from error


def _combined(parts: Sequence[Floats], tree: SumTree | None) -> Floats:
    """Return the sum, or without a tree the largest, of what all ranks have."""
    return tree.total(parts) if tree else np.maximum.reduce([rows[0] for rows in parts])
