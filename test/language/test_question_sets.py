# SPDX-License-Identifier: Apache-2.0
"""Known answers follow from what the questions say, and from nothing else."""

from __future__ import annotations

import json
import re

import pytest

from edge_nodes.language import LanguageError
from edge_nodes.language.evaluation.question_sets import read_questions, robot_questions


def numbers(text):
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?(?= meters)", text)]


def test_robot_questions_can_be_answered_from_their_words():
    found = robot_questions(200, seed=1)
    assert found == robot_questions(200, seed=1) != robot_questions(200, seed=2)
    for question in found:
        told, asked = question.text.split("\n")[:2]
        if "How many meters is the farthest" in asked:
            assert float(question.answer) == pytest.approx(max(numbers(told)) - min(numbers(told)))
        elif "nearest" in asked:
            name = re.search(r"nearest (\w+)", asked)[1]
            near = [float(n) for n in re.findall(rf"{name} (\d+(?:\.\d+)?) meters", told)]
            assert float(question.answer) == min(near)
        elif "How many" in asked:
            name = {"people": "person"}.get(re.search(r"many (\w+)", asked)[1], re.search(r"many (\w+?)s? ", asked)[1])
            assert int(question.answer) == len(re.findall(rf"\b{name}\b", told))
        elif "most room" in asked:
            best = re.search(rf"(\w+) is clear for {max(numbers(told)):.0f}", told)[1]
            assert best in re.search(rf"\({question.answer}\) (\w+)", question.text)[1]
        else:
            assert question.answer == ("A" if numbers(told)[0] >= 3 and "clear" in told else "B")


def test_files_of_word_problems_and_choices(tmp_path, data_dir):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"query": "Question: Why?", "choices": ["a", "b"], "gold": 1}))
    (question,) = read_questions(path)
    assert (question.form, question.answer) == ("choice", "B")
    assert question.text.startswith("Why?\n(A) a\n(B) b\n")
    for bad in ("{", '{"query": "x", "choices": ["a"], "gold": 1}', '{"context": "x", "answer": "some"}', "[]"):
        path.write_text(bad)
        with pytest.raises(LanguageError, match="questions cannot be read"):
            read_questions(path)
    for name, count in (("gsm8k_test", 673), ("arc_easy", 1235), ("arc_challenge", 570)):
        file = data_dir / "text" / f"{name}.jsonl.gz"
        if not file.is_file():
            pytest.skip("no shared data")
        assert len(read_questions(file)) == count
