# SPDX-License-Identifier: Apache-2.0
"""A request to the fused loop, as its sender sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from edge_nodes.language.answer_text import AnswerText
from edge_nodes.language.config import SamplingConfig
from edge_nodes.language.engine import Token
from edge_nodes.language.sampling import Logits, Sampler

if TYPE_CHECKING:
    from edge_nodes.language.attention import Skipped
    from edge_nodes.language.constraint import Matcher


class Priority(IntEnum):
    """Who goes first."""

    NARRATION = 0
    PROMPT = 1
    SPEECH = 2
    ALARM = 3


class RequestState(str, Enum):
    """Where a request is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


@dataclass(frozen=True)
class Order:
    """What a request asks for.

    Attributes:
        tokens: the prompt.
        sampling: how tokens are chosen.
        max_new_tokens: longest answer.
        priority: the larger, the sooner; see `Priority`.
        deadline_s: the answer ends this long after its arrival, with what there is; None for no limit.
        stop: texts that end the answer.
        entropy_top: tokens that the top entropy is over, 0 for that of the vocabulary alone; None: neither entropies
            nor log-probabilities are computed.
        paced: it may hold the pace, see `fusion.pace`.
    """

    tokens: tuple[int, ...]
    sampling: SamplingConfig
    max_new_tokens: int
    priority: int = Priority.PROMPT
    deadline_s: float | None = None
    stop: tuple[str, ...] = ()
    entropy_top: int | None = None
    paced: bool = True


class Handle(Iterator[Token]):
    """A submitted request; iterating yields its tokens as they come, and drives the loop if no thread does.

    Attributes:
        number: counts up from 0 with each request of the loop.
        order: what was asked for.
        state: where it is.
        finish_reason: None while it runs; then "stop", "length", "cancelled", "deadline" or "error".
        error: what failed, with finish reason "error".
        cached_tokens: prompt tokens that some slot held already.
        generated_tokens: tokens of the answer so far.
        arrived_s, admitted_s, first_s, latest_s, done_s: times on the loop's clock, None before they come: submitted,
            got a slot, first and latest token, ended.
        skipped: what delta attention left out, once the answer has ended; None with dense attention.
        entropy_bits: mean entropy of the distributions its tokens were drawn from, bits; 0 unless asked for.
        top_entropy_bits: the same over the most probable `order.entropy_top` tokens, renormalised.
    """

    def __init__(
        self,
        number: int,
        order: Order,
        *,
        sampler: Sampler,
        matcher: Matcher | None,
        decode: Callable[[int], str],
        arrived_s: float,
        limit: int,
        more: Callable[[Handle], bool],
        cancel: Callable[[Handle], None],
    ) -> None:
        self.number, self.order = number, order
        self.state = RequestState.WAITING
        self.finish_reason: str | None = None
        self.error: Exception | None = None
        self.cached_tokens = 0
        self.skipped: Skipped | None = None
        self.arrived_s = arrived_s
        self.admitted_s: float | None = None
        self.first_s: float | None = None
        self.latest_s: float | None = None
        self.done_s: float | None = None
        self.limit = limit
        self.sequence = list(order.tokens)
        self._sampler, self._matcher = sampler, matcher
        self.wants_cancel = False
        self._text = AnswerText(decode, order.stop)
        self._ready: deque[Token] = deque()
        self._drawn, self._entropy, self._top_entropy = 0, 0.0, 0.0
        self._more, self._cancel = more, cancel

    @property
    def text(self) -> str:
        """Return the answer so far, without stop texts."""
        return self._text.text

    @property
    def answer(self) -> Sequence[int]:
        """Return the tokens of the answer so far."""
        return self.sequence[len(self.order.tokens) :]

    @property
    def generated_tokens(self) -> int:
        """Return how many tokens the answer has so far."""
        return len(self.sequence) - len(self.order.tokens)

    @property
    def entropy_bits(self) -> float:
        """Return the mean entropy of the model's distributions so far, bits."""
        return self._entropy / self._drawn if self._drawn else 0.0

    @property
    def top_entropy_bits(self) -> float:
        """Return the mean entropy over the renormalised `order.entropy_top` most probable tokens so far, bits."""
        return self._top_entropy / self._drawn if self._drawn else 0.0

    @property
    def has_news(self) -> bool:
        """Return whether there are tokens to take, or none will come any more."""
        return bool(self._ready) or self.state is RequestState.DONE

    def cancel(self) -> None:
        """End the answer at the next iteration; its slot is free from then on. May be called from any thread."""
        self._cancel(self)

    def take(self) -> list[Token]:
        """Return the tokens that came since the last call; never waits."""
        out = []
        while self._ready:
            out.append(self._ready.popleft())
        return out

    def wait(self) -> str:
        """Return the text once the answer is complete.

        Raises:
            Exception: what the answer failed of.
        """
        for _ in self:
            pass
        if self.error is not None:
            raise self.error
        return self.text

    def __next__(self) -> Token:
        while not self._ready:
            if not self._more(self) and not self._ready:
                raise StopIteration
        return self._ready.popleft()

    # -- what the loop does to it ----------------------------------------------------------------------------------

    def overdue(self, now_s: float) -> bool:
        """Return whether the deadline has passed."""
        return self.order.deadline_s is not None and now_s - self.arrived_s >= self.order.deadline_s

    def choose(self, best: int, logits: Logits) -> int:
        """Return the next token.

        Args:
            best: index of the largest logit.
            logits: float32 (vocabulary,).
        """
        if self._matcher is None:
            return best if self._sampler.greedy else self._sampler(logits, self.answer)
        token = self._sampler(logits, self.answer, self._matcher.allowed())
        self._matcher.take(token)
        return token

    def drawn(self, entropy_bits: float, top_entropy_bits: float) -> None:
        """Note the entropy of a distribution that a token was drawn from, the end token included."""
        self._drawn += 1
        self._entropy += entropy_bits
        self._top_entropy += top_entropy_bits

    def accept(self, token: int, *, logprob: float, entropy: float, now_s: float) -> str | None:
        """Append a token; return the finish reason if it ends the answer."""
        self.sequence.append(token)
        self.latest_s = now_s
        if self.first_s is None:
            self.first_s = now_s
        piece = self._text.push(token)
        formed = self._matcher is not None and self._matcher.done
        reason = "stop" if self._text.stopped or formed else "length" if self.generated_tokens >= self.limit else None
        if reason == "length":
            piece += self._text.flush()
        self._ready.append(Token(token, piece, logprob, entropy))
        return reason

    def finish(self, reason: str, now_s: float) -> None:
        """End the answer; text held back for a stop text belongs to it unless it was cut off."""
        held = self._text.flush() if reason == "stop" and not self._text.stopped else ""
        if held:
            self._ready.append(Token(-1, held, 0.0, 0.0))
        self.state, self.finish_reason, self.done_s = RequestState.DONE, reason, now_s
