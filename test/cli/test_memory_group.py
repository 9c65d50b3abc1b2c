# SPDX-License-Identifier: Apache-2.0
"""Control groups: a process's peak, and what is left of a group after an error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_nodes.cli.memory_group import memory_group


def started(code):
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_an_error_is_not_hidden_by_processes_that_are_left():
    with pytest.raises(ValueError, match="the bench failed"), memory_group() as group:
        if group is None:
            pytest.skip("control groups are not permitted")
        with group.hosting():
            process = started("print('ready', flush=True); input()")
        assert process.stdout.readline() == b"ready\n"
        raise ValueError("the bench failed")
    assert process.wait(20) != 0
    process.stdin.close()
    process.stdout.close()
    assert not group.folder.exists()


def test_the_peak_is_what_a_process_touched():
    with memory_group() as group:
        if group is None:
            pytest.skip("control groups are not permitted")
        with group.hosting():
            process = started("x = bytearray(60_000_000); print('ready', flush=True)")
        process.communicate(timeout=60)
        assert 60e6 < group.peak_bytes() < 160e6
