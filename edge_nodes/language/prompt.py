# SPDX-License-Identifier: Apache-2.0
"""From a scene and a question to the conversation the model continues."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_nodes.language.errors import LanguageError
from edge_nodes.language.scene import Scene, Topic, facts

TEMPLATE = Path(__file__).parent / "prompt.jinja"
NARRATION = "What must I know now?"
_SECTION = re.compile(r"^### (system|user|assistant)$", re.MULTILINE)
Messages = list[dict[str, str]]


class Earlier(NamedTuple):
    """A scene that was seen some time ago."""

    age_s: float
    scene: Scene


class PromptComposer:
    """Fills the prompt template.

    Args:
        template: path of a template; empty for the package's own.

    Raises:
        LanguageError: BAD_INPUT, the template cannot be read or has no sections.
    """

    def __init__(self, template: str = "") -> None:
        self.path = Path(template).expanduser() if template else TEMPLATE
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = environment.from_string(self.path.read_text())
        except (OSError, UnicodeDecodeError, TemplateError) as error:
            raise LanguageError("the prompt template is unusable", got=f"{self.path}: {error}") from error
        self.compose("Is anyone there?", None)

    def compose(self, question: str, scene: Scene | None, earlier: Sequence[Earlier] = ()) -> Messages:
        """Return the conversation whose next turn is the answer.

        Args:
            question: what was asked.
            scene: what the robot sees; None if it sees nothing at the moment.
            earlier: what it saw before, newest first.
        """
        topic = Topic.of(question)
        found = facts(scene, topic) if scene and topic.about_scene else []
        if topic.past and earlier:
            age_s, then = earlier[-1]
            scene, found = then, [f"{_ago(age_s)}: {_in_past(fact)}" for fact in facts(then, topic)]
        return self._render(question, scene, found, topic=topic, earlier=earlier)

    def narrate(self, scene: Scene | None) -> Messages:
        """Return the conversation whose next turn tells of the scene's alarm, or of what there is without one."""
        topic = Topic.of("What do you see?")
        found = [scene.alarm] if scene and scene.alarm else facts(scene, topic) if scene else []
        return self._render(NARRATION, scene, found, topic=topic)

    def _render(
        self,
        question: str,
        scene: Scene | None,
        found: list[str],
        *,
        topic: Topic,
        earlier: Sequence[Earlier] = (),
    ) -> Messages:
        values: Mapping[str, object] = {
            "question": " ".join(question.split()),
            "facts": [" ".join(f.split()) for f in found],
            "scene": " ".join(scene.text.split()) if scene else "",
            "seen": scene is not None,
            "earlier": [{"age_s": e.age_s, "text": " ".join(e.scene.text.split())} for e in earlier],
            "about_scene": topic.about_scene,
            "about_robot": topic.about_robot,
        }
        try:
            text = self._template.render(values)
        except TemplateError as error:
            raise LanguageError("the prompt template failed", got=f"{self.path}: {error}") from error
        parts = _SECTION.split(text)
        messages = [
            {"role": role, "content": body.strip()} for role, body in zip(parts[1::2], parts[2::2], strict=True)
        ]
        if not messages or messages[-1]["role"] != "user":
            raise LanguageError(
                "the prompt template has no question",
                got=self.path,
                expected='sections "### system", "### user", "### assistant", the last of them a user\'s',
            )
        return messages


def _ago(age_s: float) -> str:
    seconds = max(1, round(age_s))
    return f"{seconds} second{'s' * (seconds > 1)} ago"


def _in_past(fact: str) -> str:
    return fact.replace(" is ", " was ").replace(" are ", " were ")
