# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding beyond the length a model was trained on: what each pair turns by, and how strongly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Frequencies = npt.NDArray[np.float64]


class Rope(NamedTuple):
    """A rotary embedding.

    Attributes:
        frequencies: float64 (rope_dim / 2,), radians per position of each rotated pair.
        magnitude: factor of rotated queries and keys.
    """

    frequencies: Frequencies
    magnitude: float = 1.0


def plain(dim: int, base: float) -> Rope:
    """Return the embedding of RoFormer (arXiv 2104.09864, section 3.2.2)."""
    return Rope(base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim))


def linear(rope: Rope, factor: float) -> Rope:
    """Return positions squeezed by `factor` (position interpolation, arXiv 2306.15595, section 2.3)."""
    return rope._replace(frequencies=rope.frequencies / factor)


def yarn(
    rope: Rope, factor: float, *, base: float, trained_context: float, fast: float = 32.0, slow: float = 1.0
) -> Rope:
    """Return YaRN's embedding (arXiv 2309.00071, sections 3.2 and 3.4).

    Pairs that turn at least `fast` times in the trained context keep their frequency, those that turn at most `slow`
    times are squeezed by `factor`; between them the mixture falls linearly with the pair's number, as in the authors'
    code. Queries and keys grow by 0.1 ln(factor) + 1, which is the paper's temperature of the attention.
    """
    dim = 2 * len(rope.frequencies)

    def pair(turns: float) -> float:
        return float(dim * np.log(trained_context / (turns * 2 * np.pi)) / (2 * np.log(base)))

    low, high = max(0.0, np.floor(pair(fast))), min(dim - 1.0, np.ceil(pair(slow)))
    squeezed = np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)
    mixed = rope.frequencies * (1.0 - squeezed + squeezed / factor)
    return Rope(mixed, float(0.1 * np.log(factor) + 1.0))
