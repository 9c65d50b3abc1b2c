# SPDX-License-Identifier: Apache-2.0
"""One perpetual decoding loop for all requests: who is ready joins the next iteration, who has ended leaves.

Temporal fusion (Flover, arXiv 2305.13484): the weights are read once an iteration for the rows of every request,
whatever its position. Prompts come in by chunks between the rows of running answers; a prefix that some slot holds is
copied from there and not computed. A row's result does not depend on its neighbours, so each answer is the one that
the request would get alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from edge_nodes.errors import State
from edge_nodes.language import attention
from edge_nodes.language.config import FusionConfig, SamplingConfig
from edge_nodes.language.engine import common_prefix
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.fusion.metrics import Metrics, Slope
from edge_nodes.language.fusion.plan import Costs, Row, arrangement
from edge_nodes.language.fusion.request import Handle, Order, Priority, RequestState
from edge_nodes.language.sampling import Sampler, read_bias

if TYPE_CHECKING:
    from edge_nodes.language.constraint import Matcher
    from edge_nodes.language.tokenizer import Tokenizer

MIN_SHARED = 16  # a shorter prefix is computed again rather than copied
NATS_PER_BIT = float(np.log(2.0))


class QueueFullError(LanguageError):
    """As many requests wait as may."""


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

    def copy_cache(self, from_slot: int, to_slot: int, begin: int, end: int) -> None:
        """Make positions begin to end of one slot those of another."""


@dataclass
class _Slot:
    """A sequence of the key/value arena; `tokens` stay after the request, for those who share their beginning."""

    tokens: list[int] = field(default_factory=list)
    request: Handle | None = None
    used: int = 0


@dataclass
class _Batch:
    """The rows of one iteration; `drawn` has the request of each row of logits."""

    tokens: list[int] = field(default_factory=list)
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    drawn: list[Handle] = field(default_factory=list)
    held: list[tuple[_Slot, Sequence[int]]] = field(default_factory=list)
    prompt_rows: int = 0
    holes: int = 0

    def add(self, slot: int, first: int, tokens: Sequence[int], drawn: Handle | None) -> None:
        self.segments.append((slot, first, len(tokens)))
        self.tokens += tokens
        if drawn is not None:
            self.rows.append(len(self.tokens) - 1)
            self.drawn.append(drawn)


class FusionEngine:
    """The loop. `submit` may be called from any thread; `step` from one, or from the thread that `start` makes.

    Args:
        model: the model, with as many slots as requests may run at once; the loop alone may run it.
        tokenizer: the model's.
        config: queue, chunk of prompts and arrangement of the slots.
        clock: seconds.

    Raises:
        LanguageError: BAD_INPUT, more slots than a step takes tokens.
    """

    def __init__(
        self,
        model: SlotModel,
        tokenizer: Tokenizer,
        config: FusionConfig | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if model.slots > model.batch:
            raise LanguageError("too many slots", got=model.slots, expected=f"at most {model.batch}, a step's tokens")
        self.model, self.tokenizer, self.config = model, tokenizer, config or FusionConfig()
        self.metrics = Metrics()
        self.clock = clock
        self._arrangement = arrangement(self.config.arrangement)
        self._slots = [_Slot() for _ in range(model.slots)]
        self._waiting: list[Handle] = []
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._closing = self._forgets = False
        self._changes: list[Callable[[], None]] = []
        self._number = 0
        self._row_s, self._copy_s = Slope(), Slope()

    # -- requests --------------------------------------------------------------------------------------------------

    def submit(
        self,
        tokens: Sequence[int],
        sampling: SamplingConfig | None = None,
        *,
        max_new_tokens: int = 64,
        priority: int = Priority.PROMPT,
        deadline_s: float | None = None,
        stop: Sequence[str] = (),
        matcher: Matcher | None = None,
        entropy_top: int = 0,
    ) -> Handle:
        """Queue a request and return at once.

        Args:
            tokens: the prompt.
            sampling: how tokens are chosen; greedy by default. Each request draws from its own generator.
            max_new_tokens: longest answer.
            priority: the larger, the sooner; takes the slot of a request of lower priority, which starts again later.
            deadline_s: the answer ends this long after now, with what there is.
            stop: texts that end the answer.
            matcher: says which tokens may come (`Engine.matcher`); of this request alone.
            entropy_top: tokens that `Handle.top_entropy_bits` is over; 0 for none.

        Raises:
            QueueFullError: OVERLOADED, as many wait as may.
            LanguageError: BAD_INPUT, the prompt is empty or leaves no room in the context, or a bias is not valid.
        """
        if not 0 < len(tokens) < self.model.context:
            raise LanguageError(
                "the prompt does not fit the context",
                got=f"{len(tokens)} tokens",
                expected=f"1 to {self.model.context - 1}",
                remedy="Raise context_tokens or shorten the prompt.",
            )
        order = Order(
            tuple(tokens), sampling or SamplingConfig(), max_new_tokens, priority, deadline_s, tuple(stop), entropy_top
        )
        sampler = Sampler(order.sampling, read_bias(order.sampling.logit_bias, self.tokenizer))
        with self._changed:
            self._refuse_if_full()
            handle = Handle(
                self._number,
                order,
                sampler=sampler,
                matcher=matcher,
                decode=self.tokenizer.stream(),
                arrived_s=self.clock(),
                limit=min(max_new_tokens, self.model.context - len(tokens)),
                more=self._more,
                cancel=self._cancel,
            )
            self._number += 1
            self._waiting.append(handle)
            self.metrics.submitted += 1
            self._changed.notify_all()
        return handle

    def cancel_all(self, *, below: int | None = None) -> None:
        """Cancel every request, or those of a priority lower than `below`."""
        with self._changed:
            for handle in self.requests():
                if below is None or handle.order.priority < below:
                    handle.wants_cancel = True

    def forget(self) -> None:
        """Cancel every request and forget what the slots hold; prompts are computed anew."""
        with self._changed:
            self.cancel_all()
            self._forgets = True

    def between(self, change: Callable[[], None]) -> None:
        """Run `change` as soon as no request runs; who waits does so until then, and finds empty slots."""
        with self._changed:
            self._changes.append(change)
            self._changed.notify_all()

    def requests(self) -> list[Handle]:
        """Return those that run or wait, the oldest first."""
        with self._changed:
            running = [slot.request for slot in self._slots if slot.request]
            return sorted([*running, *self._waiting], key=lambda h: h.number)

    def _refuse_if_full(self) -> None:
        waiting = sum(not h.wants_cancel for h in self._waiting)
        free = sum(slot.request is None for slot in self._slots)
        if waiting >= self.config.queue + free:
            self.metrics.rejected += 1
            raise QueueFullError(
                "the queue of requests is full",
                got=f"{waiting} waiting",
                expected=f"at most {self.config.queue}",
                remedy="Ask again later, or raise fusion.queue or fusion.slots.",
                state=State.OVERLOADED,
            )

    def _cancel(self, handle: Handle) -> None:
        with self._changed:
            handle.wants_cancel = True
            self._changed.notify_all()

    def _more(self, handle: Handle) -> bool:
        """Let time pass for a handle that waits for a token; False if none will come."""
        with self._changed:
            if handle.state is RequestState.DONE:
                return False
            if self._thread is not None:
                self._changed.wait_for(lambda: handle.has_news, 1.0)
                return True
        self.step()
        return True

    # -- the thread ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the loop in a thread of its own until `close`."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fusion", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel all requests and end the thread."""
        self.cancel_all()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        while self.requests():
            self.step()

    def _run(self) -> None:
        while not self._closing:
            try:
                busy = self.step()
            except Exception:  # noqa: BLE001  its requests have it as their error; the loop goes on
                continue
            if not busy:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or bool(self._waiting))

    # -- one iteration ---------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Run one iteration; False if there was nothing to do.

        Raises:
            Exception: the model failed; every request that ran (or waited, if none ran) has it as its error.
        """
        try:
            return self._step()
        except Exception as error:
            self._fail(error)
            raise

    def _step(self) -> bool:
        with self._changed:
            self._drop_ended()
            self._change()
            self._admit()
            batch = self._compose()
        if not batch.segments:
            return False
        begin_s = self.clock()
        logits = self.model.forward(np.asarray(batch.tokens, np.int32), segments=batch.segments, rows=batch.rows)
        with self._changed:
            self._account(batch, self.clock() - begin_s)
            for handle, row in zip(batch.drawn, logits, strict=True):
                self._draw(handle, row)
            self._rearrange()
            self._changed.notify_all()
        return True

    def _drop_ended(self) -> None:
        now_s = self.clock()
        for handle in self.requests():
            if handle.wants_cancel or handle.overdue(now_s):
                self._end(handle, "cancelled" if handle.wants_cancel else "deadline")
        if self._forgets:
            self._forgets = False
            for slot in self._slots:
                slot.tokens = []

    def _change(self) -> None:
        if not self._changes or any(slot.request for slot in self._slots):
            return
        changes, self._changes = self._changes, []
        for slot in self._slots:
            slot.tokens = []
        for change in changes:
            change()

    def _end(self, handle: Handle, reason: str) -> None:
        for i, slot in enumerate(self._slots):
            if slot.request is handle:
                handle.skipped = attention.skipped(self.model, i, tokens=len(handle.order.tokens))
        handle.finish(reason, self.clock())
        self.metrics.done(handle)
        if handle in self._waiting:
            self._waiting.remove(handle)
        for slot in self._slots:
            if slot.request is handle:
                slot.request = None
        self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            running = [slot.request for slot in self._slots if slot.request]
            for handle in running or list(self._waiting):
                handle.error = error
                self._end(handle, "error")
            for slot in self._slots:
                slot.tokens = []

    def _admit(self) -> None:
        """Give free slots, and those of less urgent requests, to who waits: by priority, then arrival."""
        if self._changes:
            return
        for handle in sorted(self._waiting, key=_urgency):
            if all(slot.request for slot in self._slots) and not self._preempt(handle):
                return
            held = {i: common_prefix(slot.tokens, handle.sequence) for i, slot in enumerate(self._slots)}
            free = [i for i, slot in enumerate(self._slots) if slot.request is None]
            free.sort(key=lambda i: (-held[i] if held[i] >= MIN_SHARED else 0, self._slots[i].used))
            place = self._arrangement.place(self._rows(), free)
            slot = self._slots[place]
            shared = min(common_prefix(slot.tokens, handle.sequence), len(handle.sequence) - 1)
            del slot.tokens[shared:]
            slot.request = handle
            attention.begin(self.model, place, len(handle.order.tokens))
            self._shared(handle, shared)
            handle.state, handle.admitted_s = RequestState.PREFILL, handle.admitted_s or self.clock()
            self._waiting.remove(handle)

    def _preempt(self, handle: Handle) -> bool:
        """Put back the running request of the lowest priority if it is lower; what it has said stays."""
        victim = max((slot for slot in self._slots if slot.request), key=lambda slot: _urgency(slot.request))
        running = victim.request
        if running is None or running.order.priority >= handle.order.priority:
            return False
        victim.request = None
        running.state = RequestState.WAITING
        self._waiting.append(running)
        self.metrics.preempted += 1
        return True

    def _rows(self) -> list[Row | None]:
        return [
            Row(len(slot.tokens), slot.request.limit - slot.request.generated_tokens) if slot.request else None
            for slot in self._slots
        ]

    def _compose(self) -> _Batch:
        """Return the next rows: one a running answer, holes of the arrangement, then prompts as far as they fit."""
        batch, paused = _Batch(), self._paused()
        for i in self._arrangement.computed(self._rows()):
            slot = self._slots[i]
            handle = slot.request
            if handle in paused:
                continue
            if handle is None:
                del slot.tokens[self.model.context - 1 :]
                batch.add(i, len(slot.tokens), [0], None)
                batch.holes += 1
            elif handle.state is RequestState.DECODE:
                batch.add(i, len(slot.tokens), [handle.sequence[-1]], handle)
                batch.held.append((slot, [handle.sequence[-1]]))
        room = self.model.batch - len(batch.tokens)
        if batch.drawn:
            room = min(room, self.config.prefill_tokens)
        for i in self._prefill_order(paused):
            room -= self._add_prompt(batch, i, room)
        return batch

    def _paused(self) -> list[Handle]:
        """Return the running requests that wait for an alarm to be told: beside others it would take longer."""
        running = [slot.request for slot in self._slots if slot.request]
        alarm = self.config.alarm_alone and any(h.order.priority >= Priority.ALARM for h in running)
        return [h for h in running if alarm and h.order.priority < Priority.ALARM]

    def _prefill_order(self, paused: Sequence[Handle]) -> Iterator[int]:
        """Yield the slots with prompts to read, most urgent first; not those whose prefix one before them makes."""
        slots = [i for i, s in enumerate(self._slots) if s.request and s.request.state is RequestState.PREFILL]
        slots = [i for i in slots if self._slots[i].request not in paused]
        ahead: list[Handle] = []
        for i in sorted(slots, key=lambda i: _urgency(self._slots[i].request)):
            handle = self._slots[i].request
            assert handle is not None
            self._adopt(i, handle)
            soon = max((common_prefix(h.sequence, handle.sequence) for h in ahead), default=0)
            if soon < len(self._slots[i].tokens) + MIN_SHARED:
                yield i
            ahead.append(handle)

    def _adopt(self, index: int, handle: Handle) -> None:
        """Copy what another slot holds of the prompt beyond what this one does."""
        slot, most = self._slots[index], len(handle.sequence) - 1
        have, source = max((common_prefix(s.tokens, handle.sequence), i) for i, s in enumerate(self._slots))
        begin, end = len(slot.tokens), min(have, most)
        if end < begin + MIN_SHARED:
            return
        self._copy(source, index, begin, end)
        slot.tokens += handle.sequence[begin:end]
        self._shared(handle, end - begin)
        self.metrics.copied_bytes += (end - begin) * self.model.cache_bytes_per_token

    def _shared(self, handle: Handle, tokens: int) -> None:
        self.metrics.shared_tokens += tokens
        if not handle.generated_tokens:  # else it was put back, and its own tokens are among them
            handle.cached_tokens += tokens

    def _copy(self, source: int, target: int, begin: int, end: int) -> None:
        started_s = self.clock()
        self.model.copy_cache(source, target, begin, end)
        self._copy_s.add(end - begin, self.clock() - started_s)

    def _add_prompt(self, batch: _Batch, index: int, room: int) -> int:
        slot = self._slots[index]
        handle = slot.request
        assert handle is not None
        first = len(slot.tokens)
        chunk = handle.sequence[first : first + max(0, room)]
        if not chunk:
            return 0
        complete = first + len(chunk) == len(handle.sequence)
        batch.add(index, first, chunk, handle if complete else None)
        batch.held.append((slot, chunk))
        batch.prompt_rows += len(chunk)
        return len(chunk)

    def _account(self, batch: _Batch, seconds: float) -> None:
        m = self.metrics
        m.iterations += 1
        for slot, tokens in batch.held:
            slot.tokens += tokens
            slot.used = m.iterations
        m.prompt_rows += batch.prompt_rows
        m.hole_rows += batch.holes
        m.decoded_rows += len(batch.tokens) - batch.prompt_rows - batch.holes
        m.occupied += sum(slot.request is not None for slot in self._slots)
        if not batch.prompt_rows:
            self._row_s.add(len(batch.tokens), seconds)

    def _draw(self, handle: Handle, logits: npt.NDArray[np.float32]) -> None:
        """Choose a request's next token; what fails here is that request's error alone."""
        try:
            reason = self._next_token(handle, logits)
        except Exception as error:  # noqa: BLE001  the others go on
            handle.error, reason = error, "error"
        if reason is not None:
            self._end(handle, reason)

    def _next_token(self, handle: Handle, logits: npt.NDArray[np.float32]) -> str | None:
        from edge_nodes.native._kernels import statistics, top_entropy

        handle.state = RequestState.DECODE
        best, log_sum_exp, entropy = statistics(logits)
        top = top_entropy(logits, handle.order.entropy_top) if handle.order.entropy_top else 0.0
        token = handle.choose(best, logits)
        handle.drawn(entropy / NATS_PER_BIT, top)
        if token in self.tokenizer.end_tokens:
            return "stop"
        now_s = self.clock()
        if handle.latest_s is not None:
            self.metrics.token(now_s - handle.latest_s)
        return handle.accept(token, logprob=float(logits[token]) - log_sum_exp, entropy=entropy, now_s=now_s)

    def _rearrange(self) -> None:
        copy_s, row_s = self._copy_s.value, self._row_s.value
        costs = Costs(copy_s and copy_s * 1e3, row_s and row_s * 1e3)
        for move in self._arrangement.moves(self._rows(), costs):
            source, target = self._slots[move.source], self._slots[move.target]
            self._copy(move.source, move.target, 0, len(source.tokens))
            target.tokens, target.request, target.used = list(source.tokens), source.request, source.used
            source.request = None
            self.metrics.moves += 1
            self.metrics.moved_bytes += len(source.tokens) * self.model.cache_bytes_per_token


def _urgency(handle: Handle | None) -> tuple[int, int]:
    return (-handle.order.priority, handle.number) if handle else (0, 0)
