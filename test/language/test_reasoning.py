# SPDX-License-Identifier: Apache-2.0
"""Attempts, votes, early ends and deadlines, on a model that says what a script tells it to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")

from edge_nodes.language import SamplingConfig
from edge_nodes.language.config import FusionConfig, ReasoningConfig
from edge_nodes.language.fusion.admission import QueueFullError
from edge_nodes.language.fusion.loop import FusionEngine
from edge_nodes.language.reasoning.deliberation import REFINE, Deliberation

END = 0
QUESTION = [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many?"}]


class Letters:
    """Tokens are characters."""

    end_tokens = frozenset({END})

    def chat(self, messages):
        return [ord(c) for c in "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"]

    def decode(self, ids):
        return "".join(chr(i) for i in ids)

    def stream(self):
        return chr


class Scripted:
    """Says `replies[n]` in the n-th slot, or after n earlier answers; how sure it is of its letters is in `sure`."""

    batch, context, cache_bytes_per_token = 64, 1024, 4

    def __init__(self, replies, sure=(), slots=4):
        self.replies, self.sure, self.slots = replies, sure or [20.0] * len(replies), slots
        self.held = np.zeros((slots, self.context), int)
        self.prompts = []

    def forward(self, tokens, *, segments, rows):
        where = [(slot, first + i) for slot, first, count in segments for i in range(count)]
        for token, (slot, position) in zip(tokens, where, strict=True):
            self.held[slot, position] = token
        return np.stack([self._logits(*where[r]) for r in rows]) if rows else []

    def _logits(self, slot, position):
        text = "".join(chr(i) for i in self.held[slot, : position + 1])
        prompt, _, said = text.rpartition("<assistant>")
        if not said:
            self.prompts.append(prompt)
        number = max(slot, prompt.count("Earlier answer"))
        out = np.zeros(128, np.float32)
        reply = self.replies[number]
        out[ord(reply[len(said)]) if len(said) < len(reply) else END] = self.sure[number]
        return out

    def copy_cache(self, from_slot, to_slot, begin, end):
        self.held[to_slot, begin:end] = self.held[from_slot, begin:end]
        return end - begin


def deliberate(model, **config):
    values = {"answer": "number", "temperature": 0.0, "max_new_tokens": 40, "early_stop": False, **config}
    engine = FusionEngine(model, Letters(), FusionConfig(queue=8))
    return Deliberation(engine, QUESTION, ReasoningConfig(**values)), engine


def test_a_single_answer_is_that_of_the_loop():
    asked, _ = deliberate(Scripted(["It is 5."]))
    outcome = asked.run()
    assert (outcome.text, outcome.finish_reason, outcome.decided_early) == ("It is 5.", "stop", False)
    assert [r.answer for r in outcome.records] == ["5"]


def test_sequential_attempts_see_all_earlier_ones():
    model = Scripted(["It is 5.", "It is 6.", "It is 6 after all."], slots=1)
    outcome = deliberate(model, mode="sequential", vote="majority")[0].run()
    assert (outcome.vote.answer, outcome.text) == ("6", "It is 6 after all.")
    assert [p.count("Earlier answer") for p in model.prompts] == [0, 1, 2]
    assert model.prompts[0] == "<system>Count.<user>How many?"
    first, second = "Earlier answer 1:\nIt is 5.", "Earlier answer 2:\nIt is 6."
    assert model.prompts[2] == f"<system>Count.<user>How many?\n\n{first}\n\n{second}\n\n{REFINE}"
    assert [r.finish_reason for r in outcome.records] == ["stop"] * 3
    assert outcome.records[2].prompt_tokens == len(model.prompts[2] + "<assistant>")


def test_only_the_last_attempt_may_be_shown_and_only_its_end():
    model = Scripted(["5, I say: 5", "6, I say: 6"] * 2, slots=1)
    config = {"mode": "sequential", "attempts": 3, "earlier": "last", "earlier_tokens": 6}
    deliberate(model, **config)[0].run()
    assert model.prompts[2].count("Earlier answer") == 1
    assert "Earlier answer 1:\nsay: 6\n" in model.prompts[2]


def test_parallel_attempts_run_in_the_same_iterations():
    model = Scripted(["It is 5.", "It is 7.", "It is 7."], [20.0, 4.0, 4.0])
    asked, engine = deliberate(model, mode="parallel", vote="majority")
    assert asked.run().vote.answer == "7"
    assert engine.metrics.iterations < 20
    assert engine.metrics.shared_tokens > 20
    found = deliberate(model, mode="parallel", vote="inverse_entropy")[0].run()
    assert found.vote.answer == "5"  # surer than both others
    h = [r.entropy_bits for r in found.records]
    assert found.vote.weights == pytest.approx([1 / max(x, 0.05) for x in h])


def test_entropy_is_over_the_twenty_most_probable_or_all():
    p = np.exp([4.0, *[0.0] * 127])
    found = {
        kind: deliberate(Scripted(["5"], [4.0]), mode="parallel", attempts=1, entropy=kind)[0].run().records[0]
        for kind in ("top", "full")
    }
    for kind, size in (("top", 20), ("full", 128)):
        share = p[:size] / p[:size].sum()
        assert found[kind].entropy_bits == pytest.approx(-(share * np.log2(share)).sum(), rel=1e-4)


def test_attempts_are_spared_once_the_vote_is_decided():
    model = Scripted(["5", "5", "7", "7", "7"], slots=1)
    outcome = deliberate(model, mode="sequential", attempts=3, vote="majority", early_stop=True)[0].run()
    assert (len(outcome.records), outcome.vote.answer, outcome.decided_early) == (2, "5", True)
    slow = Scripted(["5", "5", "7777777777777777"])
    asked, engine = deliberate(slow, mode="parallel", attempts=3, vote="majority", early_stop=True)
    assert (len(asked.run().records), engine.requests()) == (2, asked._engine.requests())
    while engine.step():
        pass
    assert engine.metrics.finished == {"stop": 2, "cancelled": 1}


def test_attempts_that_end_first_are_not_taken_for_the_first():
    slow = Scripted(["7777777777777777", "5", "5"])
    outcome = deliberate(slow, mode="parallel", attempts=3, vote="first", early_stop=True)[0].run()
    assert outcome.vote.answer == "7777777777777777"


def test_cancel_and_deadline_give_what_there_is():
    asked, engine = deliberate(Scripted(["5 and so on, and so on", "6"], slots=1), mode="sequential")
    engine.step()
    asked.cancel()
    outcome = asked.run()
    assert (outcome.text, outcome.finish_reason, outcome.vote.answer) == ("5", "cancelled", "5")

    class Clock:
        now_s = 0.0

        def __call__(self):
            self.now_s += 0.01
            return self.now_s

    model = Scripted(["It is 5.", "It is 6, but let me think about it for a while longer"], slots=1)
    engine = FusionEngine(model, Letters(), FusionConfig(), clock=Clock())
    config = ReasoningConfig(
        mode="sequential", answer="number", temperature=0.0, deadline_s=1.6, early_stop=False, vote="last"
    )
    outcome = Deliberation(engine, QUESTION, config).run()
    assert (outcome.text, outcome.finish_reason) == ("It is 5.", "deadline")
    assert [r.finish_reason for r in outcome.records] == ["stop", "deadline"]
    assert outcome.vote.weights == (1.0, 0.0)


def test_a_full_queue_means_fewer_attempts():
    model = Scripted(["It is 5."] * 9, slots=2)
    engine = FusionEngine(model, Letters(), FusionConfig(queue=1))
    config = ReasoningConfig(mode="parallel", attempts=9, answer="number", temperature=0.0, early_stop=False)
    asked = Deliberation(engine, QUESTION, config)
    with pytest.raises(QueueFullError):
        Deliberation(engine, QUESTION, config)
    assert len(asked.run().records) == 3


def test_attempts_that_do_not_fit_the_context_are_left_out():
    model = Scripted([str(i) * 200 + f" is {i}" for i in range(9)], slots=1)
    values = {"mode": "sequential", "attempts": 6, "max_new_tokens": 300, "earlier_tokens": 250}
    outcome = deliberate(model, **values)[0].run()
    assert len(outcome.records) == 6
    assert max(r.prompt_tokens for r in outcome.records) + 300 <= model.context


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from("579"), min_size=3, max_size=3), st.sampled_from(["majority", "linear_recency"]))
def test_early_ends_do_not_change_the_answer(answers, rule):
    replies = [f"It is {a}." for a in answers]
    found = [
        deliberate(Scripted(replies, slots=1), mode="sequential", vote=rule, early_stop=early)[0].run().vote.answer
        for early in (False, True)
    ]
    assert found[0] == found[1]


def test_attempts_draw_with_seeds_of_their_own():
    engine = FusionEngine(Scripted(["55"] * 4, [3.0] * 4), Letters(), FusionConfig())
    config = ReasoningConfig(mode="parallel", attempts=4, temperature=1.5, max_new_tokens=8)
    asked = Deliberation(engine, QUESTION, config, SamplingConfig(seed=7, top_k=0, top_p=1.0))
    assert [h.order.sampling.seed for h in asked.handles] == [7, 8, 9, 10]
    assert {h.order.sampling.temperature for h in asked.handles} == {1.5}
    assert len({r.text for r in asked.run().records}) > 1
    again = Deliberation(engine, QUESTION, config, SamplingConfig(seed=7, top_k=0, top_p=1.0)).run()
    assert again.records == asked.outcome.records
