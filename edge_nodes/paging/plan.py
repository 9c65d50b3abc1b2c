# SPDX-License-Identifier: Apache-2.0
"""How long a pass over blocks takes within a budget, by a discrete-event model of the window, and the best plan.

The roles are PIPELOAD's (arXiv 2409.04249): readers, one user of the blocks, blocks freed as soon as they were used.
Pinned blocks follow TPI-LLM's retention (arXiv 2410.00531, proposition 6). Model, objective and search are our own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from edge_nodes.errors import ModelError, State
from edge_nodes.paging.ring import Ring
from edge_nodes.paging.window import smallest_budget, whole_pages

READERS = (1, 2, 4, 6)
_NEVER = float("inf")


@dataclass(frozen=True)
class Profile:
    """What a board needs for the blocks of a model.

    Attributes:
        sizes: bytes of each block, in the order of use.
        use_s: time that each is used.
        wait_s: time after its release until the next one is wanted (other boards, sampling).
        bytes_per_s: {readers: bytes read a second by that many at once}.
        handover_s: time lost when the user has to wait for a block: two threads wake up.
    """

    sizes: tuple[int, ...]
    use_s: tuple[float, ...]
    wait_s: tuple[float, ...]
    bytes_per_s: Mapping[int, float]
    handover_s: float = 0.0

    def rate(self, readers: int) -> float:
        """Return bytes a second of so many readers at once, between the measured numbers of readers."""
        known = sorted(self.bytes_per_s)
        below = max((k for k in known if k <= readers), default=known[0])
        above = min((k for k in known if k >= readers), default=known[-1])
        low, high = self.bytes_per_s[below], self.bytes_per_s[above]
        return low if below == above else low + (high - low) * (readers - below) / (above - below)


@dataclass(frozen=True)
class Run:
    """What a pass takes.

    Attributes:
        pass_s: time of one pass over all blocks; of the first if it was asked for, else in the steady state.
        stall_s: part of it that the user waits for blocks.
        peak_bytes: most bytes of blocks in memory.
    """

    pass_s: float
    stall_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Plan:
    """How a model is streamed.

    Attributes:
        budget_bytes: most memory of blocks.
        readers: loading threads.
        pinned: blocks that stay in memory.
        run: what is predicted.
    """

    budget_bytes: int
    readers: int
    pinned: tuple[int, ...]
    run: Run

    def as_dict(self) -> dict[str, object]:
        """Return the plan for JSON."""
        return asdict(self)


class _Simulation:
    """Readers, ledger and user on a clock that jumps from event to event; reads that overlap share the bandwidth."""

    def __init__(
        self, profile: Profile, budget: int, readers: int, pinned: Collection[int], window: int, free_after_next: bool
    ) -> None:
        self._profile, self._readers, self._window = profile, readers, window
        self._pinned, self._late = frozenset(pinned), free_after_next
        self._sizes = [whole_pages(size) for size in profile.sizes]
        room = budget - sum(self._sizes[i] for i in self._pinned)
        others = [size for i, size in enumerate(self._sizes) if i not in self._pinned]
        self._ring = Ring(min(room, sum(others), (window + 1) * max(others, default=0) if window else room))
        self._count = len(self._sizes)
        self.now, self.stall, self.peak = 0.0, 0.0, 0
        self._held = self._unpinned = 0  # bytes and number of unpinned blocks
        self._admitted = self._used = 0
        self._active: dict[int, float] = {}  # block: bytes to go
        self._ready: set[int] = set()
        self._unfreed: deque[int] = deque()

    def run(self, passes: int) -> list[tuple[float, float]]:
        """Return (end of the pass, time stalled until then) for each pass."""
        ends = []
        for _ in range(passes):
            for index in range(self._count):
                self._use(index)
            ends.append((self.now, self.stall))
        return ends

    def _use(self, index: int) -> None:
        self._admit()
        begin = self.now
        if index not in self._ready:
            while index not in self._ready:
                self._advance(_NEVER)
            self._pass(self._profile.handover_s)
        self.stall += self.now - begin
        self._pass(self._profile.use_s[index])
        self._used += 1
        if index not in self._pinned:
            self._ready.discard(index)
            self._unfreed.append(index)
            while len(self._unfreed) > int(self._late):
                self._free(self._unfreed.popleft())
        self._admit()
        self._pass(self._profile.wait_s[index])

    def _free(self, index: int) -> None:
        self._ring.give_back()
        self._held -= self._sizes[index]
        self._unpinned -= 1

    def _pass(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self._advance(end)

    def _advance(self, limit: float) -> None:
        """Go on to `limit`, or to the end of a read if that is sooner."""
        rate = self._profile.rate(len(self._active)) / len(self._active) if self._active else 0.0
        first = min(self._active, key=lambda i: self._active[i]) if self._active else -1
        end = self.now + self._active[first] / rate if self._active else _NEVER
        if end > limit:
            for i in self._active:
                self._active[i] -= rate * (limit - self.now)
            self.now = limit
            return
        assert end < _NEVER, "nothing is read that the user waits for"
        left = self._active.pop(first)
        for i in self._active:
            self._active[i] -= left
        self.now = end
        self._ready.add(first)
        self._admit()

    def _admit(self) -> None:
        while len(self._active) < self._readers and self._admitted < self._used + self._count:
            index = self._admitted % self._count
            if index not in self._pinned:
                full = self._window and self._unpinned >= self._window
                present = index in self._ready or index in self._active or index in self._unfreed
                if full or present or self._ring.take(self._sizes[index]) is None:
                    return
                self._held += self._sizes[index]
                self._unpinned += 1
            elif index in self._ready:
                self._admitted += 1
                continue
            self._active[index] = float(self._profile.sizes[index])
            self._admitted += 1
            self.peak = max(self.peak, self._held)


def simulate(
    profile: Profile,
    budget_bytes: int,
    *,
    readers: int,
    pinned: Collection[int] = (),
    window: int = 0,
    free_after_next: bool = False,
    first_pass: bool = False,
) -> Run:
    """Return what a pass takes.

    Args:
        profile: what the blocks need.
        budget_bytes: most memory of blocks.
        readers: loading threads.
        pinned: blocks that stay.
        window: most unpinned blocks in memory; 0: only the budget counts.
        free_after_next: a block is freed when the next one was used, not when it was itself.
        first_pass: the first pass, which begins with nothing read, instead of the steady state.

    Raises:
        ModelError: OUT_OF_MEMORY, no block fits.
    """
    if budget_bytes < (least := smallest_budget(profile.sizes, pinned)):
        raise ModelError("the budget is too small for the blocks", got=budget_bytes, expected=f"at least {least} bytes")
    simulation = _Simulation(profile, budget_bytes, readers, pinned, window, free_after_next)
    ends = [(0.0, 0.0), *simulation.run(1)] if first_pass else simulation.run(4)
    (begin, stalled), (end, stall) = ends[-2], ends[-1]
    return Run(end - begin, stall - stalled, simulation.peak + sum(whole_pages(profile.sizes[i]) for i in pinned))


def pin_evenly(sizes: Sequence[int], budget_bytes: int) -> tuple[int, ...]:
    """Return blocks of at most `budget_bytes` together, spread evenly over the pass."""
    pages = [whole_pages(size) for size in sizes]
    share, owed, found, left = min(1.0, budget_bytes / sum(pages)), 0.0, [], budget_bytes
    for i, size in enumerate(pages):
        owed += share * size
        if owed >= size * (1 - 1e-9) and size <= left:
            owed -= size
            left -= size
            found.append(i)
    return tuple(found)


def plan(profile: Profile, budget_bytes: int, *, readers: Sequence[int] = READERS) -> Plan:
    """Return the fastest plan of a budget; of equal ones (1 %) that with the fewest readers.

    Args:
        profile: what the blocks need.
        budget_bytes: most memory of blocks.
        readers: numbers of loading threads to choose from.

    Raises:
        ModelError: OUT_OF_MEMORY, not even one block fits.
    """
    if budget_bytes < (least := smallest_budget(profile.sizes)):
        raise ModelError(
            "the memory budget is too small for the model's blocks",
            got=f"{budget_bytes} bytes",
            expected=f"at least {least} bytes",
            state=State.OUT_OF_MEMORY,
        )
    best: Plan | None = None
    for m in readers:
        for pinned in _pinnings(profile, budget_bytes, m):
            run = simulate(profile, budget_bytes, readers=m, pinned=pinned)
            if best is None or run.pass_s < 0.99 * best.run.pass_s:
                best = Plan(budget_bytes, m, pinned, run)
    assert best is not None
    return best


def _pinnings(profile: Profile, budget: int, readers: int) -> Iterator[tuple[int, ...]]:
    """Yield choices of pinned blocks, from those that leave most room to the readers to those that leave least."""
    pages = [whole_pages(size) for size in profile.sizes]
    if sum(pages) <= budget:
        yield tuple(range(len(pages)))
        return
    largest, seen = max(pages), set()
    for room in (*range(2 * readers + 2, 0, -1), 0):
        pinned = pin_evenly(profile.sizes, max(0, budget - max(1, room) * largest)) if room else ()
        if pinned not in seen and smallest_budget(profile.sizes, pinned) <= budget:
            seen.add(pinned)
            yield pinned
