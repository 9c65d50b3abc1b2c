# SPDX-License-Identifier: Apache-2.0
"""The packed tasks that models are evaluated on, read from their files and run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_nodes.language.engine import Engine
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.evaluation.likelihood import Choice, Evaluator, LastWord
from edge_nodes.language.evaluation.reading import Reader, Reading
from edge_nodes.language.evaluation.tally import Tally

STRIDE = 512  # tokens of a piece of text; pieces do not overlap, the first token of each is not scored
TEXT, READING, LAST_WORDS = "wikitext2", "squad_v2", "lambada"
CHOICES = ("piqa", "arc_easy", "winogrande", "boolq")
ACCURACIES = (*CHOICES, LAST_WORDS)


def run_task(
    engine: Engine, name: str, data: Path, limit: int, progress: Callable[[int, int], None] = lambda *_: None
) -> Tally:
    """Return the tally of a task.

    Args:
        engine: the model; for reading it needs slots, see `reading.SLOTS`.
        name: TEXT, READING or one of ACCURACIES.
        data: directory of the packed data.
        limit: samples at most, spread over the data; pieces of text for TEXT.
        progress: called with samples done and in all.

    Raises:
        LanguageError: BAD_INPUT, the data cannot be read.
    """
    tally = Tally()
    if name == READING:
        Reader(engine).read(read_readings(data)[:limit], tally, progress)
        return tally
    samples, add = _samples_and_judge(engine, name, data, limit)
    for done, sample in enumerate(samples):
        progress(done, len(samples))
        add(sample, tally)
    return tally


def _samples_and_judge(
    engine: Engine, name: str, data: Path, limit: int
) -> tuple[Sequence[Any], Callable[[Any, Tally], None]]:
    evaluator = Evaluator(engine)
    if name == TEXT:
        return pieces(engine.tokenizer.encode(read_text(data), special=False), limit), evaluator.perplexity
    if name == LAST_WORDS:
        return _spread(read_last_words(data), limit), evaluator.last_word
    return _spread(read_choices(data, name), limit), evaluator.choose


def _spread(samples: Sequence[Any], limit: int) -> Sequence[Any]:
    return samples[:: max(1, len(samples) // limit)][:limit]


def pieces(tokens: Sequence[int], limit: int, stride: int = STRIDE) -> list[list[int]]:
    """Return the first `limit` pieces of `stride` tokens."""
    count = min(limit, len(tokens) // stride)
    return [list(tokens[i * stride : (i + 1) * stride]) for i in range(count)]


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
            passage = f"Title: {article['title'].replace('_', ' ')}\n\nBackground: {paragraph['context']}\n\n"
            asked = f"Question: {question['question']}\n\nAnswer:"
            yield Reading(passage, asked, tuple(a["text"] for a in question["answers"]))


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
