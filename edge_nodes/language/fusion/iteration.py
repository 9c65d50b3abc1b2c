# SPDX-License-Identifier: Apache-2.0
"""Which rows the next iteration has: a row of each running answer, and prompts in chunks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_nodes.language.config import FusionConfig
from edge_nodes.language.fusion.admission import urgency
from edge_nodes.language.fusion.arena import MIN_SHARED, Arena, Slot, soon_shared
from edge_nodes.language.fusion.pace import Pace
from edge_nodes.language.fusion.request import Handle, Priority, RequestState


@dataclass
class Batch:
    """The rows of one iteration.

    Attributes:
        tokens: of all rows.
        segments: (slot, first position, count) of their sequences.
        rows: those of which the logits are wanted, and `drawn` their requests.
        held: slots with the tokens they hold afterwards.
        prompt_rows: rows that read prompts.
        holes: rows for nobody.
        own: rows of the request that holds the pace.
    """

    tokens: list[int] = field(default_factory=list)
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    drawn: list[Handle] = field(default_factory=list)
    held: list[tuple[Slot, Sequence[int]]] = field(default_factory=list)
    prompt_rows: int = 0
    holes: int = 0
    own: int = 0

    def add(self, slot: int, first: int, tokens: Sequence[int], drawn: Handle | None) -> None:
        """Append a segment; `drawn` wants the logits of its last row."""
        self.segments.append((slot, first, len(tokens)))
        self.tokens += tokens
        if drawn is not None:
            self.rows.append(len(self.tokens) - 1)
            self.drawn.append(drawn)


def compose(arena: Arena, config: FusionConfig, pace: Pace) -> Batch:
    """Return the next rows: one a running answer, holes of the arrangement, then prompts as far as they fit.

    While a request holds the pace, the others get the rows that it spares, the most urgent first.

    Args:
        arena: the slots.
        config: longest chunk of prompts, and whether alarms are told alone.
        pace: who holds the pace.
    """
    paused = _paused(arena, config)
    if pace.holder is not None and pace.holder not in paused:
        return _paced(arena, pace, pace.holder, paused)
    batch = Batch()
    for i in arena.computed():
        handle = arena.slots[i].request
        if handle is None:
            _add_hole(batch, arena, i)
        elif handle.state is RequestState.DECODE and handle not in paused:
            _add_answer(batch, i, arena.slots[i], handle)
    room = arena.model.batch - len(batch.tokens)
    _add_prompts(batch, arena, min(room, config.prefill_tokens) if batch.drawn else room, without=paused)
    return batch


def _paced(arena: Arena, pace: Pace, holder: Handle, paused: Sequence[Handle]) -> Batch:
    batch = Batch()
    places = {id(slot.request): i for i, slot in enumerate(arena.slots) if slot.request}
    _add(batch, arena, places[id(holder)], arena.model.batch)
    batch.own = len(batch.tokens)
    others = sorted((h for h in arena.running() if h is not holder and h not in paused), key=urgency)
    answers = [h for h in others if h.state is RequestState.DECODE]
    wanted = len(answers) + sum(_unread(arena, places[id(h)]) for h in others if h.state is RequestState.PREFILL)
    room = pace.spare(batch.own, min(wanted, arena.model.batch - batch.own))
    for handle in answers[:room]:
        _add_answer(batch, places[id(handle)], arena.slots[places[id(handle)]], handle)
    _add_prompts(batch, arena, room - len(answers[:room]), without=paused, first=holder)
    return batch


def _paused(arena: Arena, config: FusionConfig) -> list[Handle]:
    """Return the running requests that wait for an alarm to be told: beside others it would take longer."""
    running = arena.running()
    alarm = config.alarm_alone and any(h.order.priority >= Priority.ALARM for h in running)
    return [h for h in running if alarm and h.order.priority < Priority.ALARM]


def _unread(arena: Arena, index: int) -> int:
    handle = arena.slots[index].request
    return len(handle.sequence) - len(arena.slots[index].tokens) if handle else 0


def _add(batch: Batch, arena: Arena, index: int, room: int) -> None:
    """Add the next rows of a request, whatever its state."""
    handle = arena.slots[index].request
    assert handle is not None
    if handle.state is RequestState.DECODE:
        _add_answer(batch, index, arena.slots[index], handle)
    else:
        arena.adopt(index, handle)
        _add_prompt(batch, arena, index, room)


def _add_answer(batch: Batch, index: int, slot: Slot, handle: Handle) -> None:
    batch.add(index, len(slot.tokens), handle.sequence[-1:], handle)
    batch.held.append((slot, handle.sequence[-1:]))


def _add_hole(batch: Batch, arena: Arena, index: int) -> None:
    slot = arena.slots[index]
    del slot.tokens[arena.model.context - 1 :]
    batch.add(index, len(slot.tokens), [0], None)
    batch.holes += 1


def _add_prompts(
    batch: Batch, arena: Arena, room: int, *, without: Sequence[Handle], first: Handle | None = None
) -> None:
    """Add chunks of prompts, most urgent first; not of those whose prefix one before them makes.

    Args:
        batch: the rows so far.
        arena: the slots.
        room: rows that may be added.
        without: requests that wait.
        first: one that has its rows already.
    """
    reading = [
        (handle, i)
        for i, slot in enumerate(arena.slots)
        if (handle := slot.request) and handle.state is RequestState.PREFILL and handle not in without
    ]
    ahead = [handle for handle, _ in reading if handle is first]
    for handle, i in sorted(reading, key=lambda pair: urgency(pair[0])):
        if room <= 0:
            return
        if handle is first:
            continue
        arena.adopt(i, handle)
        if soon_shared(ahead, handle) < len(arena.slots[i].tokens) + MIN_SHARED:
            room -= _add_prompt(batch, arena, i, room)
        ahead.append(handle)


def _add_prompt(batch: Batch, arena: Arena, index: int, room: int) -> int:
    slot = arena.slots[index]
    handle = slot.request
    assert handle is not None
    first = len(slot.tokens)
    chunk = handle.sequence[first : first + room]
    complete = first + len(chunk) == len(handle.sequence)
    batch.add(index, first, chunk, handle if complete else None)
    batch.held.append((slot, chunk))
    batch.prompt_rows += len(chunk)
    return len(chunk)
