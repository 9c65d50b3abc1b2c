# SPDX-License-Identifier: Apache-2.0
"""Several attempts at one question, side by side or one after the other, and a vote.

Sequential attempts (The Sequential Edge, arXiv 2511.02309): each sees the complete earlier ones and is asked to check
them, to mend them and to answer in full. The paper's prompts are not published; those here are ours. All attempts are
requests of the fused loop: those of one question run as rows of the same iterations, beside everything else.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_nodes.language.config import ReasoningConfig, SamplingConfig
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.fusion.admission import QueueFullError
from edge_nodes.language.fusion.loop import FusionEngine
from edge_nodes.language.fusion.request import Handle, Priority
from edge_nodes.language.reasoning.answer_forms import parse_answer
from edge_nodes.language.reasoning.voting import ORDERED, TOP_TOKENS, Attempt, Vote, decided, vote

if TYPE_CHECKING:
    from edge_nodes.language.constraint import Matcher

Messages = Sequence[Mapping[str, str]]
REFINE = (
    "Look at the earlier answers. First find their mistakes. Then correct what is wrong and keep what is right. "
    "Then give your own complete answer, in the same form."
)


@dataclass(frozen=True)
class Record:
    """One attempt, as it was made.

    Attributes:
        text: what it said.
        answer: its answer in canonical form, None if it has none.
        entropy_bits: what it is weighed by.
        full_entropy_bits: mean entropy over the whole vocabulary.
        finish_reason: see `Handle`.
        prompt_tokens, generated_tokens: its cost.
    """

    text: str
    answer: str | None
    entropy_bits: float
    full_entropy_bits: float
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True)
class Outcome:
    """What came of a question.

    Attributes:
        text: of the elected attempt.
        finish_reason: "cancelled" or "deadline" if that ended it, else that of the elected attempt.
        records: all attempts, the earliest first.
        vote: how they elected it; attempts that were cut off have no vote unless all were.
        decided_early: whether attempts were spared as they could not have changed the vote.
    """

    text: str
    finish_reason: str
    records: tuple[Record, ...]
    vote: Vote
    decided_early: bool


def refined(messages: Messages, attempts: Sequence[str]) -> list[dict[str, str]]:
    """Return the conversation that asks again, with the earlier attempts and the request to check and mend them."""
    *before, question = [dict(m) for m in messages]
    earlier = [f"Earlier answer {i}:\n{text.strip()}" for i, text in enumerate(attempts, 1)]
    content = "\n\n".join([question["content"], *earlier, REFINE])
    return [*before, {**question, "content": content}]


class Deliberation:
    """The attempts at one question, while the loop runs. Call `advance` after each of its steps.

    Args:
        engine: the loop.
        messages: the conversation that the attempts continue.
        config: how many attempts, of what kind, and how they vote.
        sampling: how tokens are chosen; attempt i draws with seed + i.
        max_new_tokens: longest answer in the single mode.
        priority: of all its attempts.
        stop: texts that end an attempt.
        matcher: makes what says which tokens may come, for one attempt.

    Attributes:
        handles: the attempts' requests so far.
        outcome: None while it runs.

    Raises:
        QueueFullError: the loop takes no request.
        LanguageError: BAD_INPUT, the prompt does not fit the context.
    """

    def __init__(
        self,
        engine: FusionEngine,
        messages: Messages,
        config: ReasoningConfig,
        sampling: SamplingConfig | None = None,
        *,
        max_new_tokens: int = 64,
        priority: int = Priority.PROMPT,
        stop: Sequence[str] = (),
        matcher: Callable[[], Matcher] | None = None,
    ) -> None:
        self.config, self.messages = config, messages
        self.handles: list[Handle] = []
        self.outcome: Outcome | None = None
        self._engine, self._priority, self._stop, self._matcher = engine, priority, tuple(stop), matcher
        self._single = config.mode == "single"
        self._wanted = 1 if self._single else config.attempts
        self._limit = max_new_tokens if self._single else config.max_new_tokens
        sampling = sampling or SamplingConfig()
        self._sampling = sampling if self._single else dataclasses.replace(sampling, temperature=config.temperature)
        self._until_s = engine.clock() + config.deadline_s if config.deadline_s else None
        self._cancelled = False
        self._spared = False
        self._submit(self._engine.tokenizer.chat(messages))
        if config.mode == "parallel":
            self._submit_parallel()

    def cancel(self) -> None:
        """End all attempts at the next iteration."""
        self._cancelled = True
        for handle in self.handles:
            handle.cancel()

    def advance(self) -> bool:
        """See which attempts have ended, make the next one; True once there is an outcome."""
        if self.outcome is not None:
            return True
        ended = [h for h in self.handles if h.finish_reason is not None]
        if not self._over() and self._early(ended):
            self._spared = len(ended) < self._wanted
            self._wanted = len(ended)
            for handle in self.handles:
                handle.cancel()
            self.handles = ended
        elif len(ended) == len(self.handles) < self._wanted and not self._over() and not self._next():
            self._wanted = len(self.handles)
        if len(ended) == len(self.handles) and (self._over() or len(ended) >= self._wanted):
            self.outcome = self._conclude()
        return self.outcome is not None

    def run(self) -> Outcome:
        """Drive the loop until there is an outcome.

        Raises:
            Exception: what the only attempt failed of.
        """
        while not self.advance():
            if not self._engine.step():
                time.sleep(0)
        assert self.outcome is not None
        return self.outcome

    def _over(self) -> bool:
        late = self._until_s is not None and self._engine.clock() >= self._until_s
        return self._cancelled or late or any(h.finish_reason in ("cancelled", "deadline") for h in self.handles)

    def _submit(self, tokens: Sequence[int]) -> None:
        number, left_s = len(self.handles), None
        if self._until_s is not None:
            left_s = max(0.0, self._until_s - self._engine.clock())
        handle = self._engine.submit(
            tokens,
            dataclasses.replace(self._sampling, seed=self._sampling.seed + number),
            max_new_tokens=self._limit,
            priority=self._priority,
            deadline_s=left_s,
            stop=self._stop,
            matcher=self._matcher() if self._matcher else None,
            entropy_top=None if self._single else TOP_TOKENS,
            paced=self.config.mode != "parallel",  # its attempts end together
        )
        self.handles.append(handle)

    def _submit_parallel(self) -> None:
        tokens = self.handles[0].order.tokens
        try:
            while len(self.handles) < self._wanted:
                self._submit(tokens)
        except QueueFullError:
            self._wanted = len(self.handles)

    def _next(self) -> bool:
        """Ask again with the earlier attempts; False if they do not fit, or the queue is full."""
        earlier = [self._shortened(h) for h in self.handles[-1 if self.config.earlier == "last" else 0 :]]
        while earlier:
            tokens = self._engine.tokenizer.chat(refined(self.messages, earlier))
            if len(tokens) + self._limit <= self._engine.model.context:
                break
            earlier.pop(0)
        try:
            if earlier:
                self._submit(tokens)
        except LanguageError:
            return False
        return bool(earlier)

    def _shortened(self, handle: Handle) -> str:
        """Return the end of an attempt, where its answer is."""
        if handle.generated_tokens <= self.config.earlier_tokens:
            return handle.text
        return self._engine.tokenizer.decode(handle.answer[-self.config.earlier_tokens :])

    def _early(self, ended: Sequence[Handle]) -> bool:
        left = self._wanted - len(ended)
        if self._single or not self.config.early_stop or not ended or not left:
            return False
        if self.config.vote in ORDERED and list(ended) != self.handles[: len(ended)]:
            return False  # of attempts side by side, an earlier one may still be running
        return decided([_ballot(self._record(h)) for h in ended], left, self.config.vote)

    def _record(self, handle: Handle) -> Record:
        top = self.config.entropy == "top" and not self._single
        return Record(
            handle.text,
            parse_answer(handle.text, self.config.answer),
            handle.top_entropy_bits if top else handle.entropy_bits,
            handle.entropy_bits,
            handle.finish_reason or "",
            len(handle.order.tokens),
            handle.generated_tokens,
        )

    def _conclude(self) -> Outcome:
        failed = [h.error for h in self.handles if h.error is not None]
        if len(failed) == len(self.handles):
            raise failed[0]
        records = tuple(self._record(h) for h in self.handles)
        whole = any(r.finish_reason in ("stop", "length") for r in records)
        ballots = [
            _ballot(r) if r.finish_reason in ("stop", "length") or not whole else Attempt(None, r.entropy_bits)
            for r in records
        ]
        elected = vote(ballots, self.config.vote)
        spoken = [i for i, r in enumerate(records) if r.text.strip()]
        chosen = elected.winner if elected.winner is not None else (spoken or [0])[-1]
        reasons = {r.finish_reason for r in records}
        cut = "cancelled" if self._cancelled or "cancelled" in reasons else "deadline" if "deadline" in reasons else ""
        return Outcome(records[chosen].text, cut or records[chosen].finish_reason, records, elected, self._spared)


def _ballot(record: Record) -> Attempt:
    return Attempt(record.answer, record.entropy_bits)
