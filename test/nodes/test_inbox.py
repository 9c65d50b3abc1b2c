# SPDX-License-Identifier: Apache-2.0
"""The bounded queue against a brute-force model."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from edge_nodes.nodes.inbox import Inbox

LIMITS = {"a": 1, "b": 3}


@given(st.lists(st.one_of(st.sampled_from(["a", "b"]), st.none()), max_size=60))
def test_like_a_list_that_drops_the_oldest_of_a_full_topic(steps):
    inbox, model, dropped = Inbox(LIMITS), [], {"a": 0, "b": 0}
    for number, topic in enumerate(steps):
        if topic is None:
            assert inbox.get(0) == (model.pop(0) if model else None)
            continue
        same = [entry for entry in model if entry[0] == topic]
        if len(same) == LIMITS[topic]:
            model.remove(same[0])
            dropped[topic] += 1
        model.append((topic, number))
        inbox.put(topic, number)
        assert inbox.waiting() == {t: sum(e[0] == t for e in model) for t in LIMITS}
    assert {t: inbox.dropped[t] for t in LIMITS} == dropped


def test_close_releases_a_waiting_reader():
    inbox = Inbox(LIMITS)
    got = []
    reader = threading.Thread(target=lambda: got.append(inbox.get(60)))
    reader.start()
    inbox.close()
    reader.join(10)
    assert got == [None]
    inbox.put("a", 1)
    assert inbox.waiting() == {"a": 0, "b": 0}
