# SPDX-License-Identifier: Apache-2.0
"""Questions with known answers: word problems, multiple choice, and questions about scenes that a robot sees."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_nodes.language.errors import LanguageError
from edge_nodes.language.reasoning.answer_forms import ASKED, parse_answer
from edge_nodes.language.scene import NAMES, SIDES, Scene, SceneObject, Topic, facts

ROBOT = "robot"
BEARINGS = {"ahead": 0.0, "left": 90.0, "right": -90.0, "behind": 180.0}
_STEPS = "Think step by step, briefly."


@dataclass(frozen=True)
class Question:
    """A question and its answer.

    Attributes:
        text: what is asked, with the form that the answer must have.
        form: see `answer_forms.FORMS`.
        answer: in canonical form.
    """

    text: str
    form: str
    answer: str

    def right(self, answer: str | None) -> bool:
        """Return whether an answer in canonical form is the known one."""
        return answer == self.answer


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a file of JSON lines, compressed or not.

    Each line has "context" and "answer" (a word problem with a number for its answer, as GSM8K), or "query", "choices"
    and "gold" (the index of the right choice, as ARC).

    Raises:
        LanguageError: BAD_INPUT, no such file, or a line of another form.
    """
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return [_question(json.loads(line)) for line in text.decode().splitlines() if line.strip()]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise LanguageError(
            "the questions cannot be read",
            got=f"{path}: {type(error).__name__}: {error}",
            expected='JSON lines with "context" and "answer", or with "query", "choices" and "gold"',
        ) from error


def _question(entry: Mapping[str, Any]) -> Question:
    if "choices" in entry:
        return _choice(
            str(entry["query"]).removeprefix("Question: "), [str(c) for c in entry["choices"]], entry["gold"]
        )
    answer = parse_answer(str(entry["answer"]), "number")
    if answer is None:
        raise ValueError(f"the answer is not a number: {entry['answer']!r}")
    return Question(f"{entry['context']}\n{_STEPS} {ASKED['number']}", "number", answer)


def _choice(query: str, choices: list[str], right: int) -> Question:
    listed = "\n".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))
    if not 0 <= right < len(choices):
        raise ValueError(f"there is no choice {right}")
    return Question(f"{query}\n{listed}\n{_STEPS} {ASKED['choice']}", "choice", chr(ord("A") + right))


def robot_questions(count: int, seed: int = 0) -> list[Question]:
    """Return questions about random scenes, put in the words in which the robot tells what it sees.

    They ask for numbers of objects, the nearest distance, a sum of distances, the side with most room, and whether a
    way is blocked; the scene decides the answer.

    Args:
        count: how many.
        seed: of the scenes.
    """
    rng = np.random.default_rng(seed)
    kinds = (_count, _nearest, _difference, _side, _blocked)
    return [kinds[i % len(kinds)](_scene(rng), rng) for i in range(count)]


def _scene(rng: np.random.Generator) -> Scene:
    objects = []
    for _ in range(int(rng.integers(2, 6))):
        side = SIDES[rng.integers(4)]
        kind = ("vehicle", "person", "wall")[rng.integers(3)]
        objects.append(SceneObject(kind, float(rng.integers(4, 60)) / 2, BEARINGS[side], 0.0))
    free = {side: float(rng.integers(2, 30)) / 2 for side in SIDES}
    return Scene(tuple(sorted(objects, key=lambda o: o.range_m)), free)


def _told(scene: Scene, *questions: str) -> str:
    said = [fact for q in questions for fact in facts(scene, Topic.of(q), limit=6)]
    return " ".join(dict.fromkeys(said))


def _numbered(scene: Scene, about: str, question: str, value: float) -> Question:
    answer = parse_answer(f"{value:g}", "number")
    assert answer is not None
    return Question(f"{_told(scene, about)}\n{question} {_STEPS} {ASKED['number']}", "number", answer)


def _count(scene: Scene, rng: np.random.Generator) -> Question:
    kind = scene.objects[rng.integers(len(scene.objects))].kind
    number = sum(o.kind == kind for o in scene.objects)
    return _numbered(scene, "What do you see?", f"How many {NAMES[kind][1]} are there?", number)


def _nearest(scene: Scene, rng: np.random.Generator) -> Question:
    kind = scene.objects[rng.integers(len(scene.objects))].kind
    nearest = min(o.range_m for o in scene.objects if o.kind == kind)
    asked = f"How many meters away is the nearest {NAMES[kind][0]}?"
    return _numbered(scene, "What do you see?", asked, _told_m(nearest))


def _difference(scene: Scene, rng: np.random.Generator) -> Question:
    distances = [_told_m(o.range_m) for o in scene.objects]
    asked = "How many meters is the farthest object farther away than the nearest one?"
    return _numbered(scene, "What do you see?", asked, max(distances) - min(distances))


def _told_m(range_m: float) -> float:
    """Return a distance as `facts` says it: whole meters from 10 m on, else to a tenth."""
    return float(f"{range_m:.0f}" if range_m >= 10 else f"{range_m:.1f}")


def _side(scene: Scene, rng: np.random.Generator) -> Question:
    free = {side: float(m) for side, m in zip(SIDES, rng.permutation(np.arange(3, 12))[: len(SIDES)], strict=True)}
    told = _told(Scene(scene.objects, free), *(f"Is the way {side} clear?" for side in SIDES))
    best = max(free, key=lambda side: free[side])
    return _choice(f"{told}\nOn which side is most room?", list(SIDES), SIDES.index(best))


def _blocked(scene: Scene, rng: np.random.Generator) -> Question:
    side = SIDES[rng.integers(4)]
    told = _told(scene, f"Is the way {side} clear?")
    return _choice(f"{told}\nCan you drive 3 meters {side}?", ["yes", "no"], int(scene.free_m[side] < 3.0))
