# SPDX-License-Identifier: Apache-2.0
"""Shift the networks' last biases so that plain argmax and probability 0.5 give the best overlap.

Training weighs rare classes up and occupied cells double, which overstates them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from train.perception.dataset import Sample
from train.perception.train import HYPER
from train.perception.truth import IGNORE, VEHICLE

Array = npt.NDArray[np.float32]
VEHICLES_FIRST = 1.2
"""Added to the score of vehicles beyond what is best on simulated scenes: recorded cars are seen worse, and one that is
missed is worse than one too many. It costs 0.003 of the held-out mean."""


def outputs(network: nn.Module, data: list[Sample], inputs: int) -> Array:
    """Return the outputs (samples, channels, H, W), float16, of a network that takes the first `inputs` channels."""
    network.eval()
    out = []
    with torch.inference_mode():
        for sample in data:
            x = (torch.from_numpy(sample.input[:inputs])[None].float() / 255).to(memory_format=torch.channels_last)
            out.append(network(x)[0].half().numpy())
    return np.stack(out)


def class_offsets(scores: Array, labels: npt.NDArray[np.uint8]) -> list[float]:
    """Return what to add to each class's score for the best mean IoU, by coordinate ascent.

    Args:
        scores: (samples, classes, H, W).
        labels: (samples, H, W), `IGNORE` left out.
    """
    # Only cells that are in doubt can change their class.
    best, runner = np.sort(scores, 1)[:, -1], np.sort(scores, 1)[:, -2]
    doubt = (best - runner < 4.0) & (labels != IGNORE)
    sure = ~doubt & (labels != IGNORE)
    count = scores.shape[1]
    got, want = scores.argmax(1)[sure], labels[sure]
    both = np.array([((got == c) & (want == c)).sum() for c in range(count)])
    either = np.array([((got == c) | (want == c)).sum() for c in range(count)])
    open_scores = scores.transpose(0, 2, 3, 1)[doubt].astype(np.float32)
    open_labels = labels[doubt]

    def mean_iou(offsets: Array) -> float:
        chosen = (open_scores + offsets).argmax(1)
        hit = np.bincount(open_labels[chosen == open_labels], minlength=count)
        union = np.bincount(chosen, minlength=count) + np.bincount(open_labels, minlength=count) - hit
        return float(np.mean((both + hit) / np.maximum(either + union, 1)))

    offsets = np.zeros(count, np.float32)
    top = mean_iou(offsets)
    for step in (0.6, 0.3, 0.15):
        for _ in range(2):
            for c in range(count):
                for change in (-step, step):
                    trial = offsets.copy()
                    trial[c] += change
                    if (value := mean_iou(trial)) > top:
                        offsets, top = trial, value
    return [round(float(v), 3) for v in offsets]


def logit_offset(logits: Array, truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> float:
    """Return what to add to occupancy logits (samples, H, W) so that IoU is best at probability 0.5."""
    values, want = logits[known].astype(np.float32), truth[known]
    grid = np.arange(-1.5, 1.51, 0.1)
    ious = [float(((values > -g) & want).sum() / ((values > -g) | want).sum()) for g in grid]
    return round(float(grid[int(np.argmax(ious))]), 3)


def calibrate(name: str, network: nn.Module, data: list[Sample]) -> list[float]:
    """Shift the biases of `network` in place; return what was added to each output."""
    values = outputs(network, data, HYPER[name]["inputs"])
    with torch.no_grad():
        if name == "segmentation":
            offsets = class_offsets(values, np.stack([s.label for s in data]))
            offsets[VEHICLE] += VEHICLES_FIRST
            bias: Tensor = network.fine.bias
            bias += torch.tensor(offsets)
            return offsets
        known = np.stack([s.known for s in data])
        truths = [np.stack([s.occupied for s in data]), np.stack([s.forecast for s in data])]
        offsets = [logit_offset(values[:, i], truths[i], known) for i in range(2)]
        # Four channels before the shuffle make one map.
        network.head.bias += torch.tensor(offsets).repeat_interleave(4)
        return offsets
