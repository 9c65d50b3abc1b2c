# SPDX-License-Identifier: Apache-2.0
"""One of several processes that add up numbers."""

from __future__ import annotations

import numpy as np

SIZES = (1, 7, 1000)


def reduce_some(rank, ranks, port, algorithms, out):
    """Put (rank, ({algorithm: sums and maxima of numbers of some sizes}, what was measured)) into a queue."""
    from torch.distributed import TCPStore

    from edge_nodes.language.boards.link import Link

    link = Link(TCPStore("127.0.0.1", port, None, rank == 0, wait_for_workers=False), rank, ranks, deadline_s=30.0)
    found = {}
    for link.algorithm in algorithms:
        found[link.algorithm] = [values(rank, size) for size in SIZES for _ in (True, False)]
        for i, array in enumerate(found[link.algorithm]):
            link.reduce(array, "max" if i % 2 else "sum")
    counted = link.bytes_sent, dict(link.reduced)
    for _ in range(4):
        link.measure_again()
    assert (link.bytes_sent, link.reduced) == counted
    out.put((rank, (found, link.network)))
    link.reduce(np.zeros(1, np.float32), "sum")  # nobody leaves before all are done
    link.close()


def values(rank, size):
    """The numbers of a rank."""
    return np.random.default_rng(rank).normal(0, 1, size).astype(np.float32)
