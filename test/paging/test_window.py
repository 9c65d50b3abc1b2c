# SPDX-License-Identifier: Apache-2.0
"""The native window of blocks: order, budget, errors and ends; its timing on a clock of the test's own."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_nodes.errors import ModelError, State
from edge_nodes.paging.window import BlockWindow, smallest_budget, whole_pages

PAGE = 4096
PATIENCE_S = 20.0


def fill(index, memory):
    memory[:] = bytes([index % 251]) * len(memory)


def pass_over(window, sizes):
    for index, size in enumerate(sizes):
        memory = window.acquire(index)
        assert len(memory) == size
        assert memory[0] == memory[-1] == index % 251
        window.release(index)


class FakeDisk:
    """A disk whose reads take the time of a clock that jumps from event to event."""

    def __init__(self, load_s):
        self.load_s, self.now, self._freed = load_s, 0.0, False
        self._started, self._gates, self._ends = queue.Queue(), {}, {}

    def load(self, index, memory):
        gate = threading.Event()
        self._started.put((index, gate))
        assert self._freed or gate.wait(PATIENCE_S)
        fill(index, memory)

    def sync(self, window):
        """Note the reads that have begun."""
        while len(self._ends) < window.native.loading:
            index, gate = self._started.get(timeout=PATIENCE_S)
            self._gates[index], self._ends[index] = gate, self.now + self.load_s[index]

    def advance(self, window, limit):
        """Go on to `limit`, or to the end of a read if that is sooner."""
        self.sync(window)
        first = min(self._ends, key=self._ends.get, default=None)
        if first is None or self._ends[first] > limit:
            self.now = limit
            return
        self.now = self._ends.pop(first)
        self._gates.pop(first).set()
        window.native.wait(first)
        self.sync(window)

    def free(self):
        """Let all reads end."""
        self._freed = True
        for gate in self._gates.values():
            gate.set()
        while not self._started.empty():
            self._started.get()[1].set()


def token_time(load, use, wait, *, window, layers=8, pinned=(), readers=1):
    """The time of the third pass over `layers` pairs of blocks."""
    blocks = 2 * layers
    disk = FakeDisk([load[i % 2] for i in range(blocks)])
    with BlockWindow(
        [PAGE] * blocks, disk.load, budget_bytes=99 * PAGE, readers=readers, window=window, pinned=pinned
    ) as w:
        for _ in range(3):
            begin = disk.now
            for index in range(blocks):
                while not w.native.resident(index):
                    disk.advance(w, float("inf"))
                w.acquire(index)
                for seconds, after in ((use[index % 2], w.release), (wait[index % 2], None)):
                    end = disk.now + seconds
                    while disk.now < end:
                        disk.advance(w, end)
                    if after:
                        after(index)
                        disk.sync(w)
        disk.free()
    return disk.now - begin


@pytest.mark.parametrize(("window", "layer_ms"), [(1, 76.0), (2, 56.0), (3, 56.0)])
def test_time_of_a_layer_is_that_of_the_event_model(window, layer_ms):
    assert token_time((18, 30), (11, 17), (14, 14), window=window) == pytest.approx(8 * layer_ms)


@pytest.mark.parametrize(("window", "layer_ms"), [(1, 76.0), (2, 48.0), (3, 48.0)])
def test_fast_network_leaves_the_disk_as_the_bound(window, layer_ms):
    assert token_time((18, 30), (11, 17), (1, 1), window=window) == pytest.approx(8 * layer_ms)


@pytest.mark.parametrize(("every", "pass_ms"), [(8, 708.0), (4, 648.0), (2, 528.0), (1, 448.0)])
def test_pinned_blocks_take_their_reads_from_the_pass(every, pass_ms):
    pinned = [2 * layer + 1 for layer in range(0, 8, every)]
    assert token_time((36, 60), (11, 17), (14, 14), window=3, pinned=pinned) == pytest.approx(pass_ms)


def test_blocks_are_read_in_cyclic_order_and_never_more_than_fit():
    sizes, seen = [3 * PAGE, PAGE, 2 * PAGE], []

    def load(index, memory):
        seen.append(index)
        fill(index, memory)

    with BlockWindow(sizes, load, budget_bytes=3 * PAGE) as window:
        for _ in range(4):
            pass_over(window, sizes)
        assert window.stats().peak_bytes <= 3 * PAGE
    assert seen[:12] == [0, 1, 2] * 4


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5 * PAGE), min_size=1, max_size=9),
    readers=st.integers(1, 8),
    spare=st.integers(0, 12 * PAGE),
    limit=st.integers(0, 4),
    cyclic=st.booleans(),
    data=st.data(),
)
def test_no_budget_deadlocks_and_none_is_exceeded(sizes, readers, spare, limit, cyclic, data):
    pinned = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    budget = smallest_budget(sizes, pinned) + spare
    options = {"readers": readers, "pinned": pinned, "window": limit, "cyclic": cyclic, "deadline_s": PATIENCE_S}
    with BlockWindow(sizes, fill, budget_bytes=budget, **options) as window:
        for _ in range(3):
            pass_over(window, sizes)
            stats = window.stats()
            assert stats.peak_bytes <= budget
            assert stats.held_bytes <= stats.peak_bytes
            assert not limit or stats.peak_blocks <= limit


def test_pinned_blocks_are_read_once():
    sizes, seen = [PAGE] * 4, []

    def load(index, memory):
        seen.append(index)
        fill(index, memory)

    with BlockWindow(sizes, load, budget_bytes=3 * PAGE, pinned=[1, 2], cyclic=False) as window:
        for _ in range(3):
            pass_over(window, sizes)
    assert seen.count(1) == seen.count(2) == 1
    assert seen.count(0) == seen.count(3) == 3


def test_budget_too_small_is_refused_with_what_would_do():
    with pytest.raises(ModelError, match=f"at least {4 * PAGE} bytes") as caught:
        BlockWindow([PAGE, 2 * PAGE + 1], fill, budget_bytes=4 * PAGE - 1, pinned=[0])
    assert caught.value.state is State.OUT_OF_MEMORY


def test_blocks_out_of_order_are_refused():
    with BlockWindow([PAGE] * 3, fill, budget_bytes=9 * PAGE) as window:
        with pytest.raises(IndexError, match="block 1 is not the next one, which is 0"):
            window.acquire(1)
        window.acquire(0)
        with pytest.raises(IndexError, match="not yet released"):
            window.acquire(1)
        with pytest.raises(IndexError, match="block 1 is not acquired"):
            window.release(1)


def test_failed_read_is_the_error_of_that_block_and_the_next_pass_works():
    broken = threading.Event()
    broken.set()

    def load(index, memory):
        if index == 2 and broken.is_set():
            raise OSError("the disk is gone")
        fill(index, memory)

    with BlockWindow([PAGE] * 4, load, budget_bytes=9 * PAGE, readers=3) as window:
        for index in (0, 1):
            window.acquire(index)
            window.release(index)
        for _ in range(2):
            with pytest.raises(ModelError, match="block 2: OSError: the disk is gone"):
                window.acquire(2)
        broken.clear()
        window.restart()
        pass_over(window, [PAGE] * 4)


def test_restart_in_the_middle_of_a_pass_begins_anew():
    with BlockWindow([PAGE] * 5, fill, budget_bytes=4 * PAGE, readers=2, pinned=[1]) as window:
        for _ in range(3):
            window.acquire(0)
            window.release(0)
            window.acquire(1)
            window.restart()
        pass_over(window, [PAGE] * 5)
        assert window.stats().peak_bytes <= 4 * PAGE


def test_close_ends_a_wait_and_waits_for_the_read_that_runs():
    entered, gate, ended = threading.Event(), threading.Event(), []

    def load(index, memory):
        entered.set()
        assert gate.wait(PATIENCE_S)
        ended.append(index)

    window = BlockWindow([PAGE] * 2, load, budget_bytes=2 * PAGE)
    assert entered.wait(PATIENCE_S)
    waiting, errors = threading.Event(), []

    def use():
        waiting.set()
        try:
            window.acquire(0)
        except ModelError as error:
            errors.append(error)

    user = threading.Thread(target=use)
    user.start()
    assert waiting.wait(PATIENCE_S)
    closing = threading.Thread(target=window.close)
    closing.start()
    user.join(PATIENCE_S)
    assert len(errors) == 1
    assert "closed" in str(errors[0])
    gate.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert ended == [0]
    window.close()


def test_late_block_is_an_error():
    gate = threading.Event()
    with BlockWindow([PAGE], lambda *_: gate.wait(PATIENCE_S), budget_bytes=PAGE, deadline_s=0.01) as window:
        with pytest.raises(ModelError, match="block 0 was not read in"):
            window.acquire(0)
        gate.set()


@pytest.fixture
def files(tmp_path):
    paths = []
    for index, size in enumerate([10_000, PAGE, 1, 3_000_000]):
        paths.append(tmp_path / f"{index}.bin")
        paths[-1].write_bytes(bytes([index]) * size)
    return paths


@pytest.mark.parametrize("direct", [True, False])
def test_files_are_read_whole(files, direct):
    sizes = [path.stat().st_size for path in files]
    with BlockWindow(sizes, files, budget_bytes=whole_pages(3_000_000), readers=2, direct=direct) as window:
        for _ in range(2):
            for index, path in enumerate(files):
                assert bytes(window.acquire(index)) == path.read_bytes()
                window.release(index)
        assert window.stats().bytes_read >= sum(sizes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 4095 bytes, not the 4096 of its manifest"),
        (Path.unlink, "cannot open .*1.bin: No such file"),
    ],
)
def test_damaged_file_is_named(files, damage, message):
    damage(files[1])
    sizes = [10_000, PAGE, 1, 3_000_000]
    with BlockWindow(sizes, files, budget_bytes=1 << 22) as window:
        window.acquire(0)
        window.release(0)
        with pytest.raises(ModelError, match=message) as caught:
            window.acquire(1)
        assert caught.value.state is State.MODEL_BAD
