# SPDX-License-Identifier: Apache-2.0
"""language_node: scene, speech and written questions in; the answers out, piece by piece.

Requests go to the fused loop the moment they arrive, so that they are answered side by side; `process` runs the loop
until the request of its message is answered, and yields what comes of all.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from edge_nodes.language import attention
from edge_nodes.language.config import LanguageConfig
from edge_nodes.language.constraint import Constraint
from edge_nodes.language.engine import Engine, load
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.fusion.loop import FusionEngine
from edge_nodes.language.fusion.request import Priority
from edge_nodes.language.prompt import NARRATION, Earlier, Messages, PromptComposer
from edge_nodes.language.reasoning.deliberation import Deliberation
from edge_nodes.language.scene import Scene
from edge_nodes.pipeline import Output, Pipeline, Progress
from edge_nodes.pipelines.answers import TOKEN, Answer, Request

_PENDING = 64  # messages whose answer is remembered until they come to `process`: more than can wait


class LanguagePipeline(Pipeline[LanguageConfig]):
    """Remembers the newest scene and answers what is asked about it.

    Args:
        config: the node's parameters.
    """

    config_type = LanguageConfig
    early = ("scene/event", "speech/event", "language/prompt", "language/narrate")
    updates_at_once = True

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__(config)
        self._engine: Engine | None = None
        self._loop: FusionEngine | None = None
        self._composer = PromptComposer(config.prompt.template)
        self._constraint = _constraint(config)
        self._lock = threading.RLock()  # `arrived` and `process` are on different threads
        self._running: list[Answer] = []
        self._pending: OrderedDict[int, Answer] = OrderedDict()
        self._scene: tuple[Scene, float] | None = None
        self._history: deque[tuple[Scene, float]] = deque()
        self._narrated_s = float("-inf")
        self._narrated_alarm = ""
        self._sequence = self._number = 0
        self._counts = {"answers": 0, "narrations": 0, "cancelled": 0, "failed": 0}
        self._last: Mapping[str, str | int | float] = {}
        self._attention = config.attention

    def load(self, progress: Progress) -> None:
        """Load the model and compute the fixed part of the prompt."""
        config = self.config
        self._engine = load(
            config.model,
            threads=config.threads,
            context_tokens=config.context_tokens,
            kernel=config.kernel,
            slots=config.fusion.slots,
            kv_cache=config.kv_cache,
            memory_budget_mb=config.memory_budget_mb,
            boards=config.boards,
            progress=progress,
        )
        self._attention = self._use(config)
        self._loop = FusionEngine(self._engine.model, self._engine.tokenizer, config.fusion)
        if self._constraint is not None:
            self._engine.matcher(self._constraint)
        progress("reading the prompt")
        prompt = self._engine.tokenizer.chat(self._composer.compose("Is anyone there?", None))
        self._loop.submit(prompt, max_new_tokens=1).wait()
        progress(f"{self._engine.name} ready on {self._engine.kernel} with {self._engine.model.threads} threads")

    def arrived(self, topic: str, message: Any, *, received_ns: int) -> bool:
        """Remember scenes, stop answers that are interrupted, and give questions and alarms to the loop at once."""
        if topic == "speech/event" and self.config.barge_in and _speech_event(message.data)["kind"] == "start":
            self._cancel(below=Priority.ALARM)
        with self._lock:
            answer = self._submit(topic, message, received_ns)
            if answer is None:
                return True
            self._pending[id(message)] = answer
            while len(self._pending) > _PENDING:
                self._pending.popitem(last=False)
        return False

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """Run the loop until a question is answered; see `Pipeline.process`."""
        with self._lock:
            answer = self._pending.pop(id(message), None) or self._submit(topic, message, received_ns)
        if answer is None:
            return
        if not wanted:
            answer.deliberation.cancel()
        # Messages come in the order of their arrival: of an earlier one that still runs, the message was dropped.
        while any(a.request.number <= answer.request.number for a in self._running):
            yield from self._advance(wanted)
        if answer.error is not None:
            raise answer.error

    def interrupt(self) -> None:
        """Stop all answers at their next token."""
        self._cancel()

    def call(self, service: str) -> str:
        """Cancel answers or forget what was seen; see `Pipeline.call`."""
        if service not in ("language/cancel", "language/reset"):
            return super().call(service)
        self.interrupt()
        if service == "language/cancel":
            return "answers asked for so far are cancelled"
        self._scene, self._narrated_alarm = None, ""
        self._history.clear()
        if self._loop is not None:
            self._loop.forget()
        return "answers asked for so far are cancelled, scene and prompt are forgotten"

    def update(self, config: LanguageConfig) -> None:
        """Take changed parameters; a template and a grammar are read again."""
        composer, constraint = self._composer, self._constraint
        if config.prompt.template != self.config.prompt.template:
            composer = PromptComposer(config.prompt.template)
        if config.reply_grammar != self.config.reply_grammar:
            constraint = _constraint(config)
        attends = (config.attention, config.delta) != (self.config.attention, self.config.delta)
        if attends and config.attention == "delta" and self._engine is not None:
            attention.find_calibration(config.delta, self._engine.path)
        self._composer, self._constraint = composer, constraint
        super().update(config)
        if attends and self._loop is not None:
            self._loop.between(self._attend)

    def status(self) -> Mapping[str, str | int | float]:
        """Return the model, its kernel, the loop's and the last answer's figures."""
        engine, loop = self._engine, self._loop
        if engine is None or loop is None:
            return {}
        about: dict[str, str | int | float] = {"requests": len(self._running), **self._about()}
        about["threads"], about["attention"] = int(engine.model.threads), self._attention
        found = loop.metrics.summary()
        chosen = ("occupancy", "rejected", "preempted", "shared_tokens", "token_ms_p50", "token_ms_p95")
        figures = {name: found[name] for name in chosen if name in found}
        return {
            **about,
            "model_memory_mb": _memory_mb(engine),
            "cache_used_mb": round(engine.model.cache_used_bytes / 2**20, 1),
            "cache_shared_mb": round(engine.model.cache_shared_bytes / 2**20, 1),
            "requests": len(self._running),
            **_boards(engine),
            **self._counts,
            **figures,
            **self._last,
        }

    def close(self) -> None:
        """Free the model."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._loop = None
        self._scene = None
        self._history.clear()
        self._running, self._pending = [], OrderedDict()

    def _cancel(self, *, below: int | None = None) -> None:
        with self._lock:
            for answer in self._running:
                if below is None or answer.request.priority < below:
                    answer.deliberation.cancel()

    def _see(self, scene: Scene, now_s: float) -> None:
        self._scene = (scene, now_s)
        about = self.config.prompt
        if not self._history or now_s - self._history[0][1] >= about.history_step_s:
            self._history.appendleft((scene, now_s))
        while len(self._history) > about.history + 1:  # the newest may be the current one
            self._history.pop()

    def _earlier(self, now_s: float) -> list[Earlier]:
        """Return the scenes before the current one, newest first."""
        known = [Earlier(now_s - then_s, scene) for scene, then_s in self._history]
        return [e for e in known if e.age_s >= self.config.prompt.history_step_s][: self.config.prompt.history]

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
        number, now_s = self._number, time.perf_counter()
        if topic == "scene/event":
            self._see(Scene.from_json(message.data), now_s)
            if not self._alarm_due(now_s) or self._scene is None:
                return None
            scene = self._scene[0]
            self._narrated_s, self._narrated_alarm = now_s, scene.alarm
            return Request(number, Priority.ALARM, "narration", scene.alarm, scene.stamp_ns, received_ns)
        if topic == "speech/event":
            event = _speech_event(message.data)
            if event["kind"] != "final" or not event["text"].strip():
                return None
            stamp_ns, end_ns = event["stamp_ns"], event["end_ns"]
            return Request(number, Priority.SPEECH, "speech", event["text"], stamp_ns, received_ns, end_ns)
        if topic == "language/narrate":
            seen = self._current_scene(now_s)
            about = ((seen.alarm or seen.text) if seen else "") or NARRATION
            return Request(number, Priority.NARRATION, "narration", about, received_ns, received_ns)
        if not message.data.strip():
            raise LanguageError("an empty question", got=repr(message.data), expected="some words")
        return Request(number, Priority.PROMPT, "prompt", message.data, received_ns, received_ns)

    def _compose(self, request: Request, scene: Scene | None) -> Messages:
        if request.source == "narration":
            return self._composer.narrate(scene)
        return self._composer.compose(request.text, scene, self._earlier(time.perf_counter()))

    def _submit(self, topic: str, message: Any, received_ns: int) -> Answer | None:
        """Give the loop what a message asks for, if it asks for anything."""
        request = self._request(topic, message, received_ns)
        if request is None:
            return None
        if self._loop is None or self._engine is None:
            raise LanguageError("no model is loaded", remedy="Configure the node first.")
        scene, engine, constraint = self._current_scene(time.perf_counter()), self._engine, self._constraint
        deliberation = Deliberation(
            self._loop,
            self._compose(request, scene),
            self.config.reasoning,
            self.config.sampling,
            max_new_tokens=self.config.max_new_tokens,
            priority=request.priority,
            stop=("\n",),
            matcher=(lambda: engine.matcher(constraint)) if constraint else None,
        )
        answer = Answer(request, scene, deliberation)
        self._number += 1
        self._running.append(answer)
        return answer

    def _advance(self, wanted: Collection[str]) -> Iterator[Output]:
        """Run one iteration; yield what became of it."""
        assert self._loop is not None
        with contextlib.suppress(Exception):  # every answer that the step was for has it as its error
            self._loop.step()
        with self._lock:
            done = [answer for answer in self._running if answer.advance()]
            shown = min(self._running, key=lambda a: a.request.number)
        if TOKEN in wanted:
            yield from shown.pieces()
        for answer in done:
            with self._lock:
                self._running.remove(answer)
            if wanted:
                self._count(answer)
                yield from answer.result(wanted, self._sequence, self._about())
                self._sequence += 1

    def _attend(self) -> None:
        self._attention = self._use(self.config)

    def _use(self, config: LanguageConfig) -> str:
        assert self._engine is not None
        engine = self._engine
        return attention.use(engine.model, config.attention, config.delta, path=engine.path, kv_cache=config.kv_cache)

    def _about(self) -> dict[str, Any]:
        assert self._engine is not None
        engine = self._engine
        return {"model": engine.name, "kernel": engine.kernel, "model_memory_mb": _memory_mb(engine)}

    def _count(self, answer: Answer) -> None:
        kinds = {"reply": "answers", "narration": "narrations", "cancelled": "cancelled", "error": "failed"}
        self._counts[kinds[answer.kind]] += 1
        latency = {f"{stage}_ms": round(ms, 1) for stage, ms in answer.latency_ms.items()}
        self._last = {"tokens_per_s": round(answer.tokens_per_s, 1), **latency, **(answer.skipped or {})}


def _boards(engine: Engine) -> Mapping[str, str | int | float]:
    """Return what is known of other boards that share the model, if there are any."""
    figures = getattr(engine.model, "figures", None)
    return figures() if figures else {}


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
