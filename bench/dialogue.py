# SPDX-License-Identifier: Apache-2.0
"""How often the language model's answer follows from the scene: generated scenes, questions, and checks.

    python -m bench.dialogue --model smollm2-135m --json dialogue.json

Each answer is checked against the scene it is about, never against a wording: it must name what the question asks for
(class, distance, side, number, "clear" or "blocked"), name no class that is not there, and not deny what is there.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_nodes.language import load
from edge_nodes.language.prompt import PromptComposer
from edge_nodes.language.scene import BLOCKED_M, Scene, SceneObject

WORDS = {
    "person": "person|people|persons|pedestrian",
    "vehicle": "cars?|vehicles?",
    "wall": "walls?",
    "obstacle": "obstacles?",
}
NEGATION = re.compile(r"\b(no|not|nothing|none|empty|cannot|can't|don't|isn't|aren't|nobody)\b", re.IGNORECASE)
SIDE_WORDS = {"ahead": "ahead|front", "left": "left", "right": "right", "behind": "behind|back"}
# "a car ... 12 meters ... on the left": class, distance and side within one clause
CLAIM = (
    rf"\b({'|'.join(WORDS.values())})\b(?:(?!,| and )[^.]|\.\d)*?(\d+(?:\.\d+)?)(?: meters)?"
    rf"(?:(?:(?!,| and |\.).)*?\b({'|'.join(SIDE_WORDS.values())})\b)?"
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


class Case(NamedTuple):
    """One question about one scene, and whether an answer to it is right."""

    kind: str
    scene: Scene | None
    question: str
    right: Callable[[str], bool]


def random_scene(rng: np.random.Generator) -> Scene:
    """Return a scene of 0 to 5 objects whose free distances agree with them."""
    objects = []
    for _ in range(int(rng.integers(0, 6))):
        kind = str(rng.choice(["person", "vehicle", "wall", "obstacle"], p=[0.35, 0.35, 0.15, 0.15]))
        speed = float(rng.uniform(0.8, 4.0)) if kind in ("person", "vehicle") and rng.random() < 0.4 else 0.0
        center = {"ahead": 0.0, "left": 90.0, "right": -90.0}[str(rng.choice(["ahead", "left", "right"]))]
        objects.append(SceneObject(kind, round(float(rng.uniform(1.0, 25.0)), 1), center + rng.uniform(-20, 20), speed))
    objects.sort(key=lambda o: o.range_m)
    free = {}
    for side in ("ahead", "left", "right"):
        nearest = min((o.range_m for o in objects if o.side == side), default=30.0)
        free[side] = round(min(nearest, float(rng.uniform(0.5, 30.0))), 1)
    return Scene(tuple(objects), free, sequence=0)


def says(answer: str, pattern: str) -> bool:
    """Return whether a word of `answer` matches."""
    return re.search(rf"\b({pattern})\b", answer, re.IGNORECASE) is not None


def says_distance(answer: str, distance: float) -> bool:
    """Return whether `answer` has a number within 0.51 m of `distance`."""
    return any(abs(float(n) - distance) <= 0.51 for n in re.findall(r"\d+(?:\.\d+)?", answer))


def names_only(answer: str, scene: Scene) -> bool:
    """Return whether every class, and every class with a distance and side, that is claimed is in the scene."""
    present = {o.kind for o in scene.objects}
    if any(says(answer, words) for kind, words in WORDS.items() if kind not in present):
        return False
    claims = re.findall(CLAIM, answer.lower())
    return all(any(_is(o, *claim) for o in scene.objects) for claim in claims)


def _is(o: SceneObject, name: str, distance: str, place: str) -> bool:
    same = re.fullmatch(WORDS[o.kind], name) and abs(float(distance) - o.range_m) <= 0.51
    return bool(same and (not place or re.fullmatch(SIDE_WORDS[o.side], place)))


def about_nearest(
    scene: Scene, objects: list[SceneObject], absent: str, *, side: bool = False
) -> Callable[[str], bool]:
    """Return the check of an answer about the nearest of `objects`; `absent`: pattern of what must be denied."""
    if not objects:
        return lambda a: bool(NEGATION.search(a)) and not says(a, "yes") and (says(a, absent) or says(a, "nothing"))
    nearest = objects[0]

    def right(answer: str) -> bool:
        place = not side or says(answer, SIDE_WORDS[nearest.side])
        known = says(answer, WORDS[nearest.kind]) and says_distance(answer, nearest.range_m)
        return known and place and names_only(answer, scene) and not NEGATION.search(answer)

    return right


def clear(scene: Scene, side: str) -> Callable[[str], bool]:
    """Return the check of an answer about room on one side."""
    free = scene.free_m[side]
    if free < BLOCKED_M:
        return lambda a: says(a, "blocked|not clear|no") and not says(a, "yes") and says(a, SIDE_WORDS[side])
    return lambda a: (
        says(a, "clear|free") and not NEGATION.search(a) and not says(a, "blocked") and says_distance(a, free)
    )


def count(scene: Scene, kind: str) -> Callable[[str], bool]:
    """Return the check of an answer that counts objects of one class."""
    number = sum(o.kind == kind for o in scene.objects)
    if number == 0:
        return lambda a: bool(NEGATION.search(a)) or says(a, "0|zero")
    return lambda a: says(a, f"{number}|{NUMBERS[number]}" + ("|a" if number == 1 else "")) and not NEGATION.search(a)


def refuses(answer: str) -> bool:
    """Return whether the answer says that the robot cannot."""
    return says(answer, "cannot|can't|can not|not able|unable|only")


def cases(rng: np.random.Generator, scenes: int) -> Iterator[Case]:
    """Yield all questions about `scenes` random scenes."""
    orders = ["Make me a coffee.", "open the door", "Sing a song.", "bring me my phone please", "Wash the dishes!"]
    for number in range(scenes):
        s = random_scene(rng)
        of = {k: [o for o in s.objects if o.kind == k] for k in WORDS}
        at = {d: [o for o in s.objects if o.side == d] for d in ("ahead", "left", "right")}
        yield Case("see ahead", s, "What do you see ahead?", about_nearest(s, at["ahead"], "nothing"))
        yield Case("see around", s, "what is around you", about_nearest(s, list(s.objects), "nothing"))
        yield Case("see left", s, "What is on your left?", about_nearest(s, at["left"], "nothing"))
        yield Case("person", s, "Is there a person near you?", about_nearest(s, of["person"], WORDS["person"]))
        yield Case("anyone", s, "do you see anyone", about_nearest(s, of["person"], "person|people|anyone|nobody"))
        far = "How far away is the nearest car?"
        yield Case("distance", s, far, about_nearest(s, of["vehicle"], WORDS["vehicle"]))
        where = about_nearest(s, of["person"], WORDS["person"], side=True)
        yield Case("where", s, "Where is the nearest person?", where)
        yield Case("clear left", s, "Is it clear on the left?", clear(s, "left"))
        yield Case("clear right", s, "can i turn right", clear(s, "right"))
        yield Case("clear ahead", s, "Is the way ahead free?", clear(s, "ahead"))
        yield Case("count", s, "How many cars are there?", count(s, "vehicle"))
        yield Case("count", s, "How many people do you see?", count(s, "person"))
        yield Case("order", s, orders[number % len(orders)], refuses)
    yield Case("blind", None, "What do you see?", lambda a: bool(NEGATION.search(a)))


def main() -> None:
    """Ask all questions and print the share of right answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--template", default="", help="a prompt template instead of the package's")
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="print every answer, not only wrong ones")
    options = parser.parse_args()
    engine, composer = load(options.model), PromptComposer(options.template)
    results = []
    for case in cases(np.random.default_rng(options.seed), options.scenes):
        messages = composer.compose(case.question, case.scene)
        run = engine.generate(engine.tokenizer.chat(messages), max_new_tokens=64, stop=("\n",))
        for _ in run:
            pass
        right = case.right(run.text)
        results.append({"kind": case.kind, "question": case.question, "answer": run.text, "right": right})
        if options.verbose or not right:
            facts = messages[-1]["content"].replace("\n", " | ")
            print(f"{'ok   ' if right else 'WRONG'} [{case.kind}] {facts} -> {run.text}")
    asked, good = Counter(r["kind"] for r in results), Counter(r["kind"] for r in results if r["right"])
    for kind, number in asked.items():
        print(f"{kind:12} {good[kind]:3} of {number}")
    summary = {"cases": len(results), "right": sum(good.values()), "accuracy": sum(good.values()) / len(results)}
    print(f"right: {summary['right']} of {summary['cases']} ({summary['accuracy']:.1%})")
    if options.json:
        about = {"model": engine.name, "kernel": engine.kernel, "seed": options.seed, "scenes": options.scenes}
        options.json.write_text(json.dumps({**about, **summary, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
