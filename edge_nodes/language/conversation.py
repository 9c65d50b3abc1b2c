# SPDX-License-Identifier: Apache-2.0
"""A conversation with a model: what was said so far, as much of it as the context holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edge_nodes.language.config import SamplingConfig
from edge_nodes.language.constraint import Constraint
from edge_nodes.language.engine import Engine, Generation
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.prompt import Messages, PromptComposer
from edge_nodes.language.scene import Scene


class Turn(NamedTuple):
    """What the user asked, as the model was told it, and what it answered."""

    question: str
    answer: str


class Conversation:
    """Asks one thing after another; the computation of what was said before is kept.

    Args:
        engine: the model.
        system: what the model is told first; empty for its own default.
        scene: what the robot sees: questions are then put as the language node puts them.
        sampling: how tokens are chosen.
        max_new_tokens: an answer's longest length.
        constraint: form of every answer.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        system: str = "",
        scene: Scene | None = None,
        sampling: SamplingConfig | None = None,
        max_new_tokens: int = 512,
        constraint: Constraint | None = None,
    ) -> None:
        self.engine, self.system, self.scene = engine, system, scene
        self.sampling, self.max_new_tokens, self.constraint = sampling, max_new_tokens, constraint
        self.turns: list[Turn] = []
        self._composer = PromptComposer() if scene else None

    def ask(self, question: str, interrupted: Callable[[], bool] = lambda: False) -> Generation:
        """Return the running answer; give it to `keep` when it has ended.

        The oldest turns are left out while the context has no room for them and a quarter of it for the answer.

        Raises:
            LanguageError: BAD_INPUT, the question alone does not fit.
        """
        room = self.engine.context_tokens - min(self.max_new_tokens, self.engine.context_tokens // 4)
        tokens = self._tokens(question)
        while self.turns and len(tokens) > room:
            del self.turns[0]
            tokens = self._tokens(question)
        return self.engine.generate(
            tokens,
            self.sampling,
            max_new_tokens=self.max_new_tokens,
            stop=("\n",) if self.scene else (),
            constraint=self.constraint,
            interrupted=interrupted,
        )

    def keep(self, question: str, answer: Generation) -> None:
        """Remember a turn, also one that was interrupted."""
        self.turns.append(Turn(self._messages(question)[-1]["content"], answer.text.strip()))

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()
        self.engine.reset()

    def _tokens(self, question: str) -> list[int]:
        if not question.strip():
            raise LanguageError("an empty question", got=repr(question), expected="some words")
        return self.engine.tokenizer.chat(self._messages(question))

    def _messages(self, question: str) -> Messages:
        if self._composer is None:
            first: Messages = [{"role": "system", "content": self.system}] if self.system else []
            last = {"role": "user", "content": question}
        else:
            *first, last = self._composer.compose(question, self.scene)
            if self.system:
                first = [{"role": "system", "content": self.system}, *(m for m in first if m["role"] != "system")]
        said = [
            {"role": role, "content": text}
            for turn in self.turns
            for role, text in (("user", turn.question), ("assistant", turn.answer))
        ]
        return [*first, *said, last]
