# SPDX-License-Identifier: Apache-2.0
"""The fused loop: every answer is the one its request gets alone, whoever else comes, goes or waits."""

from __future__ import annotations

import gc
import threading

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_model import END, ToyModel, ToyTokenizer, finish

pytest.importorskip("edge_nodes.native._kernels", reason="C++ extension not built")

from edge_nodes.errors import State
from edge_nodes.language import LanguageError, SamplingConfig
from edge_nodes.language.answer_text import AnswerText
from edge_nodes.language.config import FusionConfig
from edge_nodes.language.fusion.admission import QueueFullError
from edge_nodes.language.fusion.loop import FusionEngine
from edge_nodes.language.fusion.plan import ARRANGEMENTS
from edge_nodes.language.fusion.request import Priority, RequestState

HOT = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def loop(slots=4, *, batch=64, context=256, ends=True, clock=None, **config):
    model = ToyModel(slots, context, batch, ends)
    options = {"clock": clock} if clock else {}
    return FusionEngine(model, ToyTokenizer(), FusionConfig(slots=slots, queue=1000, **config), **options)


def alone(prompt, count, sampling=None):
    """The answer by the plainest loop over the toy's logits."""
    from edge_nodes.language.sampling import Sampler

    model, held, draw = ToyModel(), list(prompt), Sampler(sampling or SamplingConfig())
    while len(held) < min(len(prompt) + count, 256):
        token = draw(model.logits(np.array(held)), held[len(prompt) :])
        if token == END:
            break
        held.append(token)
    return held[len(prompt) :]


PROMPTS = st.lists(st.integers(1, 63), min_size=1, max_size=90)
REQUESTS = st.lists(
    st.tuples(PROMPTS, st.integers(1, 40), st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=14
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    REQUESTS,
    st.integers(1, 5),
    st.integers(1, 40),
    st.sampled_from(sorted(ARRANGEMENTS)),
    st.booleans(),
    st.sampled_from([0.0, 1.0, 1.2, 5.0]),
    st.integers(0, 2**31),
)
def test_answers_are_those_of_each_request_alone(requests, slots, chunk, arrangement, hot, slack, seed):
    """Random arrivals, prompts (half of them with a common beginning), lengths, priorities, cancels, arrangements."""
    engine = loop(slots, prefill_tokens=chunk, arrangement=arrangement, latency_slack=slack)
    rng, sent = np.random.default_rng(seed), []
    common = rng.integers(1, 63, 60).tolist()
    for number, (prompt, count, gap, priority, shared) in enumerate(requests):
        sampling = SamplingConfig(**HOT, seed=number) if hot else SamplingConfig()
        prompt = common + prompt if shared else prompt
        handle = engine.submit(prompt, sampling, max_new_tokens=count, priority=priority)
        sent.append((handle, prompt, count, sampling, rng.random() < 0.2))
        for _ in range(gap):
            engine.step()
        if sent[-1][-1]:
            handle.cancel()
    finish(engine)
    for handle, prompt, count, sampling, cancelled in sent:
        expected = alone(prompt, count, sampling)
        assert handle.state is RequestState.DONE
        assert [t.id for t in handle.take() if t.id >= 0] == list(handle.answer) == expected[: len(handle.answer)]
        if not cancelled:
            assert list(handle.answer) == expected
            assert handle.finish_reason == ("length" if len(expected) == count else "stop")
    assert engine.model.most_rows <= engine.model.batch
    assert engine.metrics.submitted == sum(engine.metrics.finished.values()) == len(requests)


def test_ten_thousand_requests_through_four_slots_leave_nothing_behind():
    engine, rng = loop(4, context=64, prefill_tokens=8), np.random.default_rng(0)
    process, before, rss = psutil.Process(), 0, 0
    for number in range(10_000):
        handle = engine.submit(rng.integers(1, 63, 6).tolist(), max_new_tokens=int(rng.integers(1, 4)))
        if number % 7 == 0:
            handle.cancel()
        engine.step()
        if number == 2000:
            gc.collect()
            before, rss = len(gc.get_objects()), process.memory_info().rss
    finish(engine)
    del handle
    gc.collect()
    done = engine.metrics.finished
    assert sum(done.values()) == 10_000
    assert done["cancelled"] >= 1429
    assert len(gc.get_objects()) < before + 2000
    assert process.memory_info().rss - rss < 8 * 2**20
    assert engine.requests() == []


def test_more_urgent_requests_go_first_and_take_a_slot():
    engine = loop(1, ends=False)
    told = engine.submit([1, 2, 3], max_new_tokens=30, priority=Priority.NARRATION)
    for _ in range(5):
        engine.step()
    asked = engine.submit([4, 5], max_new_tokens=3, priority=Priority.PROMPT)
    spoken = engine.submit([6, 7], max_new_tokens=3, priority=Priority.SPEECH)
    alarm = engine.submit([8, 9], max_new_tokens=3, priority=Priority.ALARM)
    order = []
    while engine.step():
        order += [name for name, h in (("alarm", alarm), ("spoken", spoken), ("asked", asked), ("told", told))
                  if h.state is RequestState.DONE and name not in order]  # fmt: skip
    assert order == ["alarm", "spoken", "asked", "told"]
    assert engine.metrics.preempted >= 1
    assert len(told.answer) == 30


@pytest.mark.parametrize("alone", [True, False])
def test_others_pause_while_an_alarm_is_told(alone):
    engine = loop(4, ends=False, alarm_alone=alone, latency_slack=0.0)
    told = [engine.submit([n, 2, 3], max_new_tokens=40) for n in (1, 5)]
    for _ in range(4):
        engine.step()
    alarm = engine.submit([7, 8, 9], max_new_tokens=10, priority=Priority.ALARM)
    reading = engine.submit(list(range(1, 40)), max_new_tokens=5)
    before = [len(h.answer) for h in told]
    while alarm.state is not RequestState.DONE:
        engine.step()
    assert [len(h.answer) - n for h, n in zip(told, before, strict=True)] == ([0, 0] if alone else [10, 10])
    assert (len(reading.answer) > 0) is not alone
    finish(engine)
    assert [len(h.answer) for h in told] == [40, 40]


def test_a_full_queue_is_an_error_at_once_and_counted():
    engine = FusionEngine(ToyModel(2), ToyTokenizer(), FusionConfig(slots=2, queue=3))
    for _ in range(5):
        waiting = engine.submit([1, 2])
    with pytest.raises(QueueFullError, match="queue") as caught:
        engine.submit([1, 2])
    assert caught.value.state is State.OVERLOADED
    assert engine.metrics.rejected == 1
    waiting.cancel()
    engine.submit([1, 2])
    for bad in ([], [1] * 256):
        with pytest.raises(LanguageError, match="does not fit"):
            engine.submit(bad)


def test_cancel_and_deadline_free_the_slot_in_the_same_iteration():
    clock = Clock()
    engine = loop(1, ends=False, clock=clock)
    first = engine.submit([1, 2, 3], max_new_tokens=100)
    second = engine.submit([4, 5, 6], max_new_tokens=100, deadline_s=10.0)
    third = engine.submit([7, 8, 9], max_new_tokens=2)
    waits = engine.submit([1], deadline_s=5.0)
    engine.step()
    first.cancel()
    clock.now_s = 1.0
    engine.step()
    assert (first.finish_reason, len(first.answer)) == ("cancelled", 1)
    assert (second.state, second.admitted_s, len(second.answer)) == (RequestState.DECODE, 1.0, 1)
    clock.now_s = 10.0
    engine.step()
    assert (second.finish_reason, second.text) == ("deadline", "".join(t.text for t in second.take()))
    assert waits.finish_reason == "deadline"
    assert len(third.answer) == 1
    finish(engine)
    assert third.done_s == 10.0


def test_running_answers_go_on_while_a_prompt_is_read():
    engine = loop(2, prefill_tokens=10, ends=False, latency_slack=0.0)
    talking = engine.submit([1, 2, 3], max_new_tokens=100)
    engine.step()
    engine.submit(list(range(1, 60)) * 2, max_new_tokens=5)
    for number in range(2, 14):
        engine.step()
        assert len(talking.answer) == number
    assert engine.metrics.prompt_rows == 3 + 118


def test_a_shared_beginning_is_computed_once():
    engine, system = loop(4, prefill_tokens=64), list(range(1, 61))
    handles = [engine.submit([*system, 10 + i, 20, 30], max_new_tokens=4) for i in range(4)]
    finish(engine)
    assert [h.cached_tokens for h in handles] == [0, 60, 60, 60]
    assert engine.metrics.prompt_rows == 63 + 3 * 3
    assert engine.metrics.copied_bytes == 3 * 60 * 100
    again = engine.submit([*system, 11, 20, 30], max_new_tokens=4)
    finish(engine)
    assert (again.cached_tokens, list(again.answer)) == (62, list(handles[1].answer))


def test_iterating_a_handle_drives_the_loop_or_waits_for_its_thread():
    engine = loop(2, ends=False)
    handles = [engine.submit([n, 2, 3], max_new_tokens=9) for n in (1, 5)]
    expected = [[t.id for t in h] for h in handles]
    engine.start()
    threaded = [engine.submit([n, 2, 3], max_new_tokens=9) for n in (1, 5)]
    found = [None, None]
    readers = [threading.Thread(target=lambda i=i: found.__setitem__(i, [t.id for t in threaded[i]])) for i in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10)
    assert found == expected
    long = engine.submit([9], max_new_tokens=250)
    engine.close()
    assert long.finish_reason == "cancelled"


def test_a_failing_model_fails_its_requests_and_not_the_loop(monkeypatch):
    engine = loop(2)
    bad = engine.submit([1, 2, 3])
    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "forward", lambda *_, **__: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError):
            engine.step()
    assert (bad.finish_reason, str(bad.error)) == ("error", "no room")
    good = engine.submit([1, 2, 3], max_new_tokens=6)
    worse = engine.submit([1, 2, 4], max_new_tokens=6)
    worse._sampler = None
    finish(engine)
    assert list(good.answer) == alone([1, 2, 3], 6)
    assert (worse.finish_reason, type(worse.error)) == ("error", AttributeError)
    with pytest.raises(AttributeError):
        worse.wait()


def test_holes_are_computed_and_rows_move_only_in_a_window():
    found = {}
    for name in sorted(ARRANGEMENTS):
        engine = loop(4, ends=False, arrangement=name, latency_slack=0.0)
        for count in (30, 5, 30, 30):
            engine.submit([count, 2, 3], max_new_tokens=count)
        finish(engine)
        found[name] = (engine.metrics.hole_rows, engine.metrics.moves)
    assert found["index"] == (0, 0)
    assert found["window_fixed"] == (25, 0)
    assert found["swap"] == (0, 1)
    assert found["window"] in ((0, 1), (25, 0))  # by the measured costs


def test_stop_texts_are_held_back_and_cut():
    pieces = iter(["He", "llo", "\n", "Qu", "es", "tion"])
    text = AnswerText(lambda _: next(pieces), ("\nQuestion", "XYZ"))
    assert [text.push(0) for _ in range(6)] == ["He", "llo", "", "", "", ""]
    assert (text.stopped, text.text, text.flush()) == (True, "Hello", "")
    pieces = iter(["a\n", "b"])
    text = AnswerText(lambda _: next(pieces), ("\nQ",))
    assert [text.push(0), text.push(0), text.flush()] == ["a", "\nb", ""]


def test_top_entropy_is_that_of_the_most_probable_tokens():
    from edge_nodes.native._kernels import top_entropy

    for seed in range(20):
        logits = np.random.default_rng(seed).normal(0, 4, 1000).astype(np.float32)
        for k in (1, 2, 20, 1000, 5000):
            top = np.sort(logits)[-k:].astype(float)
            p = np.exp(top - top.max()) / np.exp(top - top.max()).sum()
            expected = -(p[p > 0] * np.log2(p[p > 0])).sum()
            assert top_entropy(logits, k) == pytest.approx(expected, abs=1e-9)
    assert top_entropy(np.array([0, -np.inf, -np.inf], np.float32), 3) == 0.0


def test_entropies_are_means_over_the_answers_tokens():
    engine = loop(2, ends=False)
    handle = engine.submit([1, 2, 3], max_new_tokens=7, entropy_top=20)
    finish(engine)
    nats = [t.entropy for t in handle.take()]
    assert handle.entropy_bits == pytest.approx(np.mean(nats) / np.log(2))
    assert 0 < handle.top_entropy_bits < handle.entropy_bits
