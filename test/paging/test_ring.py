# SPDX-License-Identifier: Apache-2.0
"""Places around a ring: in one piece, never shared, and the same ones in plans as in the native window."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_nodes.paging.ring import Ring
from edge_nodes.paging.window import BlockWindow, smallest_budget

PAGE = 4096
SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=9)


@given(st.integers(1, 30), st.lists(st.integers(0, 12), max_size=60))
def test_places_lie_within_and_apart_and_a_lone_one_always_fits(size, wanted):
    ring, taken = Ring(size), []
    for want in wanted:
        if want == 0 and taken:
            ring.give_back()
            taken.pop(0)
        elif want:
            begin = ring.take(want)
            if begin is None:
                assert taken or want > size
                continue
            place = set(range(begin, begin + want))
            assert place <= set(range(size))
            assert not any(place & other for other in taken)
            taken.append(place)


def test_a_ring_goes_around():
    ring = Ring(10)
    assert [ring.take(size) for size in (4, 3, 4)] == [0, 4, None]
    ring.give_back()
    assert ring.take(4) == 0  # the last three are too short
    assert ring.take(1) is None
    ring.give_back()
    assert ring.take(3) == 4


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 20))
def test_the_native_window_admits_the_same_blocks(pages, spare):
    sizes = [n * PAGE for n in pages]
    budget = min(smallest_budget(sizes) + spare * PAGE, sum(sizes))
    ring, admitted = Ring(budget), 0
    with BlockWindow(sizes, lambda *_: None, budget_bytes=budget, readers=2 * len(sizes)) as window:
        for used in range(3 * len(sizes)):
            while admitted < used + len(sizes) and ring.take(sizes[admitted % len(sizes)]) is not None:
                admitted += 1
            for index in range(len(sizes)):
                window.native.wait(index)
            assert window.stats().loads == admitted
            window.acquire(used % len(sizes))
            window.release(used % len(sizes))
            ring.give_back()
