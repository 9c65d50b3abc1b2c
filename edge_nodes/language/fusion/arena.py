# SPDX-License-Identifier: Apache-2.0
"""The slots of the key/value arena: who has which, what tokens each holds, and what one takes from another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_nodes.language import attention
from edge_nodes.language.engine import common_prefix
from edge_nodes.language.fusion.metrics import Metrics, Slope
from edge_nodes.language.fusion.plan import Arrangement, Costs, Row
from edge_nodes.language.fusion.request import Handle

MIN_SHARED = 16  # a shorter prefix is computed again rather than taken from another slot


class SlotModel(Protocol):
    """What the loop needs of `edge_nodes.native._kernels.Model`."""

    context: int
    batch: int
    slots: int
    cache_bytes_per_token: int

    def forward(
        self, tokens: npt.NDArray[np.int32], *, segments: Sequence[tuple[int, int, int]], rows: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Run (slot, first position, count) segments; return the logits of some rows, (len(rows), vocabulary)."""

    def copy_cache(self, from_slot: int, to_slot: int, begin: int, end: int) -> int:
        """Make positions begin to end of one slot those of another; return how many were copied, not shared."""


@dataclass
class Slot:
    """A sequence of the arena; `tokens` stay after the request, for those who share their beginning."""

    tokens: list[int] = field(default_factory=list)
    request: Handle | None = None
    used: int = 0


class Arena:
    """All slots.

    Args:
        model: whose slots they are.
        arranged: where requests lie in them.
        metrics: counts what is shared and moved.
        clock: seconds.
    """

    def __init__(self, model: SlotModel, arranged: Arrangement, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.model, self.slots = model, [Slot() for _ in range(model.slots)]
        self._arranged, self._metrics, self._clock = arranged, metrics, clock
        self._copy_s = Slope()

    def running(self) -> list[Handle]:
        """Return the requests that have a slot."""
        return [slot.request for slot in self.slots if slot.request]

    def rows(self) -> list[Row | None]:
        """Return the slots as an arrangement sees them."""
        return [
            Row(len(slot.tokens), slot.request.limit - slot.request.generated_tokens) if slot.request else None
            for slot in self.slots
        ]

    def computed(self) -> list[int]:
        """Return the slots that an iteration computes; free ones among them are holes."""
        return self._arranged.computed(self.rows())

    def full(self) -> bool:
        """Return whether every slot has a request."""
        return all(slot.request for slot in self.slots)

    def forget(self) -> None:
        """Forget the tokens of all slots."""
        for slot in self.slots:
            slot.tokens = []

    def place(self, handle: Handle) -> None:
        """Give a request the free slot that holds most of its beginning, else the one unused for longest."""
        free = [i for i, slot in enumerate(self.slots) if slot.request is None]
        free.sort(key=lambda i: (-_shared(self.slots[i].tokens, handle.sequence), self.slots[i].used))
        chosen = self._arranged.place(self.rows(), free)
        slot = self.slots[chosen]
        kept = min(common_prefix(slot.tokens, handle.sequence), len(handle.sequence) - 1)
        del slot.tokens[kept:]
        slot.request = handle
        attention.begin(self.model, chosen, len(handle.order.tokens))
        self._note_shared(handle, kept)

    def release(self, handle: Handle) -> None:
        """Take the slot from a request, if it has one."""
        for slot in self.slots:
            if slot.request is handle:
                slot.request = None

    def adopt(self, index: int, handle: Handle) -> None:
        """Take what another slot holds of the prompt beyond what this one does."""
        slot, most = self.slots[index], len(handle.sequence) - 1
        have, source = max((_shared(s.tokens, handle.sequence), i) for i, s in enumerate(self.slots))
        begin, end = len(slot.tokens), min(have, most)
        if end < begin + MIN_SHARED:
            return
        self._metrics.copied_bytes += self._copy(source, index, begin, end)
        slot.tokens += handle.sequence[begin:end]
        self._note_shared(handle, end - begin)

    def rearrange(self, row_s: float | None) -> None:
        """Move rows as the arrangement wants them.

        Args:
            row_s: seconds of one more row in an iteration; None if not known.
        """
        copy_s = self._copy_s.value
        costs = Costs(copy_s and copy_s * 1e3, row_s and row_s * 1e3)
        for move in self._arranged.moves(self.rows(), costs):
            source, target = self.slots[move.source], self.slots[move.target]
            self._metrics.moved_bytes += self._copy(move.source, move.target, 0, len(source.tokens))
            target.tokens, target.request, target.used = list(source.tokens), source.request, source.used
            source.request = None
            self._metrics.moves += 1

    def _note_shared(self, handle: Handle, tokens: int) -> None:
        self._metrics.shared_tokens += tokens
        if not handle.generated_tokens:  # else it was put back, and its own tokens are among them
            handle.cached_tokens += tokens

    def _copy(self, source: int, target: int, begin: int, end: int) -> int:
        """Take positions of another slot; return the bytes that were copied, as they could not be shared."""
        started_s = self._clock()
        copied = self.model.copy_cache(source, target, begin, end)
        self._copy_s.add(end - begin, self._clock() - started_s)
        return copied * self.model.cache_bytes_per_token


def _shared(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Return how much of a beginning is held, 0 if too little to take: most pairs differ at once."""
    if held[:MIN_SHARED] != wanted[:MIN_SHARED] or len(held) < MIN_SHARED:
        return 0
    return common_prefix(held, wanted)


def soon_shared(ahead: Sequence[Handle], handle: Handle) -> int:
    """Return how much of a request's beginning those that are read before it will have made."""
    return max((_shared(other.sequence, handle.sequence) for other in ahead), default=0)
