# SPDX-License-Identifier: Apache-2.0
"""Scores of a task's samples, and what delta attention skipped meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge_nodes.language import attention
from edge_nodes.language.delta.sparsity import Sparsity


@dataclass
class Tally:
    """Scores of a task and what attention skipped meanwhile.

    Attributes:
        scores: of each sample: 0 or 1, F1, or nats per token.
        prefill, decode: score multiply-adds, summed over samples.
        shares: of each sample, all stages.
        running: the paper's running figure.
    """

    scores: list[float] = field(default_factory=list)
    prefill: Sparsity | None = None
    decode: Sparsity | None = None
    shares: list[float] = field(default_factory=list)
    prefill_shares: list[float] = field(default_factory=list)
    running: float = 0.0

    def add(self, score: float, found: attention.Skipped | None) -> None:
        """Note a sample."""
        self.scores.append(score)
        if found is not None:
            self._skipped(found)

    def _skipped(self, found: attention.Skipped) -> None:
        self.prefill = found.prefill if self.prefill is None else self.prefill + found.prefill
        self.decode = found.decode if self.decode is None else self.decode + found.decode
        self.prefill_shares.append(found.prefill.share)
        self.shares.append((found.prefill + found.decode).share)
        self.running = found.running

    def plain(self) -> dict[str, float | int]:
        """Return mean score, samples, and sparsities as means over layers and samples."""
        out: dict[str, float | int] = {"score": float(np.mean(self.scores)), "samples": len(self.scores)}
        if self.shares and self.decode is not None:
            out["prefill_sparsity"] = float(np.mean(self.prefill_shares))
            out["decode_sparsity"] = self.decode.share
            out["sparsity"] = float(np.mean(self.shares))
            out["running_sparsity"] = self.running
        return out
