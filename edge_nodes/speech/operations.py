# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of the encoder: products and sums of matrix products and convolutions.

Norms and activations do not count.
"""

from __future__ import annotations

from edge_nodes.speech.encoder import Shape
from edge_nodes.speech.features import HOP


def operations(shape: Shape, samples: int) -> list[float]:
    """Return the operations up to each exit, its head included, for so many samples at 16 kHz."""
    frames = max(4, samples // HOP)
    total, found = stem(shape, frames), []
    for index in range(shape.blocks):
        total += block(shape, index, (frames + 1) // 2) + head(shape, (frames + 1) // 2)
        found.append(total)
    return found


def stem(shape: Shape, frames: int) -> float:
    """Return the operations before the first block, of so many mel frames."""
    width = shape.width
    return 6.0 * shape.mels * width * frames + 6.0 * width * width * ((frames + 1) // 2)


def block(shape: Shape, index: int, steps: int) -> float:
    """Return the operations of a block with its parallel layer, on so many of its frames."""
    total = _layer(steps, shape.width, shape.feed_forward)
    if index in (0, shape.blocks - 1):
        total += _layer((steps + 1) // 2, shape.width, shape.parallel_feed_forward)
    return total


def head(shape: Shape, steps: int) -> float:
    """Return the operations of an exit, on so many frames."""
    return 2.0 * shape.width * shape.symbols * steps


def _layer(steps: int, width: int, feed_forward: int) -> float:
    return steps * (8.0 * width * width + 4.0 * width * feed_forward) + 4.0 * steps * steps * width
