# SPDX-License-Identifier: Apache-2.0
"""The kinds of attention that `edge-nodes eval delta` compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_nodes.language import attention
from edge_nodes.language.config import DeltaConfig
from edge_nodes.language.engine import Engine

THETAS = (0.4, 0.7, 1.0, 1.4)
WANTED = 0.60  # share of skipped multiply-adds of prompts at which the accuracy counts
WANTED_BOTH = 0.57  # the least of prompts and answers together
DENSE, GLOBAL, CALIBRATED = "dense", "global", "calibrated"


@dataclass(frozen=True)
class Setting:
    """One kind of attention to evaluate.

    Attributes:
        kind: DENSE, GLOBAL or CALIBRATED.
        theta: thresholds; None if dense.
        label: what it is called in the figures.
        sparsity: what the calibration found on its own text; 0 if it did not tell.
    """

    kind: str
    theta: attention.Theta | None
    label: str
    sparsity: float = 0.0

    def apply(self, engine: Engine, config: DeltaConfig) -> None:
        """Make the model use it."""
        if self.theta is None:
            engine.model.use_cache("f16")
        else:
            engine.model.use_delta(self.theta, window_scale=config.window_scale, sink=config.sink)
        engine.reset()


def settings(found: attention.Calibration | None, quick: bool) -> list[Setting]:
    """Return the settings of the curve, dense attention first; few if `quick`."""
    out = [Setting(DENSE, None, DENSE)]
    thetas = THETAS[2:3] if quick else THETAS
    out += [Setting(GLOBAL, np.full(1, theta, np.float32), f"theta {theta:g}") for theta in thetas]
    if found is not None:
        shares = [float(level["sparsity"]) for level in found.levels]
        near = [i for i, share in enumerate(shares) if share >= WANTED][:1] if quick else range(len(shares))
        out += [Setting(CALIBRATED, found.theta(i), f"calibrated {shares[i]:.2f}", shares[i]) for i in near]
    return out


def headline(of: Sequence[Setting], shares: Sequence[float], wanted: float) -> Setting | None:
    """Return the setting that stands for the tasks: of least sparsity that reaches the wanted one, else the sparsest.

    Args:
        of: the settings; the calibrated ones count, without any the global ones.
        shares: what each skips.
        wanted: share that is to be skipped.
    """
    kind = CALIBRATED if any(s.kind == CALIBRATED for s in of) else GLOBAL
    ordered = sorted(
        ((share, s) for s, share in zip(of, shares, strict=True) if s.kind == kind), key=lambda pair: pair[0]
    )
    return next((s for share, s in ordered if share >= wanted), ordered[-1][1] if ordered else None)
