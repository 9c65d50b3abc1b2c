# SPDX-License-Identifier: Apache-2.0
"""Boards on one machine: a network namespace each, joined by links of a given latency and bandwidth.

Frames pass through a process that delays them (TAP devices), as kernels of small boards lack netem. A frame takes its
bytes' time on the interface of the sender, the latency, and its place on the interface of the receiver.
"""

from __future__ import annotations

import fcntl
import heapq
import multiprocessing
import os
import select
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edge_nodes.cli.processes import BenchError

DEVICE, MTU = "eth0", 9000
_SET_TAP, _TAP_WITHOUT_HEADER = 0x400454CA, 0x1002


class EmulatedNetwork:
    """Namespaces of boards.

    Args:
        names: of the namespaces.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    @staticmethod
    def address(board: int) -> str:
        """Return the address of a board."""
        return f"10.77.0.{board + 1}"

    def start(self, board: int, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """Start a command on a board; its output comes through a pipe."""
        words = ["ip", "netns", "exec", self._names[board], *command]
        settings = {**os.environ, "GLOO_SOCKET_IFNAME": DEVICE, **environment}
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=settings)


@contextmanager
def emulated_network(boards: int, *, latency_s: float, bits_per_s: float) -> Iterator[EmulatedNetwork]:
    """Make the network and remove it.

    Raises:
        BenchError: namespaces or TAP devices are not permitted here.
    """
    tag = uuid.uuid4().hex[:6]
    names = [f"board-{tag}-{i}" for i in range(boards)]
    context = multiprocessing.get_context("spawn")
    ready, ended = context.Queue(), context.Event()
    relay = context.Process(target=_relay, args=(names, tag, latency_s, bits_per_s / 8, ready, ended), daemon=True)
    try:
        for name in names:
            _ip("netns", "add", name)
        relay.start()
        if (error := ready.get(timeout=60)) is not None:
            raise BenchError("no emulated network here", got=error)
        yield EmulatedNetwork(names)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError("no emulated network here", got=error, remedy="It takes the rights of root.") from error
    finally:
        ended.set()
        if relay.pid:
            relay.join(10)
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def permitted() -> str:
    """Return why there can be no emulated network here, or ""."""
    try:
        with emulated_network(1, latency_s=0.0, bits_per_s=1e9):
            return ""
    except BenchError as error:
        return str(error)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _relay(names: Sequence[str], tag: str, latency_s: float, bytes_per_s: float, ready: Any, ended: Any) -> None:
    try:
        files = [_tap(i, name, tag, len(names)) for i, name in enumerate(names)]
    except (OSError, subprocess.CalledProcessError) as error:
        ready.put(str(getattr(error, "stderr", b"") or error))
        return
    ready.put(None)
    _pass_frames(files, latency_s, bytes_per_s, ended)


def _tap(index: int, name: str, tag: str, boards: int) -> int:
    """Return the file of a new interface in a namespace."""
    device = f"tap{tag}{index}"
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _SET_TAP, struct.pack("16sH", device.encode(), _TAP_WITHOUT_HEADER))
    _ip("link", "set", device, "netns", name, "name", DEVICE)
    for words in (
        ("link", "set", DEVICE, "address", _mac(index), "mtu", str(MTU), "up"),
        ("link", "set", "lo", "up"),
        ("addr", "add", f"{EmulatedNetwork.address(index)}/24", "dev", DEVICE),
    ):
        _ip("-n", name, *words)
    for other in range(boards):
        if other != index:
            _ip("-n", name, "neigh", "add", EmulatedNetwork.address(other), "lladdr", _mac(other), "dev", DEVICE)
    return file


def _mac(index: int) -> str:
    return f"02:00:00:00:00:{index:02x}"


def _pass_frames(files: Sequence[int], latency_s: float, bytes_per_s: float, ended: Any) -> None:
    index = {file: i for i, file in enumerate(files)}
    sending, receiving = [0.0] * len(files), [0.0] * len(files)
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while not ended.is_set():
        now = time.perf_counter()
        while waiting and waiting[0][0] <= now:
            _, _, to, frame = heapq.heappop(waiting)
            os.write(files[to], frame)
        pause = min(0.2, waiting[0][0] - now) if waiting else 0.2
        for file in select.select(files, [], [], max(0.0, pause))[0]:
            frame = os.read(file, MTU + 64)
            to = frame[5]
            if frame[0] & 1 or to >= len(files):
                continue  # not for a board
            taken, sender = len(frame) / bytes_per_s, index[file]
            sending[sender] = max(time.perf_counter(), sending[sender]) + taken
            receiving[to] = max(sending[sender] + latency_s, receiving[to] + taken)
            number += 1
            heapq.heappush(waiting, (receiving[to], number, to, frame))


def outputs(processes: Mapping[int, subprocess.Popen[str]], timeout_s: float) -> dict[int, str]:
    """Return the last line that each process printed; ends all.

    Raises:
        BenchError: one failed.
    """
    found, failed = {}, []
    try:
        for board, process in processes.items():
            text, _ = process.communicate(timeout=timeout_s)
            lines = [line for line in text.splitlines() if line.strip()]
            found[board] = lines[-1] if lines else ""
            if process.returncode:
                failed.append(f"board {board}: {found[board]}"[-300:])
    except subprocess.TimeoutExpired as error:
        raise BenchError("a board did not end", got=error) from error
    finally:
        for process in processes.values():
            process.kill()
            process.wait(10)
    if failed:
        raise BenchError("a board failed", got="; ".join(failed))
    return found
