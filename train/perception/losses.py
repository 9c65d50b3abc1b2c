# SPDX-License-Identifier: Apache-2.0
"""Losses: pixel terms, an overlap term and an edge-preservation term, as differentiable functions of the output."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.perception.truth import IGNORE

# Rare classes count more: unknown, ground, wall, vehicle, person, obstacle.
CLASS_WEIGHTS = (0.5, 0.5, 1.5, 1.5, 4.0, 2.5)
EDGE, OVERLAP, MOVING = 0.3, 0.7, 6.0


def edge_difference(x: Tensor, weight: Tensor) -> Tensor:
    """Return how much maps differ at edges: the mean weighted step from cell to cell, rightwards and downwards.

    Edges are linear: those of a difference are the difference of edges.

    Args:
        x: (B, C, H, W), one map less the other.
        weight: (B, 1 or C, H, W), of the cell on the left or above.
    """
    right = ((x[..., 1:] - x[..., :-1]).abs() * weight[..., :-1]).sum()
    down = ((x[..., 1:, :] - x[..., :-1, :]).abs() * weight[..., :-1, :]).sum()
    return (right + down) / (2 * x.numel())


def overlap(probability: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Return one minus the soft Dice coefficient of each channel, averaged over channels that occur."""
    both = (probability * truth * weight).sum((0, 2, 3))
    either = ((probability + truth) * weight).sum((0, 2, 3))
    there = (truth * weight).sum((0, 2, 3)) > 0
    dice = 1 - (2 * both + 1) / (either + 1)
    return (dice * there).sum() / there.sum().clamp(min=1)


def segmentation_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Return the loss of class scores (B, 6, H, W) against labels (B, H, W) with `IGNORE` left out."""
    logs = scores.log_softmax(1)
    pixel = functional.nll_loss(logs, label, torch.tensor(CLASS_WEIGHTS), ignore_index=IGNORE)
    counts = (label != IGNORE)[:, None].float()
    truth = torch.zeros_like(scores).scatter_(1, label.clamp(max=5)[:, None], 1.0)
    probability = logs.exp()
    edge = edge_difference(probability - truth, counts) * 10
    return pixel + EDGE * edge + OVERLAP * overlap(probability[:, 2:], truth[:, 2:], counts)


def reconstruction_loss(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return the loss of logits (B, 2, H, W) against occupancy now and later; cells never seen count a tenth."""
    weight = 0.1 + 0.9 * known[:, None].float()
    # Few cells move; without this a forecast that repeats the present is good enough.
    changed = functional.max_pool2d((truth[:, :1] != truth[:, 1:]).float(), 5, 1, 2)
    weight = torch.cat([weight, weight * (1 + MOVING * changed)], 1)
    pixel = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=torch.tensor(2.0))
    probability = logits.sigmoid()
    edge = edge_difference(probability - truth, weight) * 10
    pixel_term = 5 * (pixel * weight).sum() / weight.sum()
    seen = weight * known[:, None].float()
    return pixel_term + EDGE * edge + OVERLAP * overlap(probability, truth, seen)
