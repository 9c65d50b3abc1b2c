# SPDX-License-Identifier: Apache-2.0
"""How boards add up the shares of a sum over columns so that any cut gives the same bits: pairwise, by one tree.

A balanced binary tree over all units of columns of the model fixes the order of additions. Each board adds up what lies
within its units, as far as the tree allows, and sends the sums of these largest subtrees. Our own; TPI-LLM (arXiv
2410.00531) adds one share a board, whose last bits depend on the cut. `native/sum_tree.h` is the same tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Node = tuple[int, int]  # first unit, and the one after the last


@dataclass(frozen=True)
class SumTree:
    """The tree of a sum.

    Attributes:
        units: units of columns of each rank, in order.
    """

    units: tuple[int, ...]

    @cached_property
    def roots(self) -> tuple[tuple[Node, ...], ...]:
        """Return the largest subtrees within each rank's units, from left to right."""
        ends = np.cumsum(self.units).tolist()
        whole = (0, ends[-1])
        return tuple(tuple(_within(whole, (end - n, end))) for n, end in zip(self.units, ends, strict=True))

    @property
    def most_roots(self) -> int:
        """Return the most sums that a board sends."""
        return max(map(len, self.roots))

    def total(self, parts: Sequence[Floats]) -> Floats:
        """Return the sum (n,) of what all ranks have: float32 (roots, n) of each."""
        sums = {
            node: row
            for nodes, rows in zip(self.roots, parts, strict=True)
            for node, row in zip(nodes, rows, strict=True)
        }
        return _total((0, sum(self.units)), sums)


def _halves(node: Node) -> tuple[Node, Node]:
    begin, end = node
    middle = begin + (end - begin + 1) // 2
    return (begin, middle), (middle, end)


def _within(node: Node, part: Node) -> list[Node]:
    """Return the largest subtrees of a node that lie within a part of the units."""
    if node[1] <= part[0] or node[0] >= part[1]:
        return []
    if part[0] <= node[0] and node[1] <= part[1]:
        return [node]
    left, right = _halves(node)
    return _within(left, part) + _within(right, part)


def _total(node: Node, sums: dict[Node, Floats]) -> Floats:
    if node in sums:
        return sums[node]
    left, right = _halves(node)
    return _total(left, sums) + _total(right, sums)
