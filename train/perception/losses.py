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


def edges(x: Tensor) -> Tensor:
    """Return the differences to the right and lower neighbour, (B, 2C, H, W)."""
    right = functional.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1))
    down = functional.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    return torch.cat([right, down], 1)


def overlap(probability: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Return one minus the soft Dice coefficient of each channel, averaged over channels that occur."""
    both = (probability * truth * weight).sum((0, 2, 3))
    either = ((probability + truth) * weight).sum((0, 2, 3))
    there = (truth * weight).sum((0, 2, 3)) > 0
    dice = 1 - (2 * both + 1) / (either + 1)
    return (dice * there).sum() / there.sum().clamp(min=1)


def segmentation_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Return the loss of class scores (B, 6, H, W) against labels (B, H, W) with `IGNORE` left out."""
    weights = torch.tensor(CLASS_WEIGHTS)
    pixel = functional.cross_entropy(scores, label, weights, ignore_index=IGNORE)
    counts = (label != IGNORE)[:, None].float()
    truth = functional.one_hot(label.clamp(max=5), 6).permute(0, 3, 1, 2).float()
    probability = scores.softmax(1)
    edge = ((edges(probability) - edges(truth)).abs() * counts).mean() * 10
    return pixel + EDGE * edge + OVERLAP * overlap(probability[:, 2:], truth[:, 2:], counts)


def reconstruction_loss(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return the loss of logits (B, 2, H, W) against occupancy now and later; cells never seen count a tenth."""
    weight = 0.1 + 0.9 * known[:, None].float()
    # Few cells move; without this a forecast that repeats the present is good enough.
    changed = functional.max_pool2d((truth[:, :1] != truth[:, 1:]).float(), 5, 1, 2)
    weight = torch.cat([weight, weight * (1 + MOVING * changed)], 1)
    pixel = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=torch.tensor(2.0))
    probability = logits.sigmoid()
    edge = ((edges(probability) - edges(truth)).abs() * weight.repeat(1, 2, 1, 1)).mean() * 10
    pixel_term = 5 * (pixel * weight).sum() / weight.sum()
    seen = weight * known[:, None].float()
    return pixel_term + EDGE * edge + OVERLAP * overlap(probability, truth, seen)
