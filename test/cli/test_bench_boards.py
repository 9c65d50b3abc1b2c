# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench boards`: what its figures mean, and the network that delays frames."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from edge_nodes.cli.bench.boards import targets
from edge_nodes.cli.emulated_network import _pass_frames


def figures(*, star=3.0, chosen="direct", same=True, growth=10.0):
    network = {"latency_s": 1e-3, "bytes_per_s": 1e8}
    row = {"bytes": 4, "chosen": chosen, "predicted_ms": 1.1, "direct": 1.0, "star": star, "split": 2.0, "ring": 6.0}
    board = {"growth_mb": growth, "share_mb": 8.0, "fixed_mb": 2.0}
    model = {"model": "m", "same_tokens": same, "boards": [board]}
    return {"exchange": [{"boards": 4, "network": network, "rows": [row]}], "models": [model]}


@pytest.mark.parametrize(
    ("changes", "missed"),
    [({}, 0), ({"star": 7.0}, 1), ({"chosen": "star"}, 2), ({"same": False}, 1), ({"growth": 12.0}, 1)],
)
def test_targets(changes, missed):
    assert [t["met"] for t in targets(figures(**changes))].count(False) == missed


def test_frames_reach_their_board_in_order_and_not_early():
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(3)]
    ended = threading.Event()
    files = [inside.fileno() for _, inside in ends]
    relay = threading.Thread(target=_pass_frames, args=(files, 0.02, 1e6, ended))
    relay.start()
    for _, inside in ends:
        inside.settimeout(20)
    begin = time.perf_counter()
    for number in range(5):
        ends[0][0].send(bytes([2, 0, 0, 0, 0, 2]) + bytes([number]) * 994)
    ends[0][0].send(bytes([255] * 6) + b"to all")
    ends[2][0].settimeout(20)
    got = [ends[2][0].recv(2000) for _ in range(5)]
    assert [frame[6] for frame in got] == [0, 1, 2, 3, 4]
    assert time.perf_counter() - begin >= 0.02 + 5 * 0.001
    ended.set()
    relay.join(20)
    for pair in ends:
        for end in pair:
            end.close()
