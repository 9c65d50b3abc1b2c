# SPDX-License-Identifier: Apache-2.0
"""Where speech starts and ends: silero-vad's probabilities and a segmenter with hysteresis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.config import VadConfig

CHUNK = 512
"""Samples of one decision: 32 ms at 16 kHz, the only size silero-vad takes."""
_HYSTERESIS = 0.15


class SileroVad:
    """The voice activity model of the package silero-vad (MIT), TorchScript; keeps its state between chunks."""

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        import silero_vad  # sets torch's threads to 1 for the whole process

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = silero_vad.load_silero_vad()

    def __call__(self, chunk: NDArray[np.float32]) -> float:
        """Return the probability of speech in (512,) float32 samples in [-1, 1] at 16 kHz."""
        with self._torch.inference_mode():
            return float(self._model(self._torch.from_numpy(chunk), 16000))

    def reset(self) -> None:
        """Forget what was heard."""
        self._model.reset_states()


class Edge(NamedTuple):
    """Speech starts or ends at a sample, counted from the first one fed."""

    starts: bool
    sample: int


class Segmenter:
    """Turns one probability a chunk into starts and ends of speech."""

    def __init__(self, config: VadConfig) -> None:
        self.config = config
        self._position = 0
        self._since = 0
        self._speaking = False
        self.quiet = 0
        """Samples of silence at the end of the open segment."""
        self.loud = 0
        """Samples of speech since the last silence in it."""

    @property
    def since(self) -> int:
        """Position where the silence began that `quiet` counts."""
        return self._since

    @property
    def speaking(self) -> bool:
        """Whether a segment is open."""
        return self._speaking

    def feed(self, probability: float) -> Iterator[Edge]:
        """Take the next chunk's probability; yield an edge if one is certain now."""
        begin, end = self._position, self._position + CHUNK
        self._position = end
        config = self.config
        against = probability < config.threshold - _HYSTERESIS if self._speaking else probability >= config.threshold
        if not against:
            # Between the two thresholds neither run is broken nor carried on.
            if not self._speaking:
                self._since = end
            elif probability >= config.threshold:
                self._since, self.quiet, self.loud = end, 0, self.loud + CHUNK
            return
        self._since = min(self._since, begin)
        self.quiet, self.loud = end - self._since, 0
        needed_ms = config.silence_ms if self._speaking else config.speech_ms
        if (end - self._since) / 16 >= needed_ms:
            self._speaking = not self._speaking
            yield Edge(self._speaking, self._since)
            self._since, self.quiet, self.loud = end, 0, 0
