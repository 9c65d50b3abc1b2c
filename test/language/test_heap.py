# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes

import psutil
import pytest

from edge_nodes.language import heap


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library cannot return free memory")
def test_free_memory_below_what_is_in_use_goes_back_to_the_system():
    process = psutil.Process()
    blocks = [b"x" * (600 + i % 2) for i in range(100_000)]  # too large for Python's own arenas
    kept = blocks[::100]  # so that what is free lies between what is not
    del blocks
    before = process.memory_info().rss
    heap.give_back()
    assert process.memory_info().rss < before - 30e6
    assert len(kept) == 1000
