# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes
import subprocess
import sys

import psutil
import pytest

from edge_nodes import heap


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


# What a first large block costs later ones is lasting: in a process of its own.
KEEP = """
import resource
import numpy as np
from edge_nodes import heap
if {keep}:
    heap.keep()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        maps = [np.ones(3 << 20, np.uint8) for _ in range(12)]
        del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library cannot be told")
def test_kept_memory_is_not_taken_from_the_system_again():
    faults = {k: int(subprocess.check_output([sys.executable, "-c", KEEP.format(keep=k)])) for k in (False, True)}
    assert faults[True] < faults[False] / 5
