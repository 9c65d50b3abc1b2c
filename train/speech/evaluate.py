# SPDX-License-Identifier: Apache-2.0
"""Word error rate of every exit on the held-out clips: python -m train.speech.evaluate [--model NAME] STEM ..."""

from __future__ import annotations

import numpy as np
import torch

from edge_nodes.speech.alphabet import decode
from edge_nodes.speech.encoder import Encoder


def edit_distance(said: list[str], heard: list[str]) -> int:
    """Return the substitutions, deletions and insertions between two word lists."""
    row = np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return int(row[-1])


@torch.inference_mode()
def word_errors(encoder: Encoder, items: list) -> tuple[np.ndarray, int]:
    """Return the word errors of each exit, (exits,), and the number of words, over (source, text, symbols, mel)."""
    errors, count = np.zeros(encoder.shape.blocks, int), 0
    for _, text, _, mel in items:
        said = text.split()
        count += len(said)
        for index, output in enumerate(encoder(mel[None].float())):
            errors[index] += edit_distance(said, decode(output[0].argmax(-1).numpy()).split())
    return errors, count
