# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
from small_gguf import write_gguf
from typer.testing import CliRunner

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")

from edge_nodes.cli.eval import voting as ev
from edge_nodes.language.evaluation.question_sets import Question
from edge_nodes.language.reasoning.deliberation import Record


def record(answer, prompt=10, generated=5, bits=1.0):
    return Record(str(answer), answer, bits, bits + 0.1, "stop", prompt, generated)


def trials(number, sequential, parallel, *, seed=0):
    question = Question(f"question {number}", "number", "1")
    return [ev.Trial(question, seed, ev.SEQUENTIAL, sequential), ev.Trial(question, seed, ev.PARALLEL, parallel)]


def test_equal_cost_gives_parallel_attempts_what_the_longer_prompts_took():
    chain = [record("2", prompt=10 + 20 * i) for i in range(9)]
    many = [record("2")] * 6 + [record("1")] * 18
    pairs = ev._pairs([*trials(0, chain, many), *trials(1, chain, many)])
    cost = ev._cost(pairs, 3)
    assert (cost["sequential_prompt_tokens"], cost["parallel_prompt_tokens"]) == (90, 30)
    assert cost["affordable_parallel"] == 7  # 105 tokens at 15 each
    assert ev._cost(pairs, 9)["affordable_parallel"] == 24
    row = ev._compared(pairs, 9, "majority", "all")
    assert (row["sequential"], row["parallel"], row["gain"]) == (0.0, 1.0, -1.0)
    assert ev._compared(pairs, 9, "majority", "generated")["parallel"] == 0.0


def test_gains_are_paired_by_question_and_their_interval_is_the_bootstraps():
    rng, found = np.random.default_rng(0), []
    for number in range(40):
        good = rng.random() < 0.7
        found += trials(number, [record("1" if good else "2")] * 9, [record("2")] * 24)
    row = ev._compared(ev._pairs(found), 3, "inverse_entropy", "generated")
    assert row["low"] < row["gain"] == row["sequential"] < row["high"]
    width = 2 * 1.96 * (row["gain"] * (1 - row["gain"]) / 40) ** 0.5
    assert row["high"] - row["low"] == pytest.approx(width, rel=0.15)


def test_the_figures_are_complete(tmp_path, monkeypatch):
    from edge_nodes.cli.app import app

    data, path = tmp_path / "questions.jsonl", tmp_path / "voting.json"
    lines = [{"context": "1 + 1?", "answer": "2"}, {"query": "Question: Who?", "choices": ["I", "you"], "gold": 1}]
    data.write_text("\n".join(map(json.dumps, lines)))
    model = write_gguf(tmp_path / "small.gguf")
    command = ["eval", "voting", "--quick", "--data", str(data), "--model", str(model), "--json", str(path)]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(path.read_text())
    rows = {(r["equal"], r["attempts"], r["rule"]) for r in result["results"]["accuracy"]}
    assert len(rows) == 2 * 3 * 10
    assert len(result["targets"]) == 6
    bad = CliRunner().invoke(app, [*command[:4], str(tmp_path / "none.jsonl"), *command[5:]])
    assert bad.exit_code == 1
    assert "questions cannot be read" in str(bad.exception)
