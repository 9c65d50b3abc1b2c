# SPDX-License-Identifier: Apache-2.0
"""Questions on passages, answered side by side: a passage is read once for all prompts with the same exact window.

Every answer is the one that its prompt would get by itself: a row of the model does not depend on its neighbours, and
what delta attention makes of a passage depends on the rest of the prompt by the length of the exact window only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from edge_nodes.language import attention
from edge_nodes.language.answer_text import AnswerText
from edge_nodes.language.engine import Engine, common_prefix
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.evaluation.question_answering import f1
from edge_nodes.language.evaluation.tally import Tally

ANSWER_TOKENS = 16
SLOTS = 9  # one for a passage, the others for answers


@dataclass(frozen=True)
class Reading:
    """A question on a passage; no answers if the passage does not say."""

    passage: str
    question: str
    answers: tuple[str, ...]


@dataclass
class _Answer:
    """One that is being made.

    Attributes:
        sequence: tokens of the prompt and of the answer so far.
        prompt: tokens of the prompt.
        family: passage and exact window.
        text: of the answer.
        shared: first tokens, which the prompts of the family have in common.
        done: tokens that the slot holds.
        ended: whether no token will follow.
        skipped: what delta attention left out of the passage and then of all else.
    """

    sequence: list[int]
    prompt: int
    family: tuple[str, int]
    text: AnswerText
    shared: int = 0
    slot: int = 0
    done: int = 0
    ended: bool = False
    skipped: tuple[attention.Skipped, ...] = ()


class Reader:
    """Reads passages and answers greedily.

    Args:
        engine: the model; what its slots hold is forgotten.

    Raises:
        LanguageError: BAD_INPUT, it has one slot only.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.model.slots < 2:
            raise LanguageError("too few slots to answer side by side", got=engine.model.slots, expected="2 at least")
        self._engine, self._model = engine, engine.model
        self._held: tuple[tuple[str, int], int] | None = None  # whose passage is in slot 0, and how many tokens
        self._of_passage: tuple[attention.Skipped, ...] = ()

    def read(
        self, samples: Sequence[Reading], tally: Tally, progress: Callable[[int, int], None] = lambda *_: None
    ) -> list[str]:
        """Add the F1 of the model's answers, in the order of the questions; return the answers.

        Args:
            samples: the questions.
            tally: of their scores.
            progress: called with questions done and in all.
        """
        self._engine.reset()
        self._held = None
        answers = [self._prompt(sample) for sample in samples]
        waiting = _by_family(answers)
        running: list[_Answer] = []
        free = list(range(1, self._model.slots))
        while waiting or running:
            while waiting and free:
                running.append(self._start(waiting.pop(), free.pop()))
            self._step(running)
            free += [answer.slot for answer in running if answer.ended]
            running = [answer for answer in running if not answer.ended]
            progress(len(answers) - len(waiting) - len(running), len(answers))
        for sample, answer in zip(samples, answers, strict=True):
            score = f1(_guess(answer.text.text), sample.answers)
            tally.add(score, attention.total(answer.skipped) if answer.skipped else None)
        return [answer.text.text for answer in answers]

    def _prompt(self, sample: Reading) -> _Answer:
        tokenizer, most = self._engine.tokenizer, self._engine.context_tokens - ANSWER_TOKENS - 1
        tokens = tokenizer.encode(sample.passage + sample.question, special=False)[-most:]
        family = (sample.passage, self._window(len(tokens)))
        return _Answer(tokens, len(tokens), family, AnswerText(tokenizer.stream(), ("\n",)))

    def _window(self, tokens: int) -> int:
        if not getattr(self._model, "uses_delta", False):
            return 0
        attention.begin(self._model, 0, tokens)
        return int(self._model.delta_counts(0)["window"])

    def _start(self, answer: _Answer, slot: int) -> _Answer:
        """Bring the shared tokens into the answer's slot."""
        if self._held != (answer.family, answer.shared):
            self._read_passage(answer)
        self._model.copy_cache(0, slot, 0, answer.shared)
        attention.begin(self._model, slot, answer.prompt)
        answer.slot, answer.done, answer.skipped = slot, answer.shared, self._of_passage
        return answer

    def _read_passage(self, answer: _Answer) -> None:
        attention.begin(self._model, 0, answer.prompt)
        for first in range(0, answer.shared, self._model.batch):
            part = answer.sequence[first : min(first + self._model.batch, answer.shared)]
            self._model.forward(np.asarray(part, np.int32), segments=[(0, first, len(part))], rows=[])
        self._held, self._of_passage = (answer.family, answer.shared), self._skipped(0, answer.prompt)

    def _step(self, running: Sequence[_Answer]) -> None:
        """Read on and answer, as much as the model takes in a step."""
        tokens: list[int] = []
        segments, rows, drawn = [], [], []
        for answer in running:
            part = answer.sequence[answer.done : answer.done + self._model.batch - len(tokens)]
            if not part:
                break
            segments.append((answer.slot, answer.done, len(part)))
            tokens += part
            answer.done += len(part)
            if answer.done == len(answer.sequence):
                rows.append(len(tokens) - 1)
                drawn.append(answer)
        logits = self._model.forward(np.asarray(tokens, np.int32), segments=segments, rows=rows)
        for answer, token in zip(drawn, logits.argmax(axis=1).tolist(), strict=True):
            self._append(answer, token)

    def _append(self, answer: _Answer, token: int) -> None:
        if token not in self._engine.tokenizer.end_tokens:
            answer.text.push(token)
            answer.sequence.append(token)
            answer.ended = answer.text.stopped or len(answer.sequence) == answer.prompt + ANSWER_TOKENS
        else:
            answer.ended = True
        if answer.ended:
            answer.text.flush()
            answer.skipped += self._skipped(answer.slot, answer.prompt)

    def _skipped(self, slot: int, tokens: int) -> tuple[attention.Skipped, ...]:
        found = attention.skipped(self._model, slot, tokens=tokens)
        return () if found is None else (found,)


def _by_family(answers: Sequence[_Answer]) -> list[_Answer]:
    """Return the answers with those of a family side by side, and note what these share."""
    ordered = sorted(answers, key=lambda answer: answer.family)
    for _, members in groupby(ordered, key=lambda answer: answer.family):
        family = list(members)
        shared = min(min(common_prefix(family[0].sequence, a.sequence), a.prompt - 1) for a in family)
        for answer in family:
            answer.shared = shared
    return ordered


def _guess(text: str) -> str:
    said = text.strip()
    return "" if said.lower().startswith("unanswerable") else said
