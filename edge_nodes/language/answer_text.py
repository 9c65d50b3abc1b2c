# SPDX-License-Identifier: Apache-2.0
"""An answer's text from its tokens, without the texts that end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class AnswerText:
    """Joins the pieces of an answer; holds back what may begin a stop text.

    Args:
        decode: the next token id to the text it completes.
        stop: texts that end the answer; they are not part of it.

    Attributes:
        text: what was given out so far.
        stopped: whether a stop text was said.
    """

    def __init__(self, decode: Callable[[int], str], stop: Sequence[str] = ()) -> None:
        self.text, self.stopped = "", False
        self._decode, self._stop, self._held = decode, tuple(stop), ""

    def push(self, token: int) -> str:
        """Take a token; return the text that is now surely part of the answer."""
        piece = self._decode(token)
        if not self._stop:  # nothing is ever held
            self.text += piece
            return piece
        self._held += piece
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found), drop=True)
        return self._give(len(self._held) - self._doubtful())

    def flush(self) -> str:
        """Return what was held back, as the answer ends without a stop text."""
        return self._give(len(self._held))

    def _give(self, size: int, *, drop: bool = False) -> str:
        piece, self._held = self._held[:size], "" if drop else self._held[size:]
        self.text += piece
        return piece

    def _doubtful(self) -> int:
        """Return the length of the longest end of the held text that begins a stop text."""
        sizes = (n for s in self._stop for n in range(min(len(s) - 1, len(self._held)), 0, -1))
        return max((n for n in sizes if any(self._held.endswith(s[:n]) for s in self._stop if len(s) > n)), default=0)
