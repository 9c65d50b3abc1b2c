# SPDX-License-Identifier: Apache-2.0
"""One perpetual decoding loop for all requests: who is ready joins the next iteration, who has ended leaves.

Temporal fusion (Flover, arXiv 2305.13484): the weights are read once an iteration for the rows of every request,
whatever its position. Prompts come in by chunks between the rows of running answers; a prefix that some slot holds is
taken from there and not computed. A row's result does not depend on its neighbours, so each answer is the one that
the request would get alone. Who gets a slot is decided in `admission`, what an iteration computes in `iteration`, how
long the first request may be delayed in `pace`, and what the slots hold in `arena`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_nodes.language import attention
from edge_nodes.language.config import FusionConfig, SamplingConfig
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.fusion.admission import Admission
from edge_nodes.language.fusion.arena import Arena, SlotModel
from edge_nodes.language.fusion.iteration import Batch, compose
from edge_nodes.language.fusion.metrics import Metrics
from edge_nodes.language.fusion.pace import Pace, StepCosts
from edge_nodes.language.fusion.plan import arrangement
from edge_nodes.language.fusion.request import Handle, Order, Priority, RequestState
from edge_nodes.language.sampling import Sampler, read_bias

if TYPE_CHECKING:
    from edge_nodes.language.constraint import Matcher
    from edge_nodes.language.tokenizer import Tokenizer

NATS_PER_BIT = float(np.log(2.0))


class FusionEngine:
    """The loop. `submit` may be called from any thread; `step` from one, or from the thread that `start` makes.

    Args:
        model: the model, with as many slots as requests may run at once; the loop alone may run it.
        tokenizer: the model's.
        config: queue, chunk of prompts and arrangement of the slots.
        costs: what iterations of this model cost as far as another loop has learnt it; nothing by default.
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
        costs: StepCosts | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if model.slots > model.batch:
            raise LanguageError("too many slots", got=model.slots, expected=f"at most {model.batch}, a step's tokens")
        self.model, self.tokenizer, self.config = model, tokenizer, config or FusionConfig()
        self.metrics = Metrics()
        self.clock = clock
        self._costs = costs or StepCosts(model.batch)
        self._pace = Pace(self.config.latency_slack, self._costs)
        self._arena = Arena(model, arrangement(self.config.arrangement), self.metrics, clock)
        self._admission = Admission(self._arena, self._pace, self.config.queue, self.metrics, clock)
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._closing = self._forgets = False
        self._changes: list[Callable[[], None]] = []
        self._number = 0

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
        entropy_top: int | None = None,
        paced: bool = True,
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
            entropy_top: tokens that `Handle.top_entropy_bits` is over; 0 for `Handle.entropy_bits` alone. None: neither
                entropies nor log-probabilities are computed, those of its tokens are not numbers.
            paced: if it comes first it keeps nearly the pace it has alone (`fusion.latency_slack`).

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
            tuple(tokens),
            sampling or SamplingConfig(),
            max_new_tokens,
            priority,
            deadline_s,
            tuple(stop),
            entropy_top,
            paced,
        )
        sampler = Sampler(order.sampling, read_bias(order.sampling.logit_bias, self.tokenizer))
        with self._changed:
            self._admission.refuse_if_full()
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
            self._admission.waiting.append(handle)
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
            return sorted([*self._arena.running(), *self._admission.waiting], key=lambda h: h.number)

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
                    self._changed.wait_for(lambda: self._closing or bool(self._admission.waiting))

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
            if not self._changes:
                self._admission.admit()
            batch = compose(self._arena, self.config, self._pace)
        if not batch.segments:
            return False
        begin_s = self.clock()
        logits = self.model.forward(np.asarray(batch.tokens, np.int32), segments=batch.segments, rows=batch.rows)
        with self._changed:
            self._account(batch)
            if batch.drawn:
                best = logits.argmax(axis=1).tolist()
                for handle, row, token in zip(batch.drawn, logits, best, strict=True):
                    self._draw(handle, row, token)
            self._learn(batch, self.clock() - begin_s)
            self._arena.rearrange(self._costs.row_s)
            self._changed.notify_all()
        return True

    def _drop_ended(self) -> None:
        now_s = self.clock()
        for handle in self.requests():
            if handle.wants_cancel or handle.overdue(now_s):
                self._end(handle, "cancelled" if handle.wants_cancel else "deadline")
        if self._forgets:
            self._forgets = False
            self._arena.forget()

    def _change(self) -> None:
        if not self._changes or self._arena.running():
            return
        changes, self._changes = self._changes, []
        self._arena.forget()
        for change in changes:
            change()

    def _end(self, handle: Handle, reason: str) -> None:
        for i, slot in enumerate(self._arena.slots):
            if slot.request is handle:
                handle.skipped = attention.skipped(self.model, i, tokens=len(handle.order.tokens))
        handle.finish(reason, self.clock())
        self.metrics.done(handle)
        if handle in self._admission.waiting:
            self._admission.waiting.remove(handle)
        self._arena.release(handle)
        self._pace.release(handle)
        self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            for handle in self._arena.running() or list(self._admission.waiting):
                handle.error = error
                self._end(handle, "error")
            self._arena.forget()

    def _account(self, batch: Batch) -> None:
        m = self.metrics
        m.iterations += 1
        for slot, tokens in batch.held:
            slot.tokens += tokens
            slot.used = m.iterations
        m.prompt_rows += batch.prompt_rows
        m.hole_rows += batch.holes
        m.decoded_rows += len(batch.tokens) - batch.prompt_rows - batch.holes
        m.paced += bool(batch.own)
        m.occupied += len(self._arena.running())

    def _learn(self, batch: Batch, seconds: float) -> None:
        rows = len(batch.tokens)
        self._costs.add(rows, seconds)
        if batch.own:
            self._pace.paid(batch.own, rows - batch.own, seconds)

    def _draw(self, handle: Handle, logits: npt.NDArray[np.float32], best: int) -> None:
        """Choose a request's next token; what fails here is that request's error alone."""
        try:
            reason = self._next_token(handle, logits, best)
        except Exception as error:  # noqa: BLE001  the others go on
            handle.error, reason = error, "error"
        if reason is not None:
            self._end(handle, reason)

    def _next_token(self, handle: Handle, logits: npt.NDArray[np.float32], best: int) -> str | None:
        handle.state = RequestState.DECODE
        token, logprob, entropy = handle.choose(best, logits), math.nan, math.nan
        if handle.order.entropy_top is not None:
            logprob, entropy = _measure(handle, logits, token)
        if token in self.tokenizer.end_tokens:
            return "stop"
        now_s = self.clock()
        if handle.latest_s is not None:
            self.metrics.token(now_s - handle.latest_s)
        return handle.accept(token, logprob=logprob, entropy=entropy, now_s=now_s)


def _measure(handle: Handle, logits: npt.NDArray[np.float32], token: int) -> tuple[float, float]:
    """Return a token's log-probability and the distribution's entropy, nats; the request notes the entropies."""
    from edge_nodes.native._kernels import statistics, top_entropy

    _, log_sum_exp, entropy = statistics(logits)
    top = top_entropy(logits, handle.order.entropy_top) if handle.order.entropy_top else 0.0
    handle.drawn(entropy / NATS_PER_BIT, top)
    return float(logits[token]) - log_sum_exp, entropy
