# SPDX-License-Identifier: Apache-2.0
"""Places for blocks in one piece of memory that are given back in the order in which they were taken.

The same as `native/arena.h`: a block lies in one piece, so that the end of the memory may be too short for the next.
"""

from __future__ import annotations

from collections import deque


class Ring:
    """Memory of a given size, of which only the bookkeeping is here.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken: deque[tuple[int, int]] = deque()

    def take(self, size: int) -> int | None:
        """Return the offset of a place for so many bytes; None if there is none now."""
        begin = 0
        if self._taken:
            tail, (last, head) = self._taken[0][0], self._taken[-1]
            begin = head
            if head + size > (tail if last < tail else self._size):
                if last < tail or size > tail:
                    return None
                begin = 0
        elif size > self._size:
            return None
        self._taken.append((begin, begin + size))
        return begin

    def give_back(self) -> None:
        """Give back the oldest place."""
        self._taken.popleft()
