# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from edge_nodes.language import LanguageError, Scene
from edge_nodes.language.conversation import Conversation
from edge_nodes.language.scene import SceneObject

SCENE = Scene((SceneObject("person", 3.2, 10.0, 0.0),), {"ahead": 3.0}, text="A person.")


def ask(talk, question, **options):
    run = talk.ask(question, **options)
    for _ in run:
        pass
    talk.keep(question, run)
    return run


def test_turns_are_remembered_and_their_computation_kept(engine):
    talk = Conversation(engine, system="Be brief.", max_new_tokens=8)
    ask(talk, "hello")
    text = engine.tokenizer.decode(engine.tokenizer.chat(talk._messages("again")), special=True)
    assert text.index("Be brief.") < text.index("hello") < text.index("again")
    second = ask(talk, "again")
    assert second.cached_tokens > 0
    assert [t.question for t in talk.turns] == ["hello", "again"]
    talk.reset()
    assert talk.turns == []
    assert ask(talk, "hello").cached_tokens == 0


def test_the_oldest_turns_make_room(engine):
    talk = Conversation(engine, max_new_tokens=40)
    for number in range(8):
        run = ask(talk, f"question {number}")
        assert run.prompt_tokens <= 256 - 40
    questions = [t.question for t in talk.turns]
    assert questions == [f"question {n}" for n in range(8)][-len(questions) :]
    assert 0 < len(questions) < 8
    with pytest.raises(LanguageError, match="does not fit"):
        talk.ask("x" * 300)


def test_an_interrupted_answer_is_remembered(engine):
    engine.reset()
    talk = Conversation(engine, max_new_tokens=40)
    asked = iter([False] * 12 + [True] * 100)
    run = ask(talk, "hello", interrupted=lambda: next(asked))
    assert run.finish_reason == "cancelled"
    assert talk.turns[0].answer == run.text.strip()


def test_an_empty_question_is_an_error(engine):
    with pytest.raises(LanguageError, match="empty"):
        Conversation(engine).ask("  ")


def test_a_scene_is_asked_about_as_the_node_does(smollm2):
    talk = Conversation(smollm2, scene=SCENE, system="You are a robot.")
    assert "3.2" in ask(talk, "Is there a person near you?").text
    messages = talk._messages("What is behind you?")
    assert messages[0] == {"role": "system", "content": "You are a robot."}
    assert [m["role"] for m in messages].count("system") == 1
    assert "3.2" in messages[-2]["content"]
    assert ask(talk, "How far away is the person?").cached_tokens > 300
