# SPDX-License-Identifier: Apache-2.0
"""An utterance on its way through the encoder, whose surely heard parts leave early.

An early-exit network spends its last layers on a whole utterance for the sake of the few words that were not clear.
Here only the frames of those words go on, with some around them that a later block may attend to; the others keep what
the exit before said of them. It is early exit by position, as for the tokens of a language model (CALM, arXiv
2207.07061), in stretches: what left is not attended to any more, so that nothing need be made up for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_nodes.speech import operations
from edge_nodes.speech.encoder import Encoder

REACH = 6
"""Frames before and after a word that are its own: sounds it was decoded without."""
CONTEXT = 10
"""Frames around those that the next block attends to."""
WORTHWHILE = 0.8
"""Share of the frames that go on from which all do: then what they lose would cost more than the rest saves."""


class Stretches(Iterator[Tensor]):
    """Log-probabilities of each exit in turn, (1, T', symbols): of each frame those of the last exit it went to.

    Args:
        encoder: at rest; a block is computed when its exit is asked for.
        mel: (1, 80, T) float32 on the encoder's device.

    Attributes:
        read_at: (T',) layer, from 1, that the log-probabilities of each frame are from.
        operations: floating-point operations so far.
    """

    def __init__(self, encoder: Encoder, mel: Tensor) -> None:
        self._encoder, self._index = encoder, 0
        self._hidden, _ = encoder.stem(mel)
        frames = self._hidden.shape[1]
        self._log_probs = self._hidden.new_zeros(1, frames, encoder.shape.symbols)
        self._computed, self._read = np.ones(frames, bool), np.ones(frames, bool)
        self.read_at = np.zeros(frames, int)
        self.operations = operations.stem(encoder.shape, mel.shape[2])

    def __next__(self) -> Tensor:
        if self._index == self._encoder.shape.blocks:
            raise StopIteration
        hidden, log_probs = torch.empty_like(self._hidden), self._log_probs.clone()
        for begin, end in _runs(self._computed):
            hidden[:, begin:end] = self._encoder.block(self._index, self._hidden[:, begin:end])
            self.operations += operations.block(self._encoder.shape, self._index, end - begin)
        for begin, end in _runs(self._read):
            log_probs[:, begin:end] = self._encoder.exits[self._index](hidden[:, begin:end])
            self.operations += operations.head(self._encoder.shape, end - begin)
        self._hidden, self._log_probs, self._index = hidden, log_probs, self._index + 1
        self.read_at[self._read] = self._index
        return log_probs

    def keep(self, spans: Sequence[tuple[int, int]]) -> bool:
        """Let only some frames go on to the later exits.

        Args:
            spans: first and last frame of each word that is not sure.

        Returns:
            Whether all that went on so far still does.
        """
        read = _within(spans, REACH, self._read)
        computed = _within(spans, REACH + CONTEXT, self._computed)
        if computed.sum() >= WORTHWHILE * self._computed.sum():
            return True
        self._read, self._computed = read, computed
        return False


def _within(spans: Sequence[tuple[int, int]], margin: int, before: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the frames are in a span or at most so many frames from one."""
    found = np.zeros_like(before)
    for first, last in spans:
        # From an even frame on: the parallel layers see every second one, the same ones as of the whole.
        found[max(0, first - margin) // 2 * 2 : last + 1 + margin] = True
    return found & before


def _runs(frames: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where each unbroken row of frames begins and ends."""
    edges = np.flatnonzero(np.diff(frames, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
