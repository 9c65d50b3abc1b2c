# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the authors as the model of speech_node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_nodes.errors import State
from edge_nodes.speech.errors import SpeechError
from edge_nodes.speech.exits import Reading, read
from edge_nodes.speech.model import ExitModel
from edge_nodes.speech.reference import checkpoint
from edge_nodes.speech.reference.mel import HOP, features
from edge_nodes.speech.reference.network import SHORTEST
from edge_nodes.speech.reference.tokenizer import Tokenizer, beside


class ReferenceModel(ExitModel):
    """A checkpoint with its tokenizer; kind, exits and layers are read off the tensors' names.

    Args:
        path: the authors' file.
        tokenizer: its SentencePiece file; empty for the only *.model in the same folder.
        heads: of the attention; the file does not tell.
        device: "cpu", "cuda", "cuda:1", ...
        threads: CPU threads of each call.

    Raises:
        SpeechError: a file is missing (MODEL_MISSING) or is not what it should be (MODEL_BAD), sentencepiece is not
            installed, there is no such device (NO_DEVICE).
    """

    def __init__(
        self, path: str | Path, *, tokenizer: str | Path = "", heads: int = 8, device: str = "cpu", threads: int = 1
    ) -> None:
        super().__init__(device, threads)
        state = checkpoint.read(path)
        kind, exits, layers_per_exit = checkpoint.guess(str(path), state)
        self.name = f"reference {kind} {Path(path).name}"
        self._tokenizer = Tokenizer(tokenizer or beside(path))
        network = checkpoint.build(str(path), state, kind, heads, exits, layers_per_exit)
        if network.sizes.pieces != len(self._tokenizer):
            raise SpeechError(
                "the tokenizer is not the checkpoint's",
                got=f"{len(self._tokenizer)} pieces",
                expected=str(network.sizes.pieces),
                remedy="Set the parameter reference.tokenizer to the file that the checkpoint was trained with.",
                state=State.MODEL_BAD,
            )
        self._network = network.to(self._device)

    @property
    def layers(self) -> int:
        """Number of Conformer layers one after the other."""
        return self._network.sizes.exits * self._network.sizes.layers_per_exit

    @property
    def exits(self) -> Sequence[int]:
        """Layers with an exit, from 1: the last of each block."""
        step = self._network.sizes.layers_per_exit
        return range(step, self.layers + 1, step)

    def _features(self, samples: NDArray[np.float32]) -> Tensor:
        wave = np.pad(samples, (0, max(0, SHORTEST * HOP - len(samples))))
        return features(torch.from_numpy(wave))[None]

    def _outputs(self, mel: Tensor) -> Iterator[Tensor]:
        return self._network.exits(mel)

    def _read(self, log_probs: NDArray[np.float32], layer: int) -> Reading:
        return read(log_probs, self._tokenizer.read)
