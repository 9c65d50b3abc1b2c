# SPDX-License-Identifier: Apache-2.0
"""Compare the networks with simple methods on simulated scenes they have not seen.

python -m train.perception.evaluate [--json FILE] [--checkpoints]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from scipy import ndimage

from edge_nodes import models
from edge_nodes.perception.config import CLASSES
from edge_nodes.perception.networks import fused
from train.perception.dataset import TEST_SEEDS, Sample, samples
from train.perception.train import NETWORKS, checkpoint
from train.perception.truth import IGNORE

GROUND, WALL, VEHICLE, PERSON, OBSTACLE = range(1, 6)
Mask = npt.NDArray[np.bool_]


def by_rules(sample: Sample) -> npt.NDArray[np.uint8]:
    """Return labels (H, W) by ground removal, clustering and size rules, from the newest scan alone."""
    slices = sample.input[:6]
    label = np.where(ndimage.binary_closing(slices[0] > 0, np.ones((5, 5))), GROUND, 0).astype(np.uint8)
    islands, _ = ndimage.label(slices[1:5].max(0) > 0, np.ones((3, 3)))
    for island, window in enumerate(ndimage.find_objects(islands), start=1):
        cells = islands[window] == island
        length, width = max(cells.shape) * 0.25, min(cells.shape) * 0.25
        tall = (slices[3:5].max(0)[window] > 0)[cells].any()
        if length > 9 or (length > 5 and width < 0.8):
            kind = WALL
        elif length > 1.8:
            kind = VEHICLE
        else:
            kind = PERSON if tall and length <= 1.0 else OBSTACLE
        label[window][cells] = kind
    return label


class Overlap:
    """Sums for intersection over union of masks."""

    def __init__(self) -> None:
        self.both = self.either = 0

    def add(self, got: Mask, want: Mask, where: Mask) -> None:
        """Add one map."""
        self.both += int((got & want & where).sum())
        self.either += int(((got | want) & where).sum())

    @property
    def value(self) -> float:
        """The quotient over all maps."""
        return round(self.both / max(1, self.either), 4)


def network(name: str, *, checkpoints: bool) -> torch.nn.Module:
    """Return a network for inference, shipped or from the newest checkpoint."""
    path = checkpoint(name) if checkpoints else models.find(f"perception/{name}").path
    built = NETWORKS[name]()
    built.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return fused(built).to(memory_format=torch.channels_last)


def evaluate(data: Iterable[Sample], *, checkpoints: bool = False) -> dict[str, Any]:
    """Return IoU of every method on `data`; occupancy and forecast on cells that can be known."""
    torch.set_num_threads(1)
    segment, rebuild = (network(name, checkpoints=checkpoints) for name in ("segmentation", "reconstruction"))
    classes = {method: [Overlap() for _ in CLASSES] for method in ("network", "rules")}
    names = ("network", "last scan", "OR of 16 scans")
    occupied = {name: Overlap() for name in names}
    ahead = {name: Overlap() for name in (*names, "network's present")}
    moving = {name: Overlap() for name in (*names, "network's present")}
    count = 0
    for sample in data:
        count += 1
        with torch.inference_mode():
            x = (torch.from_numpy(sample.input)[None].float() / 255).to(memory_format=torch.channels_last)
            label = segment(x)[0].argmax(0).numpy()
            now, later = (rebuild(x)[0] > 0).numpy()
        counted = sample.label != IGNORE
        for method, got in (("network", label), ("rules", by_rules(sample))):
            for i, sums in enumerate(classes[method]):
                sums.add(got == i, sample.label == i, counted)
        last = sample.input[1:5].max(0) > 0
        every = last | (sample.input[6::2].max(0) > 0)
        for name, got in zip(names, (now, last, every), strict=True):
            occupied[name].add(got, sample.occupied, sample.known)
        changed = sample.known & ndimage.binary_dilation(sample.occupied != sample.forecast, iterations=4)
        for name, got in zip((*names, "network's present"), (later, last, every, now), strict=True):
            ahead[name].add(got, sample.forecast, sample.known)
            moving[name].add(got, sample.forecast, changed)
    mean = {m: round(float(np.mean([s.value for s in sums])), 4) for m, sums in classes.items()}
    return {
        "samples": count,
        "segmentation_iou": {
            m: {"mean": mean[m], **{c: s.value for c, s in zip(CLASSES, sums, strict=True)}}
            for m, sums in classes.items()
        },
        "occupancy_iou": {name: sums.value for name, sums in occupied.items()},
        "forecast_iou": {name: sums.value for name, sums in ahead.items()},
        "forecast_iou_near_motion": {name: sums.value for name, sums in moving.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="")
    parser.add_argument("--checkpoints", action="store_true", help="the newest checkpoints, not the shipped weights")
    args = parser.parse_args()
    text = json.dumps(evaluate(samples(TEST_SEEDS), checkpoints=args.checkpoints), indent=1)
    print(text)
    if args.json:
        with open(args.json, "w") as file:  # noqa: PTH123
            file.write(text + "\n")


if __name__ == "__main__":
    main()
