# SPDX-License-Identifier: Apache-2.0
"""Decoding: prompt tokens in, a stream of tokens out, with the cache of the last prompt reused."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_nodes import heap, models
from edge_nodes.errors import EdgeNodesError, State
from edge_nodes.language import kernel_choice
from edge_nodes.language.answer_text import AnswerText
from edge_nodes.language.blocks.directory import is_block_directory
from edge_nodes.language.config import BoardsConfig, SamplingConfig
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.sampling import Sampler, read_bias
from edge_nodes.language.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edge_nodes.language.constraint import Constrainer, Constraint, Matcher
    from edge_nodes.language.gguf_file import GgufFile

METHODS = ("lut", "dot")
REFERENCE = "reference"  # integers in plain C++, which every kernel equals
PREFILL_TOKENS = 64  # tokens of one step: a prompt can be interrupted between steps


class Token(NamedTuple):
    """One generated token.

    Attributes:
        id: token id.
        text: text that it completes; may be empty.
        logprob: natural logarithm of the probability the model gave it.
        entropy: entropy of the model's distribution, nats.
    """

    id: int
    text: str
    logprob: float
    entropy: float


class Engine:
    """A model, its tokenizer and its key/value cache. Not thread-safe: one answer at a time.

    Args:
        model: `edge_nodes.native._kernels.Model` with all weights set.
        tokenizer: the model's tokenizer.
        name: what the model is called in events.
        path: its file; None if it has none of its own.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, *, name: str, path: Path | None = None) -> None:
        self.model, self.tokenizer, self.name, self.path = model, tokenizer, name, path
        self._cached: list[int] = []
        self._constrainer: Constrainer | None = None

    @property
    def kernel(self) -> str:
        """Name of the kernels in use."""
        return str(self.model.kernel)

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and answer may hold together."""
        return int(self.model.context)

    def reset(self) -> None:
        """Forget the cached prompt."""
        self._cached = []

    def close(self) -> None:
        """End what reads weights in the background; the engine cannot be used any more."""
        if close := getattr(self.model, "close", None):
            close()

    def generate(
        self,
        tokens: Sequence[int],
        sampling: SamplingConfig | None = None,
        *,
        max_new_tokens: int = 64,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Generation:
        """Return an iterator over the tokens that follow `tokens`.

        Args:
            tokens: prompt; the longest prefix it shares with the last prompt and answer is not computed again.
            sampling: how tokens are chosen; greedy by default.
            max_new_tokens: the answer's longest length.
            stop: texts that end the answer; they are not part of it.
            constraint: form that the answer must have; it ends where nothing more may follow.
            interrupted: asked before every step; True ends the answer with finish_reason "cancelled".

        Raises:
            LanguageError: BAD_INPUT, the prompt is empty or leaves no room in the context; the logit bias or the
                constraint is not valid.
        """
        if not 0 < len(tokens) < self.context_tokens:
            raise LanguageError(
                "the prompt does not fit the context",
                got=f"{len(tokens)} tokens",
                expected=f"1 to {self.context_tokens - 1}",
                remedy="Raise context_tokens or shorten the prompt.",
            )
        sampling = sampling or SamplingConfig()
        return Generation(
            self,
            list(tokens),
            Sampler(sampling, read_bias(sampling.logit_bias, self.tokenizer)),
            max_new_tokens,
            stop=tuple(stop),
            matcher=self.matcher(constraint) if constraint else None,
            interrupted=interrupted,
        )

    def matcher(self, constraint: Constraint) -> Matcher:
        """Return what follows one answer through `constraint`; the first call reads the vocabulary (0.3 s).

        Raises:
            LanguageError: BAD_INPUT, the constraint is not valid.
        """
        if self._constrainer is None:
            from edge_nodes.language.constraint import Constrainer

            self._constrainer = Constrainer(self.tokenizer, int(self.model.vocabulary))
        return self._constrainer.matcher(constraint)

    def prefill(self, tokens: Sequence[int], interrupted: Callable[[], bool] = lambda: False) -> tuple[Any, int]:
        """Bring `tokens` into the cache; return the logits after the last and how many tokens were there already.

        The last token is always computed, as its logits are not kept. The logits are None if interrupted.
        """
        cached = common_prefix(self._cached, tokens)
        cached = min(cached, len(tokens) - 1)
        del self._cached[cached:]
        if begin := getattr(self.model, "begin_delta", None):  # delta attention's window depends on the prompt
            begin(0, len(tokens))
        logits = None
        for start in range(cached, len(tokens), self.model.batch):
            if interrupted():
                return None, cached
            chunk = tokens[start : start + self.model.batch]
            logits = self._forward(chunk, start)
            self._cached += chunk
        return logits, cached

    def step(self, token: int) -> Any:
        """Append one token; return the logits after it, float32 (vocabulary,)."""
        logits = self._forward([token], len(self._cached))
        self._cached.append(token)
        return logits

    def _forward(self, tokens: Sequence[int], first: int) -> Any:
        try:
            return self.model.forward(np.asarray(tokens, np.int32), first)
        except EdgeNodesError:  # keys may be lost with a board
            self.reset()
            raise


class Generation(Iterator[Token]):
    """A running answer.

    Attributes:
        prompt_tokens, cached_tokens, generated_tokens: counts so far.
        prefill_s, decode_s: time spent on the prompt and on the tokens after the first.
        finish_reason: None while it runs; then "stop", "length" or "cancelled".
    """

    def __init__(
        self,
        engine: Engine,
        tokens: list[int],
        sampler: Sampler,
        max_new_tokens: int,
        *,
        stop: tuple[str, ...],
        matcher: Matcher | None,
        interrupted: Callable[[], bool],
    ) -> None:
        self.prompt_tokens, self.cached_tokens, self.generated_tokens = len(tokens), 0, 0
        self.prefill_s = self.decode_s = 0.0
        self.finish_reason: str | None = None
        self._engine, self._tokens, self._interrupted = engine, tokens, interrupted
        self._text = AnswerText(engine.tokenizer.stream(), stop)
        self._limit = min(max_new_tokens, engine.context_tokens - len(tokens))
        self._sample, self._matcher = sampler, matcher
        self._steps = self._run()

    def __next__(self) -> Token:
        return next(self._steps)

    @property
    def text(self) -> str:
        """Return the answer so far, without stop texts."""
        return self._text.text

    @property
    def tokens_per_s(self) -> float:
        """Return the rate of the tokens after the first; 0 if there are none."""
        return (self.generated_tokens - 1) / self.decode_s if self.decode_s > 0.0 else 0.0

    def _run(self) -> Iterator[Token]:
        started = time.perf_counter()
        logits, self.cached_tokens = self._engine.prefill(self._tokens, self._interrupted)
        self.prefill_s = time.perf_counter() - started
        answer: list[int] = []
        while self.finish_reason is None:
            if logits is None or self._interrupted():
                self.finish_reason = "cancelled"
                break
            token, logprob, entropy = self._choose(logits, answer)
            if token in self._engine.tokenizer.end_tokens:
                self.finish_reason = "stop"
                break
            answer.append(token)
            self.generated_tokens += 1
            ready = self._text.push(token)
            if self._text.stopped or (self._matcher is not None and self._matcher.done):
                self.finish_reason = "stop"
            elif self.generated_tokens >= self._limit:
                self.finish_reason = "length"
                ready += self._text.flush()
            yield Token(token, ready, logprob, entropy)
            if self.finish_reason is None:
                logits = self._timed_step(token)
        held = "" if self.finish_reason == "cancelled" else self._text.flush()
        if held:
            yield Token(-1, held, 0.0, 0.0)

    def _choose(self, logits: Any, answer: Sequence[int]) -> tuple[int, float, float]:
        if self._matcher is None:
            return self._sample.take(logits, answer)
        token, logprob, entropy = self._sample.take(logits, answer, self._matcher.allowed())
        self._matcher.take(token)
        return token, logprob, entropy

    def _timed_step(self, token: int) -> Any:
        started = time.perf_counter()
        logits = self._engine.step(token)
        self.decode_s += time.perf_counter() - started
        return logits


def load(
    path: str | Path,
    *,
    threads: int = 0,
    context_tokens: int = 2048,
    kernel: str = "auto",
    slots: int = 1,
    kv_cache: str = "f16",
    memory_budget_mb: int = 0,
    boards: BoardsConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Load a language model.

    Args:
        path: name of an installed model ("smollm2-135m"), path of a GGUF file (Llama or BitNet b1.58), or a block
            directory (`edge-nodes models convert`).
        threads: threads of the engine; 0 for `default_threads()`.
        context_tokens: tokens that prompt and answer may hold together; at most the model's own limit.
        kernel: "auto"; one of `edge_nodes.native._kernels.supported_kernels()`; for ternary weights "lut" or "dot", the
            processor's best instructions with look-up tables or int8 products forced, where "auto" takes the faster
            one (see `kernel_choice`); or "reference", plain C++. None of them changes a result.
        slots: sequences that the key/value cache holds.
        kv_cache: what keys and values are kept as: "f16", "f32" or "i8".
        memory_budget_mb: most memory of weights, key/value cache and work space, MiB; weights that do not fit are
            streamed from a block directory, which is made of a GGUF file at the first time. 0: all in memory.
        boards: other boards that share the model; `path` is then the directory of shards.
        progress: called with one line of text at each step.

    Raises:
        ModelError: there is no such model, or it differs from its manifest.
        LanguageError: MODEL_BAD, the file is not one this engine can run; NO_DEVICE, no such kernel; OUT_OF_MEMORY, the
            budget is too small: it says what would do.
    """
    options: dict[str, Any] = {"slots": slots, "kv_cache": kv_cache, "threads": threads, "kernel": kernel}

    def make(sizes: Mapping[str, Any], context_limit: float) -> Any:
        return make_model(sizes, int(min(context_tokens, context_limit)), **options)

    try:
        return _open(path, make, options, boards=boards, memory_budget_mb=memory_budget_mb, progress=progress)
    finally:
        heap.give_back()  # what lists of words took: 4 of 912 MB for a BitNet-2B shape


def _open(
    path: str | Path,
    make: Callable[[Mapping[str, Any], float], Any],
    options: dict[str, Any],
    *,
    boards: BoardsConfig | None,
    memory_budget_mb: int,
    progress: Callable[[str], None],
) -> Engine:
    """Return the engine of a model that `make` makes of sizes and context; `options` are what it goes by."""
    if boards is not None and boards.enabled:
        from edge_nodes.language.boards.master import open_boards

        shared, metadata, name = open_boards(path, make, boards, memory_budget_mb=memory_budget_mb, progress=progress)
        return Engine(shared, Tokenizer(metadata), name=name)
    if memory_budget_mb or is_block_directory(path):
        from edge_nodes.language.blocks.streaming import open_streamed

        streamed, metadata, name = open_streamed(path, make, memory_budget_mb=memory_budget_mb, progress=progress)
        return Engine(streamed, Tokenizer(metadata), name=name)
    found = models.find(str(path), verify=False)
    from edge_nodes.language import gguf_file

    progress(f"reading {found.path.name}")
    file = gguf_file.GgufFile(found.path, found.manifest.get("metadata"))
    tokenizer = Tokenizer(file.metadata)
    options["dense"] = _dense(file, options["kernel"], options["slots"], progress)
    try:
        model = make(file.sizes(), file.number("context_length", math.inf))
    except (ValueError, TypeError) as error:
        raise file.bad("unsupported sizes", error) from error
    file.fill(model, progress)
    kernel_choice.tune(model)
    return Engine(model, tokenizer, name=str(found.manifest.get("name", file.name)), path=found.path)


def make_model(
    sizes: Mapping[str, Any],
    context_tokens: int,
    *,
    slots: int,
    kv_cache: str,
    threads: int,
    kernel: str,
    dense: bool = False,
) -> Any:
    """Return a native model without weights.

    Args:
        sizes: see `GgufFile.sizes`.
        context_tokens: positions of its key/value cache.
        slots: see `load`, as the others.
        kv_cache: type of the cache.
        threads: 0 for `default_threads()`.
        kernel: instruction set or method.
        dense: pack ternary weights at 1.60 bits, where they have one scale; otherwise at 2.00.

    Raises:
        LanguageError: NO_DEVICE, no such kernel.
        ValueError: sizes that cannot be.
    """
    native = _native()
    instructions, method = _kernel(native, kernel)
    return native.Model(
        **sizes,
        context=context_tokens,
        slots=slots,
        cache=kv_cache,
        batch=PREFILL_TOKENS,
        threads=threads or default_threads(),
        kernel=instructions,
        method=method,
        dense=dense,
    )


def _kernel(native: Any, kernel: str) -> tuple[str, str]:
    """Return the instruction set and the method that `kernel` names."""
    if kernel not in ("auto", REFERENCE, *METHODS, *native.supported_kernels()):
        raise LanguageError(
            "this processor has no such kernel",
            got=kernel,
            expected="one of auto, lut, dot, reference, " + ", ".join(native.supported_kernels()),
            state=State.NO_DEVICE,
        )
    if kernel == REFERENCE:
        return "portable", "dot"
    return ("auto", kernel) if kernel in METHODS else (kernel, "auto")


def _dense(file: GgufFile, kernel: str, slots: int, progress: Callable[[str], None]) -> bool:
    """Return whether ternary weights are kept at 1.60 bits, and say so."""
    instructions, method = _kernel(_native(), kernel)
    if file.dense:
        dense = kernel_choice.density(instructions).dense
        progress(
            "weights stay at 1.60 bits" if dense else "weights of 1.69 bits are repacked to 2.00, which is faster here"
        )
        return dense
    # Of what the caches hold, and for several sequences together, two bits are the faster ones.
    if file.ternary_weights < kernel_choice.FROM_MEMORY or slots > 1 or method != "auto" or kernel == REFERENCE:
        return False
    dense = kernel_choice.density(instructions).repacked
    if dense:
        progress("weights of 2 bits are repacked to 1.60, which answers faster here")
    return dense


def _native() -> Any:
    try:
        from edge_nodes.native import _kernels
    except ImportError as error:
        raise LanguageError(
            "the package's C++ extension is not built",
            got=error,
            remedy="Run: python setup.py build_ext --inplace (or install the package again).",
            state=State.NO_DEVICE,
        ) from error
    return _kernels


def default_threads() -> int:
    """Return half of the processors this process may use, at least 1.

    The robot's other nodes need the rest: a thread that waits for a busy processor holds up every step of the model.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // 2)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix, by bisection over slices."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
