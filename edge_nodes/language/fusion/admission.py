# SPDX-License-Identifier: Apache-2.0
"""Who waits, who gets a slot, and who gives one up: by priority, then by arrival."""

from __future__ import annotations

from collections.abc import Callable

from edge_nodes.errors import State
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.fusion.arena import Arena
from edge_nodes.language.fusion.metrics import Metrics
from edge_nodes.language.fusion.pace import Pace
from edge_nodes.language.fusion.request import Handle, RequestState


class QueueFullError(LanguageError):
    """As many requests wait as may."""


class Admission:
    """The queue before the arena.

    Args:
        arena: where requests get slots.
        pace: who is told which request holds the pace.
        most: requests that may wait beyond the free slots.
        metrics: counts refusals and who was put back.
        clock: seconds.

    Attributes:
        waiting: requests without a slot.
    """

    def __init__(self, arena: Arena, pace: Pace, most: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.waiting: list[Handle] = []
        self._arena, self._pace, self._most, self._metrics, self._clock = arena, pace, most, metrics, clock

    def refuse_if_full(self) -> None:
        """Raise if one more may not wait.

        Raises:
            QueueFullError: OVERLOADED.
        """
        waiting = sum(not h.wants_cancel for h in self.waiting)
        free = sum(slot.request is None for slot in self._arena.slots)
        if waiting >= self._most + free:
            self._metrics.rejected += 1
            raise QueueFullError(
                "the queue of requests is full",
                got=f"{waiting} waiting",
                expected=f"at most {self._most}",
                remedy="Ask again later, or raise fusion.queue or fusion.slots.",
                state=State.OVERLOADED,
            )

    def admit(self) -> None:
        """Give free slots, and those of less urgent requests, to who waits."""
        for handle in sorted(self.waiting, key=urgency):
            if self._arena.full() and not self._preempt(handle):
                return
            self._set_pace(handle)
            self._arena.place(handle)
            handle.state, handle.admitted_s = RequestState.PREFILL, handle.admitted_s or self._clock()
            self.waiting.remove(handle)

    def _set_pace(self, handle: Handle) -> None:
        """Let a newcomer hold the pace that finds nobody, or nobody as urgent."""
        running = self._arena.running()
        if handle.order.paced and all(h.order.priority < handle.order.priority for h in running):
            self._pace.take(handle, self._clock() - handle.arrived_s)

    def _preempt(self, handle: Handle) -> bool:
        """Put back the running request of the lowest priority if it is lower; what it has said stays."""
        running = max(self._arena.running(), key=urgency)
        if running.order.priority >= handle.order.priority:
            return False
        self._arena.release(running)
        self._pace.release(running)
        running.state = RequestState.WAITING
        self.waiting.append(running)
        self._metrics.preempted += 1
        return True


def urgency(handle: Handle) -> tuple[int, int]:
    """Return what requests are sorted by, the most urgent first."""
    return (-handle.order.priority, handle.number)
