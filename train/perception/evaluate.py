# SPDX-License-Identifier: Apache-2.0
"""Compare the networks with simple methods on simulated scenes they have not seen.

python -m train.perception.evaluate [--json FILE] [--checkpoints]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from edge_nodes import models
from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.evaluation import (
    WITH_RETURNS,
    ClassScore,
    Mask,
    OccupancyScore,
    Sample,
    by_rules,
    scans_alone,
    with_returns,
)
from edge_nodes.perception.networks import KINDS, details_of, fused, looked_at_twice
from edge_nodes.perception.segmentation import class_ids
from train.perception.dataset import held_out
from train.perception.train import ARCHITECTURES, HYPER, checkpoint

RESOLUTION_M = BevConfig().resolution_m


class Trained(NamedTuple):
    """A network for inference.

    Attributes:
        network: maps (B, inputs, H, W) to outputs.
        inputs: how many of a sample's channels it takes, the first ones.
        details: how many of them, the last ones, say more of the newest scan.
    """

    network: torch.nn.Module
    inputs: int
    details: int

    def maps(self, sample: Sample) -> torch.Tensor:
        """Return the maps of a sample (1, inputs, H, W), 0 to 1."""
        x = torch.from_numpy(sample.input[None, : self.inputs]).float() / 255
        return x.to(memory_format=torch.channels_last)


def trained(name: str, *, checkpoints: bool) -> Trained:
    """Return a network, shipped or from the newest checkpoint."""
    if checkpoints:
        path, hyper = checkpoint(name), HYPER[name]
    else:
        found = models.find(f"perception/{name}")
        path, hyper = found.path, found.manifest["hyper_parameters"]
    built = KINDS[ARCHITECTURES[name]](**hyper)
    built.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return Trained(fused(built).to(memory_format=torch.channels_last), int(hyper["inputs"]), details_of(hyper))


class Scores:
    """Sums over stamps of what the networks and simple methods get right."""

    def __init__(self) -> None:
        self.classes, self.twice, self.seen, self.rules = (ClassScore() for _ in range(4))
        self.occupancy, self.count = OccupancyScore(), 0

    def add(self, sample: Sample, labels: Sequence[npt.NDArray[np.uint8]], now: Mask, later: Mask) -> None:
        """Add one stamp: class ids of one look and of two, occupancy now and ahead, (H, W) each."""
        self.count += 1
        label, twice = labels
        self.classes.add(label, sample.label)
        self.twice.add(twice, sample.label)
        self.seen.add(label, with_returns(sample))
        self.rules.add(by_rules(sample.input), sample.label)
        last, every = scans_alone(sample.input)
        self.occupancy.add({"network": now, "last scan": last, "OR of 16 scans": every}, sample, later)

    @property
    def values(self) -> dict[str, Any]:
        """IoU of every method; occupancy and forecast on cells that can be known."""
        iou = {"network": self.classes.values, "network, two looks": self.twice.values}
        iou |= {WITH_RETURNS: self.seen.values, "rules": self.rules.values}
        return {"samples": self.count, "segmentation_iou": iou, **self.occupancy.values}


def evaluate(sets: Mapping[str, Iterable[Sample]], *, checkpoints: bool = False) -> dict[str, Any]:
    """Return the figures of each set of samples, and under "all" those of all sets together."""
    torch.set_num_threads(1)
    segment, rebuild = (trained(name, checkpoints=checkpoints) for name in ("segmentation", "reconstruction"))
    scores = {name: Scores() for name in ("all", *sets)}
    for name, data in sets.items():
        for sample in data:
            with torch.inference_mode():
                x = segment.maps(sample)
                looks = (segment.network(x), looked_at_twice(segment.network, x, details=segment.details))
                labels = [class_ids(y[0], RESOLUTION_M) for y in looks]
                now, later = (rebuild.network(rebuild.maps(sample))[0] > 0).numpy()
            for each in (scores["all"], scores[name]):
                each.add(sample, labels, now, later)
    return {name: each.values for name, each in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="")
    parser.add_argument("--checkpoints", action="store_true", help="the newest checkpoints, not the shipped weights")
    args = parser.parse_args()
    text = json.dumps(evaluate(held_out(), checkpoints=args.checkpoints), indent=1)
    print(text)
    if args.json:
        with open(args.json, "w") as file:  # noqa: PTH123
            file.write(text + "\n")


if __name__ == "__main__":
    main()
