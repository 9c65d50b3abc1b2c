# SPDX-License-Identifier: Apache-2.0
"""The event model against published and derived tables, and the planner."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.errors import ModelError, State
from edge_nodes.paging.plan import Profile, pin_evenly, plan, simulate
from edge_nodes.paging.window import whole_pages

PAGE = 4096
MS = PAGE * 1000.0  # bytes a second that read a page in a millisecond


def layers(load, use, wait, count=32):
    """Pairs of blocks; times in ms, read by one reader."""
    milliseconds = (tuple(t / 1e3 for t in times) * count for times in (use, wait))
    return Profile(tuple(PAGE * t for t in load) * count, *milliseconds, {1: MS})


def token_ms(profile, **options):
    return round(1e3 * simulate(profile, 1 << 30, readers=1, **options).pass_s)


LAPTOP = layers((18, 30), (11, 17), (14, 14))  # TPI-LLM's four laptops, Llama-2-7B


@pytest.mark.parametrize(
    ("window", "own", "late"), [(1, 2432, None), (2, 1792, 2432), (3, 1792, 1792), (4, 1792, 1792)]
)
def test_window_sizes_of_the_laptops(window, own, late):
    assert token_ms(LAPTOP, window=window) == own
    assert late is None or token_ms(LAPTOP, window=window, free_after_next=True) == late


@pytest.mark.parametrize(("window", "own", "late"), [(1, 2432, None), (2, 1536, 2432), (3, 1536, 1536)])
def test_window_sizes_on_a_faster_network(window, own, late):
    fast = layers((18, 30), (11, 17), (1, 1))
    assert token_ms(fast, window=window) == own
    assert late is None or token_ms(fast, window=window, free_after_next=True) == late


@pytest.mark.parametrize(("every", "expected"), [(8, 2832), (4, 2592), (3, 2412), (2, 2112), (1, 1792)])
def test_retention_on_a_disk_half_as_fast(every, expected):
    slow = layers((36, 60), (11, 17), (14, 14))
    assert token_ms(slow, window=3) == 3072
    assert token_ms(slow, window=3, pinned=[2 * layer + 1 for layer in range(0, 32, every)]) == expected


def pipeload(readers):
    return Profile((10 * PAGE,) * 24, (1e-3,) * 24, (0.0,) * 24, {m: MS * m for m in range(1, readers + 1)})


def test_plain_pipeline_waits_nine_tenths_of_the_time():
    run = simulate(pipeload(1), 1 << 30, readers=1, first_pass=True)
    assert run.pass_s == pytest.approx(0.241)
    assert run.stall_s / run.pass_s == pytest.approx(0.90, abs=0.005)


@pytest.mark.parametrize(("readers", "faster"), [(2, 1.98), (4, 3.77), (6, 5.24), (8, 6.34)])
def test_several_readers(readers, faster):
    run = simulate(pipeload(readers), 1 << 30, readers=readers, first_pass=True)
    assert 0.241 / run.pass_s == pytest.approx(faster, abs=0.006)


@pytest.mark.parametrize(("room", "faster"), [(1, 0.91), (2, 1.81), (3, 2.68), (4, 3.49), (6, 4.92)])
def test_six_readers_with_little_room(room, faster):
    run = simulate(pipeload(6), room * 10 * PAGE, readers=6, first_pass=True)
    assert 0.241 / run.pass_s == pytest.approx(faster, abs=0.006)
    assert run.peak_bytes == room * 10 * PAGE


def test_budget_below_one_block_is_refused():
    with pytest.raises(ModelError, match=f"at least {30 * PAGE} bytes") as caught:
        plan(LAPTOP, 30 * PAGE - 1)
    assert caught.value.state is State.OUT_OF_MEMORY


def test_budget_for_all_pins_all():
    found = plan(LAPTOP, 64 * 30 * PAGE)
    assert found.pinned == tuple(range(64))
    assert found.run.stall_s == 0.0


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.floats(0.0, 1.2), st.integers(1, 3))
def test_plans_keep_within_the_budget_and_do_not_get_slower_with_more(pages, share, scaling):
    profile = Profile(
        tuple(PAGE * p for p in pages),
        (1e-3,) * len(pages),
        (0.0,) * len(pages),
        {1: MS, 2: MS * scaling, 4: MS * scaling, 6: MS * scaling},
    )
    least = max(pages) * PAGE
    budget = least + int(share * sum(pages) * PAGE)
    found = plan(profile, budget)
    assert found.run.peak_bytes <= budget
    assert found.run.pass_s <= simulate(profile, least, readers=1).pass_s * 1.0001


@given(st.lists(st.integers(1, 90_000), min_size=1, max_size=40), st.integers(0, 3_000_000))
def test_pinned_blocks_fit_and_are_spread(sizes, budget):
    pinned = pin_evenly(sizes, budget)
    assert sum(whole_pages(sizes[i]) for i in pinned) <= budget
    assert budget < sum(map(whole_pages, sizes)) or pinned == tuple(range(len(sizes)))
    if sizes == [sizes[0]] * len(sizes) and pinned:
        gaps = [b - a for a, b in pairwise(pinned)]
        assert not gaps or max(gaps) - min(gaps) <= 1
