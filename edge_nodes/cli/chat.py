# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes chat`: questions from the terminal or from a pipe, answers as they are generated."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_nodes.errors import EdgeNodesError
from edge_nodes.language.config import BoardsConfig, SamplingConfig
from edge_nodes.language.constraint import Constraint
from edge_nodes.language.conversation import Conversation
from edge_nodes.language.engine import Generation, load

HELP = "/reset forgets what was said, /stats shows figures, /quit leaves; Ctrl-C stops an answer."


def chat(
    model: str,
    *,
    system: str,
    scene: Path | None,
    sampling: SamplingConfig,
    max_new_tokens: int,
    context_tokens: int,
    threads: int,
    grammar: Path | None,
) -> None:
    """Answer lines of standard input until its end; answers go to standard output, all else to standard error.

    Of a directory of shards, RANK's is computed here: rank 0 answers, the others take part until it ends.

    Raises:
        EdgeNodesError: the model, the bag or the grammar cannot be used.
    """
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    boards = _boards(Path(model))
    if boards.enabled and int(os.environ.get("RANK", "0")):
        from edge_nodes.cli.worker import work

        words: dict[str, Any] = {"master": boards.address, "port": boards.port, "threads": threads}
        return work(console, Path(model), **words, memory_budget_mb=0, once=True)
    engine = load(model, threads=threads, context_tokens=context_tokens, boards=boards, progress=say)
    constraint = Constraint.file(grammar) if grammar else None
    seen = None
    if scene is not None:
        from edge_nodes.cli.scenes import newest_scene

        seen = newest_scene(scene, say)
        say(f"scene: {seen.text or 'nothing'}")
    talk = Conversation(
        engine, system=system, scene=seen, sampling=sampling, max_new_tokens=max_new_tokens, constraint=constraint
    )
    say(f"{engine.name} on {engine.kernel}. {HELP}")
    try:
        _converse(talk, say)
    finally:
        engine.close()


def _converse(talk: Conversation, say: Callable[[str], None]) -> None:
    last: Generation | None = None
    for line in _lines():
        command = line.strip()
        if command == "/quit":
            break
        if command == "/reset":
            talk.reset()
            say("forgotten")
        elif command == "/stats":
            for name, value in stats(talk, last).items():
                say(f"{name:>20}  {value}")
        elif command.startswith("/"):
            say(HELP)
        elif command:
            try:
                last = _answer(talk, command)
            except EdgeNodesError as error:
                say(f"error: {error}")
            else:
                say(_summary(last))


def _boards(model: Path) -> BoardsConfig:
    """Return how this process finds the others, as torchrun says it, if the model is cut into shards."""
    address, port = os.environ.get("MASTER_ADDR", "0.0.0.0"), int(os.environ.get("MASTER_PORT", "29500"))
    return BoardsConfig(enabled=(model / "rank-0").is_dir(), address=address, port=port)


def stats(talk: Conversation, last: Generation | None) -> dict[str, Any]:
    """Return figures of the model, of the conversation and of the last answer."""
    engine = talk.engine
    found: dict[str, Any] = {
        "model": engine.name,
        "kernel": engine.kernel,
        "threads": engine.model.threads,
        "weights, MB": round(engine.model.weight_bytes / 1e6, 1),
        "cache, MB": round(engine.model.cache_bytes / 1e6, 1),
        "context, tokens": engine.context_tokens,
        "turns": len(talk.turns),
    }
    if last is not None:
        found |= {
            "prompt, tokens": last.prompt_tokens,
            "of them kept": last.cached_tokens,
            "prompt, ms": round(last.prefill_s * 1e3, 1),
            "answer, tokens": last.generated_tokens,
            "tokens/s": round(last.tokens_per_s, 1),
            "ended by": last.finish_reason,
        }
    return found


def _lines() -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401  line editing and history in input()
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return


def _answer(talk: Conversation, question: str) -> Generation:
    with _interruptible() as stop:
        run = talk.ask(question, stop.is_set)
        for token in run:
            print(token.text, end="", flush=True)
    print(flush=True)
    talk.keep(question, run)
    return run


def _summary(run: Generation) -> str:
    rate = f", {run.tokens_per_s:.1f} tokens/s" if run.tokens_per_s else ""
    new = run.prompt_tokens - run.cached_tokens
    stopped = " (stopped)" if run.finish_reason == "cancelled" else ""
    return f"{run.generated_tokens} tokens{rate}; {new} tokens of prompt read in {run.prefill_s * 1e3:.0f} ms{stopped}"


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Let Ctrl-C set an event instead of breaking a step of the model."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
