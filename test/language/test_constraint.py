# SPDX-License-Identifier: Apache-2.0
"""Answers of a small random model, which would be noise, forced into a form."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from edge_nodes.errors import State
from edge_nodes.language import Constraint, LanguageError, SamplingConfig

PROMPT = list(range(10, 60))
SCHEMA = {
    "type": "object",
    "properties": {"where": {"enum": ["left", "right"]}, "meters": {"type": "integer", "minimum": 0, "maximum": 30}},
    "required": ["where", "meters"],
    "additionalProperties": False,
}


def answer(engine, constraint, **sampling):
    run = engine.generate(PROMPT, SamplingConfig(**sampling), max_new_tokens=100, constraint=constraint)
    tokens = list(run)
    return run, tokens


@pytest.mark.parametrize("seed", range(5))
def test_answer_is_json_of_the_schema(engine, seed):
    sampling = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "seed": seed} if seed else {}
    run, tokens = answer(engine, Constraint.json_schema(SCHEMA), **sampling)
    jsonschema.validate(json.loads(run.text), SCHEMA)
    assert "\n" not in run.text
    assert run.finish_reason == "stop"
    assert run.text == "".join(t.text for t in tokens)
    assert all(t.logprob <= 0.0 for t in tokens)


def test_regex_and_grammar(engine):
    pattern = "(yes|no), [0-9]{2} m"
    for constraint in (Constraint.regex(pattern), Constraint.lark(f"start: /{pattern}/")):
        run, _ = answer(engine, constraint, temperature=1.5)
        assert re.fullmatch(pattern, run.text)
        assert run.finish_reason == "stop"


def test_answer_may_end_where_the_grammar_may(engine):
    run, _ = answer(engine, Constraint.regex("a*"), temperature=1.0, top_k=0, top_p=1.0)
    assert re.fullmatch("a*", run.text)
    assert run.finish_reason in ("stop", "length")


def test_a_prompt_goes_on_without_constraint(engine):
    engine.reset()
    before = [t.id for t in engine.generate(PROMPT, max_new_tokens=8)]
    answer(engine, Constraint.json_schema(SCHEMA))
    assert [t.id for t in engine.generate(PROMPT, max_new_tokens=8)] == before


def test_characters_of_several_tokens(engine):
    run, _ = answer(engine, Constraint.regex("(左|右)+を(見て|行く)"), temperature=1.0)
    assert re.fullmatch("(左|右)+を(見て|行く)", run.text) or run.finish_reason == "length"


def test_wrong_forms_are_one_clear_error(engine, tmp_path):
    with pytest.raises(LanguageError, match="schema"):
        Constraint.json_schema("{")
    for constraint in (
        Constraint.regex("(a"),
        Constraint.lark("start: missing"),
        Constraint.json_schema({"type": "x"}),
    ):
        with pytest.raises(LanguageError, match="form of the answer") as caught:
            engine.generate(PROMPT, constraint=constraint)
        assert caught.value.state is State.BAD_INPUT
    (tmp_path / "a.txt").write_text("x")
    for path in (tmp_path / "a.txt", tmp_path / "missing.json"):
        with pytest.raises(LanguageError, match="grammar"):
            Constraint.file(path)
    (tmp_path / "a.json").write_text(json.dumps(SCHEMA))
    assert Constraint.file(tmp_path / "a.json") == Constraint.json_schema(SCHEMA)


def test_real_model_says_what_it_sees_as_json(smollm2):
    prompt = smollm2.tokenizer.chat([{"role": "user", "content": "A car is 7 meters away on the left. Where is it?"}])
    run = smollm2.generate(prompt, max_new_tokens=64, constraint=Constraint.json_schema(SCHEMA))
    for _ in run:
        pass
    found = json.loads(run.text)
    jsonschema.validate(found, SCHEMA)
    assert found["where"] == "left"
