# SPDX-License-Identifier: Apache-2.0
"""An utterance on its way through the encoder, whose surely heard parts leave early.

An early-exit network spends its last layers on a whole utterance for the sake of the few words that were not clear.
Here only the frames of those words go on, with some around them that a later block may attend to; the others keep what
the exit before said of them. It is early exit by position, as for the tokens of a language model (CALM, arXiv
2207.07061), in stretches: words that left are not attended to any more, so that nothing need be made up for them.

Silence leaves first. But a block that attends to none of it hears other words than one that does, so a few of its
frames stand for the rest: each counts in the attention as often as the frames it stands for (proportional attention, as
of merged tokens: ToMe, arXiv 2210.09461, section 3), by the logarithm of that number, added to its logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_nodes.speech import operations
from edge_nodes.speech.alphabet import BLANK
from edge_nodes.speech.encoder import Encoder

REACH = 6
"""Frames before and after a word that are its own: sounds it was decoded without."""
CONTEXT = 6
"""Frames around those that the next block attends to."""
SILENT = 0.9
"""Probability of the blank from which a frame is silent, if those beside it are."""
BESIDE = 2
"""Frames beside a sound that are no silence."""
STANDS_FOR = 12
"""Silent frames that one stands for, at most."""
WORTHWHILE = 0.65
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
        # What goes on, goes on in pairs: the parallel layers see the first frame of each, the same as of the whole.
        self._computed, self._read = np.ones(frames, bool), np.ones(frames, bool)
        self._counts = np.ones(frames, np.float32)  # frames that each stands for
        self.read_at = np.zeros(frames, int)
        self.operations = operations.stem(encoder.shape, mel.shape[2])

    def __next__(self) -> Tensor:
        if self._index == self._encoder.shape.blocks:
            raise StopIteration
        hidden, log_probs = self._hidden.clone(), self._log_probs.clone()
        computed, read = (torch.from_numpy(np.flatnonzero(which)) for which in (self._computed, self._read))
        hidden[:, computed] = self._encoder.block(self._index, hidden[:, computed], self._weights())
        log_probs[:, read] = self._encoder.exits[self._index](hidden[:, read])
        self.operations += operations.block(self._encoder.shape, self._index, len(computed))
        self.operations += operations.head(self._encoder.shape, len(read))
        self._hidden, self._log_probs, self._index = hidden, log_probs, self._index + 1
        self.read_at[self._read] = self._index
        return log_probs

    def rest(self) -> bool:
        """Let silence, as the last exit hears it, stay behind but for the frames that stand for it.

        Returns:
            Whether all that went on so far still does.
        """
        blank = self._log_probs[0, :, BLANK].cpu().numpy()
        sounds = [(frame, frame) for frame in np.flatnonzero(blank < np.log(SILENT)).tolist()]
        silent = ~_within(sounds, BESIDE, self._computed) & self._computed
        for begin, end in _runs(silent):
            # At least one pair of each silence, evenly spread.
            standing = max(1, round((end - begin) / (2 * STANDS_FOR)))
            middles = begin + (np.arange(standing) + 0.5) * (end - begin) / standing
            firsts = middles.astype(int) // 2 * 2
            stay = np.unique(np.concatenate([firsts, np.minimum(firsts + 1, end - 1)]))
            silent[stay] = False
            self._counts[stay] = (end - begin) / len(stay)
        self._computed, self._read = self._computed & ~silent, self._read & ~silent
        return not silent.any()

    def keep(self, spans: Sequence[tuple[int, int]]) -> bool:
        """Let only some frames go on to the later exits.

        Args:
            spans: first and last frame of each word that is not sure.

        Returns:
            Whether all that went on so far still does.
        """
        read = _within(spans, REACH, self._read)
        computed = _within(spans, REACH + CONTEXT, self._computed) | (self._computed & (self._counts > 1))
        if computed.sum() >= WORTHWHILE * self._computed.sum():
            return True
        self._read, self._computed = read, computed
        return False

    def _weights(self) -> Tensor | None:
        """Return what is added to the attention's logits of each frame that goes on, (1, frames), if anything."""
        counts = self._counts[self._computed]
        if (counts == 1).all():
            return None
        return torch.from_numpy(np.log(counts))[None].to(self._hidden.device)


def _within(spans: Sequence[tuple[int, int]], margin: int, before: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the frames are in a span or at most so many frames from one, in pairs."""
    found = np.zeros_like(before)
    for first, last in spans:
        found[max(0, first - margin) // 2 * 2 : (last + margin) // 2 * 2 + 2] = True
    return found & before


def _runs(frames: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where each unbroken row of frames begins and ends."""
    edges = np.flatnonzero(np.diff(frames, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
