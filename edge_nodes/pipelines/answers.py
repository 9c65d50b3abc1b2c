# SPDX-License-Identifier: Apache-2.0
"""A request to the language node on its way through the fused loop, and the messages that come of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from edge_nodes import events
from edge_nodes.language.attention import total
from edge_nodes.language.fusion.request import Handle, Priority
from edge_nodes.language.reasoning.deliberation import Deliberation, Outcome
from edge_nodes.language.scene import Scene
from edge_nodes.pipeline import Output

TOKEN, REPLY, EVENT = "language/token", "language/reply", "language/event"


@dataclass(frozen=True)
class Request:
    """A request to the model.

    Attributes:
        number: counts up with each request.
        priority: its place in the queue.
        source: "speech", "prompt" or "narration".
        text: what was asked.
        stamp_ns: stamp of the message it is from.
        received_ns: its arrival on the node's clock.
        end_of_speech_ns: when the person stopped to speak, on the node's clock; None if nobody spoke.
    """

    number: int
    priority: Priority
    source: str
    text: str
    stamp_ns: int
    received_ns: int
    end_of_speech_ns: int | None = None


class Answer:
    """A running answer.

    Args:
        request: what was asked.
        scene: what the robot saw then.
        deliberation: the attempts at it.

    Attributes:
        error: what it failed of, None if it did not.
        latency_ms: of each stage, once it is complete.
    """

    def __init__(self, request: Request, scene: Scene | None, deliberation: Deliberation) -> None:
        self.request, self.scene, self.deliberation = request, scene, deliberation
        self.error: Exception | None = None
        self.latency_ms: dict[str, float] = {}
        self._streamed = ""

    @property
    def kind(self) -> str:
        """Return the kind of its event."""
        if self.error is not None:
            return "error"
        outcome = self.deliberation.outcome
        if outcome is not None and outcome.finish_reason == "cancelled":
            return "cancelled"
        return "narration" if self.request.source == "narration" else "reply"

    @property
    def tokens_per_s(self) -> float:
        """Return the rate of all attempts' tokens after the first."""
        handles = self._handles()
        first = [h.first_s for h in handles if h.first_s is not None]
        done = [h.done_s for h in handles if h.done_s is not None]
        if not first or not done or max(done) <= min(first):
            return 0.0
        return (sum(h.generated_tokens for h in handles) - 1) / (max(done) - min(first))

    @property
    def skipped(self) -> dict[str, float | int] | None:
        """Return what delta attention left out over all attempts; None with dense attention."""
        found = [h.skipped for h in self._handles() if h.skipped is not None]
        return total(found).plain() if found else None

    def advance(self) -> bool:
        """Take what the loop has made; True once the answer is complete, or has failed."""
        try:
            done = self.deliberation.advance()
        except Exception as error:  # noqa: BLE001  this answer's own: the others go on
            self.error, done = error, True
        if done:
            self.latency_ms = self._latency()
        return done

    def pieces(self) -> Iterator[Output]:
        """Yield the text that is new since the last call: of a single attempt as it grows, else of the elected one."""
        outcome = self.deliberation.outcome
        text = outcome.text if outcome is not None else ""
        if self.deliberation.config.mode == "single" and self.error is None:
            text = self._handles()[0].text
        piece, self._streamed = text[len(self._streamed) :], text
        if piece:
            yield Output(TOKEN, {"data": piece})

    def result(self, wanted: Collection[str], sequence: int, about: dict[str, Any]) -> Iterator[Output]:
        """Yield reply and event of a complete answer.

        Args:
            wanted: output topics that somebody reads.
            sequence: number of the event.
            about: further fields of the event.
        """
        outcome = self.deliberation.outcome
        text = outcome.text.strip() if outcome else ""
        if REPLY in wanted and self.error is None:
            yield Output(REPLY, {"data": text})
        if EVENT in wanted:
            yield Output(EVENT, {"data": events.encode({**self._event(text, outcome), "sequence": sequence, **about})})

    def _handles(self) -> list[Handle]:
        return self.deliberation.handles

    def _event(self, text: str, outcome: Outcome | None) -> dict[str, Any]:
        handles, request = self._handles(), self.request
        counts = {"prompt": 0, "cached": 0, "generated": 0}
        for h in handles:
            counts["prompt"] += len(h.order.tokens)
            counts["cached"] += h.cached_tokens
            counts["generated"] += h.generated_tokens
        event = {
            "schema": "edge_nodes/language/1",
            "stamp_ns": request.stamp_ns,
            "latency_ms": {stage: round(ms, 3) for stage, ms in self.latency_ms.items()},
            "kind": self.kind,
            "request": {"id": request.number, "source": request.source, "text": request.text},
            "text": text,
            "finish_reason": outcome.finish_reason if outcome else "error",
            "scene_sequence": self.scene.sequence if self.scene else None,
            "tokens": counts,
            "tokens_per_s": round(self.tokens_per_s, 2),
        }
        if skipped := self.skipped:
            event["attention"] = skipped
        if self.error is not None:
            event["error"] = str(self.error)
        if outcome is not None and self.deliberation.config.mode != "single":
            event["reasoning"] = self._reasoning(outcome)
        return event

    def _reasoning(self, outcome: Outcome) -> dict[str, Any]:
        config = self.deliberation.config
        attempts = [
            {
                "text": record.text.strip(),
                "answer": record.answer,
                "entropy_bits": round(record.entropy_bits, 4),
                "weight": round(weight, 4),
                "tokens": record.generated_tokens,
                "finish_reason": record.finish_reason,
            }
            for record, weight in zip(outcome.records, outcome.vote.weights, strict=True)
        ]
        return {
            "mode": config.mode,
            "vote": config.vote,
            "answer": outcome.vote.answer,
            "totals": {answer: round(total, 4) for answer, total in outcome.vote.totals.items()},
            "attempts": attempts,
            "decided_early": outcome.decided_early,
        }

    def _latency(self) -> dict[str, float]:
        handles, request = self._handles(), self.request
        arrived_s, out = handles[0].arrived_s, {}
        admitted_s, first_s = handles[0].admitted_s, handles[0].first_s
        if admitted_s is not None:
            out["queue"] = (admitted_s - arrived_s) * 1e3
        if first_s is not None and admitted_s is not None:
            out |= {"prefill": (first_s - admitted_s) * 1e3, "first_token": (first_s - arrived_s) * 1e3}
            if request.end_of_speech_ns is not None:
                heard_ms = (request.received_ns - request.end_of_speech_ns) / 1e6
                out["from_end_of_speech"] = heard_ms + out["first_token"]
        done = [h.done_s for h in handles if h.done_s is not None]
        return {**out, "total": (max(done) - arrived_s) * 1e3} if done else out
