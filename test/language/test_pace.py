# SPDX-License-Identifier: Apache-2.0
"""The pace of the first request, on a model whose iterations take as long as a curve says, on a clock of their own."""

from __future__ import annotations

import numpy as np
import pytest
from toy_model import ToyModel, ToyTokenizer, finish

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")

from edge_nodes.language.config import FusionConfig
from edge_nodes.language.fusion.loop import FusionEngine
from edge_nodes.language.fusion.pace import Pace, StepCosts
from edge_nodes.language.fusion.request import Priority, RequestState

BASE_S, ROW_S = 1.0, 0.25  # one row 1.25 s, 32 rows 9 s: as a small model in the caches


class TimedModel(ToyModel):
    """Its clock passes as the iterations run."""

    def __init__(self, slots):
        super().__init__(slots, ends=False)
        self.now_s, self.steps = 0.0, []

    def forward(self, tokens, *, segments, rows):
        self.now_s += BASE_S + ROW_S * len(tokens)
        self.steps.append(len(tokens))
        return super().forward(tokens, segments=segments, rows=rows)


def loop(slots=32, **config):
    model = TimedModel(slots)
    options = FusionConfig(slots=slots, queue=100, **config)
    return FusionEngine(model, ToyTokenizer(), options, clock=lambda: model.now_s)


def run(engine, count, *, tokens=40):
    """Submit all once the first has begun; return (latency of the first, time of all)."""
    begin_s = engine.clock()
    first = engine.submit([1, 2, 3, 4], max_new_tokens=tokens)
    engine.step()
    handles = [first] + [engine.submit([n + 2, 2, 3, 4], max_new_tokens=tokens) for n in range(count - 1)]
    finish(engine)
    assert all(len(h.answer) == tokens for h in handles)
    return first.done_s - begin_s, engine.clock() - begin_s


@pytest.mark.parametrize("slack", [1.0, 1.1, 1.25, 2.0])
@pytest.mark.parametrize("count", [2, 8, 32])
def test_the_first_is_delayed_no_longer_than_allowed_and_all_take_little_longer(slack, count):
    alone_s, _ = run(loop(), 1)
    at_once_s, all_s = run(loop(latency_slack=0.0), count)
    engine = loop(latency_slack=slack)
    run(engine, count)  # it has learnt what iterations cost
    paced_s, total_s = run(engine, count)
    assert paced_s <= slack * alone_s * 1.001
    assert paced_s >= min(at_once_s, slack * alone_s) * 0.9  # what is allowed is used
    assert total_s <= all_s + paced_s


def test_without_slack_the_first_of_many_takes_several_times_as_long():
    assert run(loop(latency_slack=0.0), 32)[0] > 4 * run(loop(), 1)[0]


def test_others_have_their_share_of_time_while_a_long_answer_is_given():
    engine = loop(4, latency_slack=1.25)
    long = engine.submit([1, 2, 3], max_new_tokens=200)
    for _ in range(3):
        engine.step()
    before_s = engine.clock()
    short = [engine.submit([n, 2, 3], max_new_tokens=10) for n in (5, 6, 7)]
    while any(h.state is not RequestState.DONE for h in short):
        engine.step()
    assert long.state is not RequestState.DONE
    alone_s = sum(h.generated_tokens + 3 for h in short) * (BASE_S + ROW_S)
    assert engine.clock() - before_s < alone_s  # they pay for their rows only: sooner than one after another
    assert engine.metrics.paced == engine.metrics.iterations


def test_who_finds_nobody_as_urgent_has_the_pace():
    engine = loop(8, latency_slack=1.0)
    told = engine.submit([1, 2, 3], max_new_tokens=50, priority=Priority.NARRATION)
    engine.step()
    spoken = engine.submit([4, 2, 3], max_new_tokens=20, priority=Priority.SPEECH)
    asked = engine.submit([5, 2, 3], max_new_tokens=20, priority=Priority.PROMPT)
    second = engine.submit([6, 2, 3], max_new_tokens=20, priority=Priority.SPEECH)
    while spoken.state is not RequestState.DONE:
        engine.step()
    assert len(told.answer) == 1
    assert len(asked.answer) == len(second.answer) == 0
    assert engine.model.steps[-20:] == [3] + [1] * 19
    finish(engine)
    assert engine.model.steps[40] == 3  # with nobody before them, all go together


def test_the_pace_ends_with_its_holder():
    engine = loop(8, latency_slack=1.0)
    first = engine.submit([1, 2, 3], max_new_tokens=50)
    engine.step()
    others = [engine.submit([n, 2, 3], max_new_tokens=5) for n in (4, 5, 6)]
    engine.step()
    first.cancel()
    finish(engine)
    assert [h.finish_reason for h in others] == ["length"] * 3
    assert engine.model.steps[2:] == [9, 3, 3, 3, 3]
    together = [engine.submit([n, 2, 3], max_new_tokens=5, paced=False) for n in (4, 5, 6)]
    finish(engine)
    assert together[-1].done_s - together[0].arrived_s == BASE_S + 9 * ROW_S + 4 * (BASE_S + 3 * ROW_S)


def test_prompts_that_begin_as_the_first_ones_are_not_read_beside_it():
    engine = loop(4, latency_slack=100.0)
    system = list(range(1, 61)) * 2
    handles = [engine.submit([*system, n], max_new_tokens=3) for n in (5, 6)]
    finish(engine)
    assert engine.metrics.prompt_rows == 121 + 1
    assert [h.cached_tokens for h in handles] == [0, 120]


def test_costs_are_those_seen_and_between_them_even():
    costs = StepCosts(64)
    assert costs.upto(3).tolist() == [0, 0, 0, 0]
    assert costs.row_s is None
    costs.add(4, 2.0)
    assert costs.upto(8)[8] == pytest.approx(4.0)  # nothing better is known
    costs.add(1, 1.0)
    costs.add(10, 6.5)
    costs.add(20, 6.0)  # noise: more rows do not cost less
    found = costs.upto(30)
    np.testing.assert_allclose(found[1:21], np.interp(range(1, 21), [1, 4, 10, 20], [1, 2, 6.5, 6.5]))
    assert costs.row_s == pytest.approx(5 / 19)
    assert found[30] == pytest.approx(6.0 + 10 * 5 / 19)
    for _ in range(50):
        costs.add(4, 3.0)
    costs.add(4, 1000.0)  # something else held the processor
    assert 3.0 < costs.upto(4)[4] < 3.7


def test_rows_are_spared_where_a_second_buys_most():
    costs = StepCosts(64)
    for rows, seconds in {1: 1.0, 2: 1.5, 8: 1.8, 16: 3.0, 32: 6.0}.items():
        costs.add(rows, seconds)
    pace = Pace(1.25, costs)
    pace.balance_s = 0.3
    assert pace.spare(1, 0) == 0
    assert pace.spare(1, 31) == 0  # one row more would do, but soon seven cost little more
    pace.balance_s = 0.6
    assert pace.spare(1, 31) == 7
    pace.paid(1, 7, 1.8)
    assert pace.balance_s == pytest.approx(0.6 + 0.25 - 0.8)
    pace.paid(1, 0, 50.0)  # what comes from elsewhere is nobody's fault
    assert pace.balance_s == pytest.approx(0.05 + 0.25)
