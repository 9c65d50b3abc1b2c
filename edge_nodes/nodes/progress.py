# SPDX-License-Identifier: Apache-2.0
"""Tells how loading goes on. No ROS imports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PROGRESS_S = 2.0


class Progress:
    """Passes progress lines on, and repeats the last one every 2 s so that nobody takes a load for a hang."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._text, self._begin = say, "loading", time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)

    def __enter__(self) -> Callable[[str], None]:
        self._thread.start()
        return self._line

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _line(self, text: str) -> None:
        self._text = text
        self._say(text)

    def _repeat(self) -> None:
        while not self._done.wait(PROGRESS_S):
            self._say(f"{self._text} ... {time.monotonic() - self._begin:.0f} s")
