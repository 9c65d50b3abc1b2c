# SPDX-License-Identifier: Apache-2.0
"""Compare the networks with simple methods on simulated scenes they have not seen.

python -m train.perception.evaluate [--json FILE] [--checkpoints]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

import torch
from safetensors.torch import load_file

from edge_nodes import models
from edge_nodes.perception.evaluation import ClassScore, OccupancyScore, Sample, by_rules, scans_alone
from edge_nodes.perception.networks import fused
from train.perception.dataset import TEST_SEEDS, samples
from train.perception.train import NETWORKS, checkpoint


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
    classes, rules, occupancy = ClassScore(), ClassScore(), OccupancyScore()
    count = 0
    for sample in data:
        count += 1
        with torch.inference_mode():
            x = (torch.from_numpy(sample.input)[None].float() / 255).to(memory_format=torch.channels_last)
            label = segment(x)[0].argmax(0).numpy()
            now, later = (rebuild(x)[0] > 0).numpy()
        classes.add(label, sample.label)
        rules.add(by_rules(sample.input), sample.label)
        last, every = scans_alone(sample.input)
        occupancy.add({"network": now, "last scan": last, "OR of 16 scans": every}, sample, later)
    return {
        "samples": count,
        "segmentation_iou": {"network": classes.values, "rules": rules.values},
        **occupancy.values,
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
