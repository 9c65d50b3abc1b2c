# SPDX-License-Identifier: Apache-2.0
"""Which device a network runs on: a GPU, the CPU, or chosen cores of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from edge_nodes.errors import State
from edge_nodes.perception.errors import PerceptionError

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


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
