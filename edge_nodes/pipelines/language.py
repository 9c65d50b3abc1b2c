# SPDX-License-Identifier: Apache-2.0
"""language_node: scene, speech and written questions in; the answer out, piece by piece."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge_nodes import events
from edge_nodes.language.config import LanguageConfig
from edge_nodes.language.constraint import Constraint
from edge_nodes.language.engine import Engine, Generation, load
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.prompt import NARRATION, Messages, PromptComposer
from edge_nodes.language.scene import Scene
from edge_nodes.pipeline import Output, Pipeline, Progress

TOKEN, REPLY, EVENT = "language/token", "language/reply", "language/event"
_ARRIVALS = 64  # messages whose arrival is remembered: more than can wait


@dataclass(frozen=True)
class Request:
    """A request to the model.

    Attributes:
        source: "speech", "prompt" or "narration".
        text: what was asked.
        stamp_ns: stamp of the message it is from.
        received_ns: its arrival on the node's clock.
        arrived_s: its arrival on the monotonic clock.
        end_of_speech_ns: when the person stopped to speak, on the node's clock; None if nobody spoke.
    """

    source: str
    text: str
    stamp_ns: int
    received_ns: int
    arrived_s: float
    end_of_speech_ns: int | None = None


class LanguagePipeline(Pipeline[LanguageConfig]):
    """Remembers the newest scene and answers what is asked about it.

    Args:
        config: the node's parameters.
    """

    config_type = LanguageConfig
    early = ("scene/event", "speech/event", "language/prompt", "language/narrate")

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__(config)
        self._engine: Engine | None = None
        self._composer = PromptComposer(config.prompt.template)
        self._constraint = _constraint(config)
        self._stop = threading.Event()
        self._scene: tuple[Scene, float] | None = None
        self._arrivals: OrderedDict[int, float] = OrderedDict()
        self._cancelled_s = float("-inf")
        self._forget = False
        self._narrated_s = float("-inf")
        self._narrated_alarm = ""
        self._sequence = 0
        self._counts = {"answers": 0, "narrations": 0, "cancelled": 0}
        self._last: Mapping[str, str | int | float] = {}

    def load(self, progress: Progress) -> None:
        """Load the model and compute the fixed part of the prompt."""
        config = self.config
        self._engine = load(
            config.model,
            threads=config.threads,
            context_tokens=config.context_tokens,
            kernel=config.kernel,
            kv_cache=config.kv_cache,
            memory_budget_mb=config.memory_budget_mb,
            progress=progress,
        )
        if self._constraint is not None:
            self._engine.matcher(self._constraint)
        progress("reading the prompt")
        self._engine.prefill(self._engine.tokenizer.chat(self._composer.compose("Is anyone there?", None)))
        progress(f"{self._engine.name} ready on {self._engine.kernel} with {self._engine.model.threads} threads")

    def arrived(self, topic: str, message: Any) -> bool:
        """Remember scenes, stop an answer that is interrupted; only questions and alarms are left to `process`."""
        now_s = time.perf_counter()
        if topic == "scene/event":
            self._see(Scene.from_json(message.data), now_s)
            return not self._alarm_due(now_s)
        if topic == "speech/event":
            event = _speech_event(message.data)
            if event["kind"] == "start" and self.config.barge_in:
                self.interrupt()
            if event["kind"] != "final" or not event["text"].strip():
                return True
        self._arrivals[id(message)] = now_s
        while len(self._arrivals) > _ARRIVALS:
            self._arrivals.popitem(last=False)
        return False

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """Answer a question; see `Pipeline.process`."""
        self._stop.clear()
        if self._forget and self._engine is not None:
            self._forget = False
            self._engine.reset()
        request = self._request(topic, message, received_ns)
        if request is not None and wanted:
            yield from self._answer(request, wanted)

    def interrupt(self) -> None:
        """Stop the running answer at its next token."""
        self._stop.set()

    def call(self, service: str) -> str:
        """Cancel answers or forget what was seen; see `Pipeline.call`."""
        if service not in ("language/cancel", "language/reset"):
            return super().call(service)
        self._cancelled_s = time.perf_counter()
        self.interrupt()
        if service == "language/cancel":
            return "answers asked for so far are cancelled"
        self._scene, self._narrated_alarm, self._forget = None, "", True  # the engine is the worker's: later
        return "answers asked for so far are cancelled, scene and prompt are forgotten"

    def update(self, config: LanguageConfig) -> None:
        """Take changed parameters; a template and a grammar are read again."""
        composer, constraint = self._composer, self._constraint
        if config.prompt.template != self.config.prompt.template:
            composer = PromptComposer(config.prompt.template)
        if config.reply_grammar != self.config.reply_grammar:
            constraint = _constraint(config)
        self._composer, self._constraint = composer, constraint
        super().update(config)

    def status(self) -> Mapping[str, str | int | float]:
        """Return the model, its kernel and the last answer's figures."""
        engine = self._engine
        if engine is None:
            return {}
        about: dict[str, str | int | float] = {
            "model": engine.name,
            "kernel": engine.kernel,
            "threads": int(engine.model.threads),
        }
        return {**about, "model_memory_mb": _memory_mb(engine), **self._counts, **self._last}

    def close(self) -> None:
        """Free the model."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        self._scene = None

    def _see(self, scene: Scene, now_s: float) -> None:
        self._scene = (scene, now_s)

    def _current_scene(self, now_s: float) -> Scene | None:
        if self._scene is None or now_s - self._scene[1] > self.config.prompt.scene_max_age_s:
            return None
        return self._scene[0]

    def _alarm_due(self, now_s: float) -> bool:
        scene = self._scene[0] if self._scene else None
        if scene is None or not scene.alarm:
            self._narrated_alarm = ""
            return False
        rested = now_s - self._narrated_s >= self.config.narrate_interval_s
        return self.config.narrate == "alarms" and rested and scene.alarm != self._narrated_alarm

    def _request(self, topic: str, message: Any, received_ns: int) -> Request | None:
        now_s = time.perf_counter()
        arrived_s = self._arrivals.pop(id(message), now_s)
        if topic == "scene/event":
            self._see(Scene.from_json(message.data), now_s)
            if not self._alarm_due(now_s) or self._scene is None:
                return None
            scene = self._scene[0]
            self._narrated_s, self._narrated_alarm = now_s, scene.alarm
            return Request("narration", scene.alarm, scene.stamp_ns, received_ns, arrived_s)
        if topic == "speech/event":
            event = _speech_event(message.data)
            if event["kind"] != "final" or not event["text"].strip():
                return None
            return Request("speech", event["text"], event["stamp_ns"], received_ns, arrived_s, event["end_ns"])
        if topic == "language/narrate":
            seen = self._current_scene(now_s)
            about = (seen.alarm or seen.text) if seen else ""
            return Request("narration", about or NARRATION, received_ns, received_ns, arrived_s)
        if not message.data.strip():
            raise LanguageError("an empty question", got=repr(message.data), expected="some words")
        return Request("prompt", message.data, received_ns, received_ns, arrived_s)

    def _compose(self, request: Request, scene: Scene | None) -> Messages:
        if request.source == "narration":
            return self._composer.narrate(scene)
        return self._composer.compose(request.text, scene)

    def _answer(self, request: Request, wanted: Collection[str]) -> Iterator[Output]:
        engine = self._engine
        if engine is None:
            raise LanguageError("no model is loaded", remedy="Configure the node first.")
        begin_s = time.perf_counter()
        scene = self._current_scene(begin_s)
        run = engine.generate(
            engine.tokenizer.chat(self._compose(request, scene)),
            self.config.sampling,
            max_new_tokens=self.config.max_new_tokens,
            stop=("\n",),
            constraint=self._constraint,
            interrupted=lambda: self._stop.is_set() or request.arrived_s <= self._cancelled_s,
        )
        first_s = None
        for token in run:
            first_s = first_s or time.perf_counter()
            if TOKEN in wanted and token.text:
                yield Output(TOKEN, {"data": token.text})
        if REPLY in wanted:
            yield Output(REPLY, {"data": run.text.strip()})
        latency = _latency(request, run, begin_s, first_s, time.perf_counter())
        self._count(request, run, latency)
        if EVENT in wanted:
            yield Output(EVENT, {"data": events.encode(self._event(request, run, scene, latency))})
        self._sequence += 1

    def _count(self, request: Request, run: Generation, latency: Mapping[str, float]) -> None:
        kind = "narrations" if request.source == "narration" else "answers"
        self._counts["cancelled" if run.finish_reason == "cancelled" else kind] += 1
        rate = round(run.tokens_per_s, 1)
        self._last = {"tokens_per_s": rate, **{f"{stage}_ms": round(ms, 1) for stage, ms in latency.items()}}

    def _event(
        self, request: Request, run: Generation, scene: Scene | None, latency: Mapping[str, float]
    ) -> dict[str, Any]:
        assert self._engine is not None
        kinds = {"cancelled": "cancelled"}
        kind = kinds.get(run.finish_reason or "", "narration" if request.source == "narration" else "reply")
        return {
            "schema": "edge_nodes/language/1",
            "stamp_ns": request.stamp_ns,
            "sequence": self._sequence,
            "latency_ms": {stage: round(ms, 3) for stage, ms in latency.items()},
            "kind": kind,
            "request": {"source": request.source, "text": request.text},
            "text": run.text.strip(),
            "finish_reason": run.finish_reason,
            "scene_sequence": scene.sequence if scene else None,
            "tokens": {"prompt": run.prompt_tokens, "cached": run.cached_tokens, "generated": run.generated_tokens},
            "tokens_per_s": round(run.tokens_per_s, 2),
            "model": self._engine.name,
            "kernel": self._engine.kernel,
            "model_memory_mb": _memory_mb(self._engine),
        }


def _constraint(config: LanguageConfig) -> Constraint | None:
    return Constraint.file(config.reply_grammar) if config.reply_grammar else None


def _memory_mb(engine: Engine) -> float:
    return float(round((engine.model.weight_bytes + engine.model.cache_bytes) / 2**20, 1))


def _speech_event(text: str) -> dict[str, Any]:
    """Return the fields of a `speech/event` that matter here.

    Raises:
        LanguageError: BAD_INPUT, not a speech event.
    """
    try:
        event = json.loads(text)
        return {
            "kind": str(event["kind"]),
            "text": str(event["text"]),
            "stamp_ns": int(event["stamp_ns"]),
            "end_ns": int(event["end_ns"]),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise LanguageError(
            "a speech event is not valid", got=f"{type(error).__name__}: {error}", expected="see docs/events.md"
        ) from error


def _latency(
    request: Request, run: Generation, begin_s: float, first_s: float | None, end_s: float
) -> dict[str, float]:
    out = {"queue": (begin_s - request.arrived_s) * 1e3, "prefill": run.prefill_s * 1e3}
    if first_s is not None:
        out["first_token"] = (first_s - request.arrived_s) * 1e3
        if request.end_of_speech_ns is not None:
            out["from_end_of_speech"] = (request.received_ns - request.end_of_speech_ns) / 1e6 + out["first_token"]
    return {**out, "total": (end_s - request.arrived_s) * 1e3}
