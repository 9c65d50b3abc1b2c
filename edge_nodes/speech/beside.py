# SPDX-License-Identifier: Apache-2.0
"""Running a part of a network beside the rest: in a thread on a second core, or on a second stream of a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Work = Callable[[], Tensor]


def spare_cores(threads: int) -> bool:
    """Return whether this process may use twice as many cores as `threads`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores >= 2 * threads


class Beside:
    """Runs one piece of work at a time while the caller goes on.

    What runs is what the caller would have run: results are the same bit for bit.

    Args:
        device: where the network is.
        threads: CPU threads of each call; the caller's number, since part of torch knows only one for all.
    """

    def __init__(self, device: torch.device, threads: int = 1) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._worker = ThreadPoolExecutor(1, "parallel layers", torch.set_num_threads, (threads,))

    def start(self, work: Work) -> Work:
        """Start `work` and return what waits for its result."""
        if self._stream is not None:
            return self._on_stream(work, self._stream)
        inference = torch.is_inference_mode_enabled()

        def run() -> Tensor:
            with torch.inference_mode(inference):
                return work()

        return self._worker.submit(run).result

    @staticmethod
    def _on_stream(work: Work, stream: torch.cuda.Stream) -> Work:
        here = torch.cuda.current_stream(stream.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            result = work()

        def wait() -> Tensor:
            here.wait_stream(stream)
            result.record_stream(here)
            return result

        return wait
