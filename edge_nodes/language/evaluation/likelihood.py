# SPDX-License-Identifier: Apache-2.0
"""How good a model is by what it holds probable: perplexity of a text, choices, last words.

Every sequence is a prompt of its own (nothing is reused), so that windows of delta attention follow its length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_nodes.language import attention
from edge_nodes.language.engine import Engine
from edge_nodes.language.evaluation.tally import Tally


@dataclass(frozen=True)
class Choice:
    """A question with choices: the one whose text is the most probable after its context is taken.

    Attributes:
        contexts, endings: of each choice.
        gold: index of the right one.
        per_character: compare log-likelihoods divided by the length of the ending.
    """

    contexts: tuple[str, ...]
    endings: tuple[str, ...]
    gold: int
    per_character: bool


@dataclass(frozen=True)
class LastWord:
    """A text and the word that must follow."""

    context: str
    word: str


class Evaluator:
    """Runs samples through a model.

    Args:
        engine: the model; its slot 0 is used.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._running = 0.0

    def perplexity(self, text: Sequence[int], tally: Tally) -> None:
        """Add nats per token of a piece of text."""
        logits = self._run(text, range(len(text) - 1))
        tally.add(-float(np.mean(log_likelihoods(logits, text[1:]))), self._found(len(text)))

    def choose(self, question: Choice, tally: Tally) -> None:
        """Add 1 if the right choice is the most probable, else 0."""
        scores, known = [], dict[tuple[int, ...], npt.NDArray[np.float32]]()
        for context, ending in zip(question.contexts, question.endings, strict=True):
            tokens, start = self._join(context, ending)
            seen = tuple(tokens[:-1])  # endings that differ in their last token only have the same rows
            if seen not in known:
                known[seen] = self._run(tokens, range(start - 1, len(tokens) - 1))
            total = float(np.sum(log_likelihoods(known[seen], tokens[start:])))
            scores.append(total / max(1, len(ending)) if question.per_character else total)
        tally.add(float(int(np.argmax(scores)) == question.gold), self._found(len(tokens)))

    def last_word(self, sample: LastWord, tally: Tally) -> None:
        """Add 1 if the word is what the model would say, token by token, else 0."""
        tokens, start = self._join(sample.context, " " + sample.word)
        logits = self._run(tokens, range(start - 1, len(tokens) - 1))
        tally.add(float(bool((logits.argmax(axis=1) == tokens[start:]).all())), self._found(len(tokens)))

    def logits(self, tokens: Sequence[int], *, last: bool = False) -> npt.NDArray[np.float32]:
        """Return all logits (n, vocabulary) of a prompt by itself, or those of the `last` token."""
        return self._run(tokens, range(len(tokens) - 1 if last else 0, len(tokens)))

    def _join(self, context: str, ending: str) -> tuple[list[int], int]:
        """Return the tokens of both and where the ending begins."""
        encode = self.engine.tokenizer.encode
        before, whole = encode(context, special=False), encode(context + ending, special=False)
        start = min(len(before), len(whole) - 1)
        kept = self._fit(whole)
        return kept, max(1, start - (len(whole) - len(kept)))

    def _fit(self, tokens: list[int]) -> list[int]:
        return tokens[-(self.engine.context_tokens - 1) :]

    def _run(self, tokens: Sequence[int], rows: range) -> npt.NDArray[np.float32]:
        """Return the logits of `rows`, float32 (len(rows), vocabulary), of a prompt by itself."""
        model = self.engine.model
        self.engine.reset()
        attention.begin(model, 0, len(tokens))
        out = []
        for first in range(0, len(tokens), model.batch):
            part = np.asarray(tokens[first : first + model.batch], np.int32)
            wanted = [r - first for r in rows if first <= r < first + len(part)]
            # A step must have a row: of a chunk that nobody asks for, the last.
            found = model.forward(part, segments=[(0, first, len(part))], rows=wanted or [len(part) - 1])
            out.append(found[: len(wanted)])
        return np.concatenate(out)

    def _found(self, tokens: int) -> attention.Skipped | None:
        found = attention.skipped(self.engine.model, 0, tokens=tokens, before=self._running)
        self._running = found.running if found else 0.0
        return found


def log_likelihoods(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return log probabilities (n,) of `tokens` under the rows of `logits` (n, vocabulary)."""
    top = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
    out: npt.NDArray[np.float64] = logits[np.arange(len(tokens)), np.asarray(tokens)] - total
    return out


def perplexity_of(tally: Tally) -> float:
    """Return e to the mean nats per token."""
    return math.exp(float(np.mean(tally.scores)))
