# SPDX-License-Identifier: Apache-2.0
"""Where the rows of a fused loop lie in the key/value arena, and which of them move when one ends.

Temporal fusion of requests (Flover, arXiv 2305.13484). Three arrangements behind one interface:

* `Window`: the fused batch is the interval of slots from the lowest to the highest in use. An end of the interval
  that finishes only moves the interval's bound; a row that finishes inside leaves a hole, which is computed until it
  is refilled, passed by a bound, or filled by moving another row.
* `Swap`: the last row moves into the place of one that ended.
* `Index`: a list of slots; nothing is computed for nobody and nothing moves, but rows are no longer adjacent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_nodes.errors import ParameterError


class Move(NamedTuple):
    """Copy the row of slot `source` to slot `target`, which is free."""

    source: int
    target: int


class Plan(NamedTuple):
    """Fewest moves that make the rows adjacent.

    Attributes:
        start: first slot afterwards.
        moves: one for each row outside the window of the rows' number that holds most of them.
    """

    start: int
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Row:
    """What is known of a slot in use.

    Attributes:
        length: tokens in its cache.
        remaining: most iterations it will still run.
    """

    length: int
    remaining: int


@dataclass(frozen=True)
class Costs:
    """Measured costs; None while unknown.

    Attributes:
        copy_ms: moving one token of a row, ms.
        row_ms: one more row in an iteration, ms.
    """

    copy_ms: float | None = None
    row_ms: float | None = None

    def worth(self, length: int, iterations: int) -> bool:
        """Return whether moving a row of `length` tokens pays when it spares a row for `iterations`."""
        if self.copy_ms is None or self.row_ms is None:
            return True
        return self.copy_ms * length < self.row_ms * iterations


def plan(alive: Sequence[bool], lengths: Sequence[int] | None = None) -> Plan:
    """Return the plan with the fewest moves; among those the one that copies least, then the lowest window.

    Args:
        alive: whether each slot is in use.
        lengths: tokens in each slot's cache; all alike by default.
    """
    count = sum(alive)
    cost = [int(a) * (lengths[i] if lengths is not None else 1) for i, a in enumerate(alive)]
    inside, inside_cost = count and sum(alive[:count]), sum(cost[:count])
    best, start = (inside, inside_cost), 0
    for s in range(1, len(alive) - count + 1 if count else 0):
        inside += alive[s + count - 1] - alive[s - 1]
        inside_cost += cost[s + count - 1] - cost[s - 1]
        if (inside, inside_cost) > best:
            best, start = (inside, inside_cost), s
    window = range(start, start + count)
    movers = [i for i, a in enumerate(alive) if a and i not in window]
    holes = [i for i in window if not alive[i]]
    return Plan(start, tuple(Move(s, t) for s, t in zip(movers, holes, strict=True)))


class Arrangement(ABC):
    """Which free slot a newcomer takes, which slots an iteration computes, and what moves.

    Slots are given as a sequence of `Row`, None for a free one.
    """

    @abstractmethod
    def place(self, slots: Sequence[Row | None], preferred: Sequence[int]) -> int:
        """Return the free slot of a newcomer.

        Args:
            slots: the slots; at least one is free.
            preferred: the free slots, best first (the one with the longest shared prefix, then the longest unused).
        """

    @abstractmethod
    def computed(self, slots: Sequence[Row | None]) -> list[int]:
        """Return the slots that an iteration computes, ascending; free ones among them are holes."""

    def moves(self, slots: Sequence[Row | None], costs: Costs) -> list[Move]:
        """Return the copies to make now; sources are in use, targets free, no slot occurs twice."""
        return []


class Index(Arrangement):
    """Slots stay where they are; the iteration gets a list of them."""

    def place(self, slots: Sequence[Row | None], preferred: Sequence[int]) -> int:
        """See `Arrangement.place`: the preferred one."""
        return preferred[0]

    def computed(self, slots: Sequence[Row | None]) -> list[int]:
        """See `Arrangement.computed`: only those in use."""
        return [i for i, row in enumerate(slots) if row]


class Swap(Arrangement):
    """Rows fill the slots from 0 on; the last takes the place of one that ended."""

    def place(self, slots: Sequence[Row | None], preferred: Sequence[int]) -> int:
        """See `Arrangement.place`: the first after the rows."""
        return next(i for i, row in enumerate(slots) if row is None)

    def computed(self, slots: Sequence[Row | None]) -> list[int]:
        """See `Arrangement.computed`: up to the last in use."""
        return list(range(max((i + 1 for i, row in enumerate(slots) if row), default=0)))

    def moves(self, slots: Sequence[Row | None], costs: Costs) -> list[Move]:
        """See `Arrangement.moves`: whatever the copies cost."""
        used = [i for i, row in enumerate(slots) if row]
        holes = [i for i in range(len(used)) if slots[i] is None]
        return [Move(used[-1 - n], hole) for n, hole in enumerate(holes)]


class Window(Arrangement):
    """An interval of slots whose ends advance; holes are filled if that pays.

    Args:
        reorder: False leaves holes to newcomers and to the ends.
    """

    def __init__(self, *, reorder: bool = True) -> None:
        self.reorder = reorder

    def place(self, slots: Sequence[Row | None], preferred: Sequence[int]) -> int:
        """See `Arrangement.place`: a hole, else the slot above the interval, else the one below."""
        low, high = _interval(slots)
        if low > high:
            return preferred[0]
        holes = {i for i in range(low, high) if slots[i] is None}
        if holes:
            return next(i for i in preferred if i in holes)
        return high + 1 if high + 1 < len(slots) else low - 1

    def computed(self, slots: Sequence[Row | None]) -> list[int]:
        """See `Arrangement.computed`: the interval, with its holes."""
        low, high = _interval(slots)
        return list(range(low, high + 1))

    def moves(self, slots: Sequence[Row | None], costs: Costs) -> list[Move]:
        """See `Arrangement.moves`: those of the minimal plan that cost less than computing the hole."""
        if not self.reorder:
            return []
        lengths = [row.length if row else 0 for row in slots]
        found = plan([row is not None for row in slots], lengths).moves
        return [m for m in found if costs.worth(lengths[m.source], _until_passed(slots, m))]


ARRANGEMENTS: dict[str, Callable[[], Arrangement]] = {
    "index": Index,
    "window": Window,
    "window_fixed": lambda: Window(reorder=False),
    "swap": Swap,
}


def arrangement(name: str) -> Arrangement:
    """Return the arrangement of that name: index, window, window_fixed (holes are never filled by moves), swap.

    Raises:
        ParameterError: there is none of that name.
    """
    if name not in ARRANGEMENTS:
        raise ParameterError("unknown arrangement of slots", got=name, expected="one of " + ", ".join(ARRANGEMENTS))
    return ARRANGEMENTS[name]()


def _interval(slots: Sequence[Row | None]) -> tuple[int, int]:
    used = [i for i, row in enumerate(slots) if row]
    return (used[0], used[-1]) if used else (0, -1)


def _until_passed(slots: Sequence[Row | None], move: Move) -> int:
    """Return for how many iterations a move spares a row: until the mover ends, or a bound passes the hole anyway."""
    below = max((row.remaining for row in slots[: move.target] if row), default=0)
    above = max((row.remaining for row in slots[move.target + 1 :] if row), default=0)
    mover = slots[move.source]
    return min(mover.remaining if mover else 0, below, above)
