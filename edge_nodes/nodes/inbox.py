# SPDX-License-Identifier: Apache-2.0
"""The bounded queue between a node's callbacks and its worker thread. No ROS imports."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Inbox(Generic[ItemT]):
    """Messages in order of arrival, with a limit for each topic.

    A full topic loses its oldest message: with a limit of 1 the newest wins, with more it is a FIFO. Every loss is
    counted in `dropped`.

    Args:
        limits: {topic: messages that may wait}.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._items: deque[tuple[str, ItemT]] = deque()
        self._waiting: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = False
        self.dropped: Counter[str] = Counter()

    def put(self, topic: str, item: ItemT) -> None:
        """Add a message; drop the topic's oldest one if it is full."""
        with self._changed:
            if self._closed:
                return
            if self._waiting[topic] >= self._limits[topic]:
                del self._items[next(i for i, entry in enumerate(self._items) if entry[0] == topic)]
                self._waiting[topic] -= 1
                self.dropped[topic] += 1
            self._items.append((topic, item))
            self._waiting[topic] += 1
            self._changed.notify()

    def get(self, timeout_s: float) -> tuple[str, ItemT] | None:
        """Return the oldest message, or None after `timeout_s` seconds or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._closed, timeout_s)
            if self._closed or not self._items:
                return None
            topic, item = self._items.popleft()
            self._waiting[topic] -= 1
            return topic, item

    def waiting(self) -> dict[str, int]:
        """Return how many messages of each topic wait."""
        with self._changed:
            return {topic: self._waiting[topic] for topic in self._limits}

    def close(self) -> None:
        """Forget all messages and release whoever waits in `get`."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._waiting.clear()
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed
