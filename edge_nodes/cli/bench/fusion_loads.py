# SPDX-License-Identifier: Apache-2.0
"""Loads of requests that arrive by the clock, and the ways to run one: the loop, static batches, llama.cpp's server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_nodes.cli import llama_cpp
from edge_nodes.language.config import FusionConfig
from edge_nodes.language.fusion.loop import FusionEngine
from edge_nodes.language.fusion.pace import StepCosts
from edge_nodes.language.fusion.request import Handle

REQUESTS, PROMPT, STATIC = 32, 16, 8
TOKENS = range(300, 40000)  # that prompts are made of


@dataclass(frozen=True)
class Load:
    """Requests: when each arrives, in seconds; its prompt; how many tokens it gets."""

    name: str
    arrivals_s: Sequence[float]
    prompts: Sequence[Sequence[int]]
    lengths: Sequence[int]

    @property
    def tokens(self) -> int:
        """Return all tokens that are generated."""
        return sum(self.lengths)


@dataclass
class Run:
    """How a load went; times in seconds, by request."""

    total_s: float = 0.0
    latency_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    metrics: Mapping[str, float | int] = field(default_factory=dict)


class Limited:
    """A model of which the loop sees only some slots."""

    def __init__(self, model: Any, slots: int) -> None:
        self._model, self.slots = model, min(slots, model.slots)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class Endless:
    """A tokenizer without end tokens, so that every answer has its full length."""

    end_tokens: frozenset[int] = frozenset()

    def __init__(self, tokenizer: Any) -> None:
        self.stream: Callable[[], Callable[[int], str]] = tokenizer.stream


def make(name: str, arrivals_s: Sequence[float], length: int, lengths: Sequence[int] | None = None) -> Load:
    """Return a load with random prompts; all answers have one length, or their own."""
    prompts = np.random.default_rng(len(arrivals_s)).choice(TOKENS, (len(arrivals_s), PROMPT)).tolist()
    return Load(name, arrivals_s, prompts, lengths or [length] * len(arrivals_s))


def loop(model: Any, tokenizer: Any, slots: int, *, costs: StepCosts | None = None, **config: Any) -> FusionEngine:
    """Return a loop over some slots of a model, with a queue for all requests."""
    return FusionEngine(Limited(model, slots), tokenizer, FusionConfig(queue=REQUESTS, **config), costs=costs)


def fused(
    model: Any,
    tokenizer: Any,
    load: Load,
    slots: int,
    *,
    arrangement: str = "index",
    slack: float = 0.0,
    costs: StepCosts | None = None,
) -> Run:
    """Give each request to the loop when it arrives; one slot is one after another."""
    engine = loop(model, tokenizer, slots, costs=costs, arrangement=arrangement, latency_slack=slack)
    handles: list[Handle] = []
    begin_s = time.perf_counter()
    while len(handles) < len(load.arrivals_s) or engine.requests():
        submit(engine, load, handles, time.perf_counter() - begin_s)
        if not engine.step():
            _sleep_until(begin_s + load.arrivals_s[len(handles)])
    return _outcome(load, handles, begin_s, engine)


def static(model: Any, tokenizer: Any, load: Load, window_s: float) -> Run:
    """Collect a batch, or what came within the window, and run it to its end before the next."""
    engine = loop(model, tokenizer, STATIC, latency_slack=0.0)
    handles: list[Handle] = []
    begin_s = time.perf_counter()
    while len(handles) < len(load.arrivals_s):
        batch = load.arrivals_s[len(handles) : len(handles) + STATIC]
        _sleep_until(begin_s + min(batch[-1], batch[0] + window_s))
        submit(engine, load, handles, time.perf_counter() - begin_s, len(handles) + STATIC)
        while engine.step():
            pass
    return _outcome(load, handles, begin_s, engine)


def submit(engine: FusionEngine, load: Load, handles: list[Handle], now_s: float, most: int = REQUESTS) -> None:
    """Give the loop the requests that have arrived and that it does not have yet, up to the `most`-th."""
    while len(handles) < min(most, len(load.arrivals_s)) and load.arrivals_s[len(handles)] <= now_s:
        number = len(handles)
        handles.append(engine.submit(load.prompts[number], max_new_tokens=load.lengths[number]))


def _sleep_until(when_s: float) -> None:
    time.sleep(max(0.0, when_s - time.perf_counter()))


def _outcome(load: Load, handles: Sequence[Handle], begin_s: float, engine: FusionEngine) -> Run:
    run = Run(metrics=engine.metrics.summary())
    for at, handle in zip(load.arrivals_s, handles, strict=True):
        assert handle.done_s is not None and handle.first_s is not None
        run.latency_s.append(handle.done_s - begin_s - at)
        run.first_s.append(handle.first_s - begin_s - at)
    run.total_s = max(h.done_s or 0.0 for h in handles) - begin_s
    return run


def ask_peer(peer: llama_cpp.LlamaCpp, load: Load) -> Run:
    """The same requests to llama.cpp's server, each by a thread of its own."""
    run = Run(latency_s=[0.0] * len(load.lengths))
    begin_s = time.perf_counter()

    def ask(number: int) -> None:
        _sleep_until(begin_s + load.arrivals_s[number])
        peer.complete(load.prompts[number], load.lengths[number])
        run.latency_s[number] = time.perf_counter() - begin_s - load.arrivals_s[number]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(load.lengths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.total_s = max(at + took for at, took in zip(load.arrivals_s, run.latency_s, strict=True))
    return run
