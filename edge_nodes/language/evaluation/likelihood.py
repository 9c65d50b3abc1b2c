# SPDX-License-Identifier: Apache-2.0
"""How good a model is: perplexity of a text, choices by log-likelihood, last words, extracted answers.

Every sequence is a prompt of its own (nothing is reused), so that windows of delta attention follow its length.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_nodes.language import attention
from edge_nodes.language.config import SamplingConfig
from edge_nodes.language.delta.sparsity import Sparsity
from edge_nodes.language.engine import Engine
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.evaluation.question_answering import f1

STRIDE = 512  # tokens of a piece of text; pieces do not overlap, the first token of each is not scored
ANSWER_TOKENS = 16


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


@dataclass(frozen=True)
class Reading:
    """A question on a passage; no answers if the passage does not say."""

    prompt: str
    answers: tuple[str, ...]


@dataclass
class Tally:
    """Scores of a task and what attention skipped meanwhile.

    Attributes:
        scores: of each sample: 0 or 1, F1, or nats per token.
        prefill, decode: score multiply-adds, summed over samples.
        shares: of each sample, all stages.
        running: the paper's running figure.
    """

    scores: list[float] = field(default_factory=list)
    prefill: Sparsity | None = None
    decode: Sparsity | None = None
    shares: list[float] = field(default_factory=list)
    prefill_shares: list[float] = field(default_factory=list)
    running: float = 0.0

    def add(self, score: float, found: attention.Skipped | None) -> None:
        """Note a sample."""
        self.scores.append(score)
        if found is not None:
            self._skipped(found)

    def _skipped(self, found: attention.Skipped) -> None:
        self.prefill = found.prefill if self.prefill is None else self.prefill + found.prefill
        self.decode = found.decode if self.decode is None else self.decode + found.decode
        self.prefill_shares.append(found.prefill.share)
        self.shares.append((found.prefill + found.decode).share)
        self.running = found.running

    def plain(self) -> dict[str, float | int]:
        """Return mean score, samples, and sparsities as means over layers and samples."""
        out: dict[str, float | int] = {"score": float(np.mean(self.scores)), "samples": len(self.scores)}
        if self.shares and self.decode is not None:
            out["prefill_sparsity"] = float(np.mean(self.prefill_shares))
            out["decode_sparsity"] = self.decode.share
            out["sparsity"] = float(np.mean(self.shares))
            out["running_sparsity"] = self.running
        return out


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

    def read(self, sample: Reading, tally: Tally) -> None:
        """Add the F1 of the model's answer."""
        self.engine.reset()
        tokens = self._fit(self.engine.tokenizer.encode(sample.prompt, special=False), ANSWER_TOKENS)
        run = self.engine.generate(tokens, SamplingConfig(), max_new_tokens=ANSWER_TOKENS, stop=("\n",))
        for _ in run:
            pass
        guess = run.text.strip()
        tally.add(
            f1("" if guess.lower().startswith("unanswerable") else guess, sample.answers), self._found(len(tokens))
        )

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

    def _fit(self, tokens: list[int], room: int = 0) -> list[int]:
        return tokens[-(self.engine.context_tokens - room - 1) :]

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


def pieces(tokens: Sequence[int], limit: int, stride: int = STRIDE) -> list[list[int]]:
    """Return the first `limit` pieces of `stride` tokens."""
    count = min(limit, len(tokens) // stride)
    return [list(tokens[i * stride : (i + 1) * stride]) for i in range(count)]


# -- data ----------------------------------------------------------------------------------------------------------


def read_text(data: Path) -> str:
    """Return the text of WikiText-2's validation part."""
    return read_whole(data / "wikitext2_valid.txt.gz")


def read_choices(data: Path, name: str) -> list[Choice]:
    """Return the questions of piqa, arc_easy, boolq or winogrande."""
    return [_choice(name, row) for row in _rows(data / f"{name}.jsonl.gz")]


def read_last_words(data: Path) -> list[LastWord]:
    """Return the samples of LAMBADA."""
    return [LastWord(row["context"], row["continuation"].strip()) for row in _rows(data / "lambada_openai.jsonl.gz")]


def read_readings(data: Path) -> list[Reading]:
    """Return the questions of SQuAD 2.0, taken in turn from each article."""
    articles = json.loads(read_whole(data / "squad_v2_dev_part.json.gz"))["data"]
    columns = [list(_questions(article)) for article in articles]
    return [column[i] for i in range(max(map(len, columns))) for column in columns if i < len(column)]


def _questions(article: Any) -> Iterator[Reading]:
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            prompt = (
                f"Title: {article['title'].replace('_', ' ')}\n\nBackground: {paragraph['context']}\n\n"
                f"Question: {question['question']}\n\nAnswer:"
            )
            yield Reading(prompt, tuple(a["text"] for a in question["answers"]))


def _choice(name: str, row: Any) -> Choice:
    if name == "winogrande":
        contexts = tuple(c.strip() for c in row["context_options"])
        return Choice(contexts, (" " + row["continuation"].strip(),) * len(contexts), row["gold"], False)
    context, endings = row["query"].rstrip() + "\nAnswer:", tuple(" " + c.strip() for c in row["choices"])
    return Choice((context,) * len(endings), endings, row["gold"], name != "boolq")


def _rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in read_whole(path).splitlines() if line]


def read_whole(path: Path) -> str:
    """Return a text file; a name that ends in .gz is read through gzip.

    Raises:
        LanguageError: BAD_INPUT, it cannot be read.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            return file.read()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LanguageError(
            f"{path} cannot be read",
            got=error,
            expected="to evaluate: wikitext2_valid.txt.gz, piqa.jsonl.gz, arc_easy.jsonl.gz, winogrande.jsonl.gz, "
            "boolq.jsonl.gz, lambada_openai.jsonl.gz, squad_v2_dev_part.json.gz in one directory",
            remedy="Name another with --data or --text.",
        ) from error


# -- tasks ---------------------------------------------------------------------------------------------------------

CHOICES = ("piqa", "arc_easy", "winogrande", "boolq")
ACCURACIES = (*CHOICES, "lambada")


def run_task(
    evaluator: Evaluator, name: str, data: Path, limit: int, progress: Callable[[int, int], None] = lambda *_: None
) -> Tally:
    """Return the tally of a task.

    Args:
        evaluator: the model.
        name: "wikitext2", "squad_v2" or one of `ACCURACIES`.
        data: directory of the packed data.
        limit: samples at most, spread over the data; pieces of text for wikitext2.
        progress: called with samples done and in all.
    """
    tally, add = Tally(), _adder(evaluator, name)
    samples = _samples(evaluator, name, data, limit)
    for done, sample in enumerate(samples):
        progress(done, len(samples))
        add(sample, tally)
    return tally


def _adder(evaluator: Evaluator, name: str) -> Callable[[Any, Tally], None]:
    known: dict[str, Callable[[Any, Tally], None]] = {
        "wikitext2": evaluator.perplexity,
        "squad_v2": evaluator.read,
        "lambada": evaluator.last_word,
    }
    return known.get(name, evaluator.choose)


def _samples(evaluator: Evaluator, name: str, data: Path, limit: int) -> list[Any]:
    if name == "wikitext2":
        return pieces(evaluator.engine.tokenizer.encode(read_text(data), special=False), limit)
    if name == "squad_v2":
        return read_readings(data)[:limit]
    rows: Sequence[Any] = read_last_words(data) if name == "lambada" else read_choices(data, name)
    return list(rows[:: max(1, len(rows) // limit)][:limit])


def perplexity_of(tally: Tally) -> float:
    """Return e to the mean nats per token."""
    return math.exp(float(np.mean(tally.scores)))
