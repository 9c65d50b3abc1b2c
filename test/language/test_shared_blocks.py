# SPDX-License-Identifier: Apache-2.0
"""Keys and values that several slots begin with are there once, and every slot goes on as if they were its own."""

from __future__ import annotations

import numpy as np
import pytest
from fused_runs import compare
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_nodes.language import SamplingConfig, load
from edge_nodes.language.config import FusionConfig
from edge_nodes.language.engine import common_prefix
from edge_nodes.language.fusion.loop import FusionEngine

SLOTS, CONTEXT, BLOCK = 4, 160, 16
KINDS = ("f16", "f32", "i8")
PROMPT = np.random.default_rng(5).integers(3, 260, 100).astype(np.int32)


@pytest.fixture(scope="module", params=KINDS)
def model(request, small_model):
    return load(small_model, context_tokens=CONTEXT, slots=SLOTS, threads=2, kv_cache=request.param).model


def run(model, slot, first, tokens):
    """Logits after the last token, in steps of up to 64."""
    tokens = np.asarray(tokens, np.int32)
    for at in range(0, len(tokens), 64):
        part = tokens[at : at + 64]
        out = model.forward(part, segments=[(slot, first + at, len(part))], rows=[len(part) - 1])
    return out[0]


def clear(model):
    for slot in range(model.slots):
        model.truncate_cache(slot, 0)
    assert (model.cache_used_bytes, model.cache_shared_bytes) == (0, 0)


def blocks(tokens):
    return -(-tokens // BLOCK)


@pytest.mark.parametrize(("begin", "end"), [(0, 96), (0, 77), (16, 80), (5, 77), (40, 44), (0, 7)])
def test_a_slot_goes_on_as_if_the_shared_positions_were_its_own(model, begin, end):
    clear(model)
    run(model, 0, 0, PROMPT[:end])
    if begin:
        run(model, 1, 0, PROMPT[:begin])
    whole = max(0, end // BLOCK - blocks(begin))
    assert model.copy_cache(0, 1, begin, end) == end - begin - whole * BLOCK
    assert model.cache_shared_bytes == whole * BLOCK * model.cache_bytes_per_token
    one, other = run(model, 1, end, PROMPT[end:]), run(model, 2, 0, PROMPT)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(run(model, 0, end, PROMPT[end:]), other)  # its own end was not touched
    assert model.copy_cache(0, 0, 0, 10) == model.copy_cache(0, 1, 8, 8) == 0
    with pytest.raises(IndexError, match="not in the cache"):
        model.copy_cache(0, 1, 0, 120)


def test_a_prefix_of_many_slots_is_stored_once_until_the_last_has_gone(model):
    clear(model)
    token = model.cache_bytes_per_token
    run(model, 0, 0, PROMPT)
    for slot in range(1, SLOTS):
        model.copy_cache(0, slot, 0, 96)
        run(model, slot, 96, [7 + slot] * 10)
    assert model.cache_used_bytes == (blocks(100) + (SLOTS - 1) * blocks(10)) * BLOCK * token
    assert model.cache_shared_bytes == (SLOTS - 1) * 96 * token
    run(model, 0, 0, PROMPT[::-1])  # the slot that made it is used for something else
    assert model.cache_shared_bytes == (SLOTS - 2) * 96 * token
    expected = run(model, 0, 0, [*PROMPT[:96], *[8] * 10, 9])
    np.testing.assert_array_equal(run(model, 1, 106, [9]), expected)
    model.truncate_cache(0, 0)
    for slot in range(1, SLOTS):
        assert model.cache_used_bytes >= 96 * token
        model.truncate_cache(slot, 0)
    assert model.cache_used_bytes == 0
    assert model.cache_bytes >= SLOTS * CONTEXT * token


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["write", "share", "cut"]), st.integers(0, 2), st.integers(0, 2), st.integers(0, 70)),
    min_size=3,
    max_size=25,
)


@settings(deadline=None, max_examples=25)
@given(ACTIONS, st.integers(0, 2**31))
def test_random_sharing_writing_and_cutting(model, actions, seed):
    """Each slot's next logits are those of its tokens computed from the first on; the last slot is the reference."""
    clear(model)
    rng, held = np.random.default_rng(seed), [[], [], []]
    for kind, slot, other, number in actions:
        if kind == "write":
            keep = min(number, len(held[slot]))
            tokens = rng.integers(3, 260, int(rng.integers(1, 40))).tolist()[: CONTEXT - 2 - keep]
            run(model, slot, keep, tokens)
            held[slot] = held[slot][:keep] + tokens
        elif kind == "share" and slot != other:
            begin = common_prefix(held[slot], held[other])
            end = min(len(held[other]), begin + number)
            if begin < end:
                model.copy_cache(other, slot, begin, end)
                held[slot] = held[other][:end]
        elif kind == "cut":
            model.truncate_cache(slot, number)
            del held[slot][number:]
    used = sum(blocks(len(tokens)) for tokens in held) * BLOCK * model.cache_bytes_per_token
    assert model.cache_used_bytes + model.cache_shared_bytes == used
    for slot, tokens in enumerate(held):
        if tokens:
            expected = run(model, SLOTS - 1, 0, [*tokens, 5])
            np.testing.assert_array_equal(run(model, slot, len(tokens), [5]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_requests_with_one_system_prompt_are_answered_as_alone(small_model, kind):
    one, many = (load(small_model, context_tokens=CONTEXT, slots=s, kv_cache=kind) for s in (1, SLOTS))
    rng, requests = np.random.default_rng(1), []
    for number in range(14):
        prompt = [*PROMPT.tolist(), *rng.integers(3, 260, int(rng.integers(1, 12))).tolist()]
        requests.append((prompt, SamplingConfig(temperature=float(number % 2), seed=number), int(rng.integers(2, 30))))
    loop, handles, most = FusionEngine(many.model, many.tokenizer, FusionConfig(queue=100)), [], 0
    while len(handles) < len(requests) or loop.requests():
        if len(handles) < len(requests):
            prompt, sampling, count = requests[len(handles)]
            handles.append(loop.submit(prompt, sampling, max_new_tokens=count))
            if len(handles) % 5 == 0:
                handles[-1].cancel()
        loop.step()
        most = max(most, many.model.cache_shared_bytes)
    kept = [n for n, h in enumerate(handles) if h.finish_reason != "cancelled"]
    compare(one, [requests[n] for n in kept], [handles[n] for n in kept])
    assert most >= (SLOTS - 1) * 96 * many.model.cache_bytes_per_token
    assert loop.metrics.shared_tokens >= (len(kept) - 1) * len(PROMPT)
    assert loop.metrics.copied_bytes < SLOTS * BLOCK * 2 * many.model.cache_bytes_per_token * len(requests)
