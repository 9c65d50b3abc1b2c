# SPDX-License-Identifier: Apache-2.0
"""Which device a network runs on: a GPU, the CPU, or chosen cores of it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_nodes import heap
from edge_nodes.errors import State
from edge_nodes.perception.errors import PerceptionError

if TYPE_CHECKING:
    from torch import dtype as torch_dtype

_EXPECTED = "auto, cpu, cpu:0, cpu:0-1, cpu:0,2, cuda or cuda:0"


@dataclass(frozen=True)
class Device:
    """A device to run on.

    Attributes:
        torch: name torch knows it by.
        cores: CPU cores to pin to; empty for no pinning.
    """

    torch: str
    cores: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"cpu:{','.join(map(str, self.cores))}" if self.cores else self.torch

    def pin(self) -> None:
        """Keep the calling thread, and the threads it starts from now on, on `cores`."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)

    def dtype(self, precision: str) -> torch_dtype:
        """Return the numbers a network is to run in, for the value of a parameter `precision`.

        Raises:
            PerceptionError: the CPU has no instructions for float16.
        """
        import torch

        if precision == "auto":
            return torch.bfloat16 if self.torch == "cpu" and _bfloat16() else torch.float32
        if precision == "float16" and self.torch == "cpu":
            raise PerceptionError(
                "float16 is for GPUs", got=f"device {self}", expected="precision auto, float32 or bfloat16"
            )
        found: torch_dtype = getattr(torch, precision)
        return found

    @contextmanager
    def memory_for(self, model: str) -> Iterator[None]:
        """Turn torch's error that `model` does not fit the device into one of this package's."""
        import torch

        try:
            yield
        except torch.OutOfMemoryError as error:
            raise PerceptionError(
                f"{self} has too little memory for {model}",
                got=str(error).splitlines()[0],
                remedy="Choose another device or a smaller range_m.",
                state=State.OUT_OF_MEMORY,
            ) from None


class Worker:
    """Keeps whichever thread runs a network on the device's cores, with so many torch threads, and its memory at hand.

    Args:
        device: see `parse`.
        threads: CPU threads of torch.
    """

    def __init__(self, device: Device, threads: int) -> None:
        self._device, self._threads, self._thread = device, threads, 0
        heap.keep()

    def pin(self) -> None:
        """Pin the calling thread, if it was not the last to be pinned."""
        if self._thread != threading.get_ident():
            import torch

            self._thread = threading.get_ident()
            self._device.pin()
            torch.set_num_threads(self._threads)


def parse(text: str) -> Device:
    """Return the device that `text` names; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        PerceptionError: NO_DEVICE if it is not there, BAD_INPUT if it is no device.
    """
    if text == "auto":
        return Device("cuda:0" if _gpus() else "cpu")
    if text == "cpu":
        return Device("cpu")
    if cuda := re.fullmatch(r"cuda(?::(\d+))?", text):
        index, gpus = int(cuda[1] or 0), _gpus()
        if index >= gpus:
            raise PerceptionError(
                f"no device {text}",
                got=f"{gpus} CUDA devices",
                remedy="Set the device to cpu, or see `edge-nodes doctor`.",
                state=State.NO_DEVICE,
            )
        return Device(f"cuda:{index}")
    if cores := re.fullmatch(r"cpu:(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)", text):
        return Device("cpu", _cores(text, cores[1]))
    raise PerceptionError("not a device", got=repr(text), expected=_EXPECTED)


def _cores(text: str, listed: str) -> tuple[int, ...]:
    cores: set[int] = set()
    for item in listed.split(","):
        first, _, last = item.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    there = os.sched_getaffinity(os.getpid())
    if not cores or not cores <= there:
        raise PerceptionError(
            f"no device {text}", got=f"cores {sorted(there)}", expected="cores of these", state=State.NO_DEVICE
        )
    return tuple(sorted(cores))


def _bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 itself; where it only emulates that, float32 is faster."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", text))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
