# SPDX-License-Identifier: Apache-2.0
"""Train both networks side by side on simulated sequences.

python -m train.perception.dataset                # once, about 8 minutes on one core
python -m train.perception.train --minutes 45     # checkpoints in the cache as it goes; --resume goes on
python -m train.perception.export                 # evaluates and writes edge_nodes/weights/perception
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge_nodes.perception.networks import AutoencoderNetwork, PyramidNetwork
from train.perception.dataset import TRAIN_SEEDS, Sample, available, cache, load
from train.perception.losses import reconstruction_loss, segmentation_loss

BATCH, GROUP, DECAY = 4, 8, 0.99
NETWORKS = {"segmentation": PyramidNetwork, "reconstruction": AutoencoderNetwork}


def checkpoint(name: str) -> Path:
    """Return the path of a network's newest averaged weights."""
    return cache().parent / "checkpoints" / f"{name}.safetensors"


def augmented(sample: Sample, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the sample turned and mirrored; sometimes with a short history, as after a start."""
    arrays = [np.asarray(a) for a in sample]
    if rng.random() < 0.15:
        arrays[0] = arrays[0].copy()
        arrays[0][6 + 2 * int(rng.integers(0, 15)) :] = 0
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    arrays = [np.rot90(a, turns, axes=(-2, -1)) for a in arrays]
    return [np.ascontiguousarray(a[..., ::-1] if mirror else a) for a in arrays]


def batches(rng: np.random.Generator) -> Iterator[list[Tensor]]:
    """Yield batches without end; sequences that appear in the cache meanwhile are taken up."""
    while True:
        seeds = rng.permutation(available(TRAIN_SEEDS))
        for start in range(0, len(seeds) - GROUP + 1, GROUP):
            group = [sample for seed in seeds[start : start + GROUP] for sample in load(int(seed))]
            order = rng.permutation(len(group))
            for i in range(0, len(group), BATCH):
                chosen = [augmented(group[j], rng) for j in order[i : i + BATCH]]
                yield [torch.from_numpy(np.stack(column)) for column in zip(*chosen, strict=True)]


def average(mean: nn.Module, network: nn.Module, decay: float) -> None:
    """Move averaged weights and statistics towards the network's."""
    with torch.no_grad():
        for a, b in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)


def save(means: dict[str, nn.Module]) -> None:
    for name, mean in means.items():
        checkpoint(name).parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in mean.state_dict().items()}, checkpoint(name))


def train(minutes: float, *, seed: int, resume: bool, peak: float) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    networks = {name: kind().to(memory_format=torch.channels_last) for name, kind in NETWORKS.items()}
    if resume:
        for name, network in networks.items():
            # What an older shape of a network has in common with the present one is taken over.
            network.load_state_dict(load_file(checkpoint(name)), strict=False)
    means = {name: copy.deepcopy(network).eval() for name, network in networks.items()}
    parameters = [p for network in networks.values() for p in network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.01)
    begin = saved = time.monotonic()
    running = np.zeros(2)
    for step, (maps, label, occupied, forecast, known) in enumerate(batches(np.random.default_rng(seed))):
        now = time.monotonic()
        done = (now - begin) / (60 * minutes)
        if done >= 1:
            break
        rate = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for entry in optimizer.param_groups:
            entry["lr"] = rate
        x = (maps.float() / 255).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            scores, logits = networks["segmentation"](x), networks["reconstruction"](x)
        truth = torch.stack([occupied, forecast], 1).float()
        losses = [segmentation_loss(scores.float(), label.long()), reconstruction_loss(logits.float(), truth, known)]
        optimizer.zero_grad()
        sum(losses).backward()
        for network in networks.values():
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        for name, network in networks.items():
            average(means[name], network, min(DECAY, (step + 1) / (step + 10)))
        running += [float(loss.detach()) for loss in losses]
        if step % 50 == 49:
            seg, rec = running / 50
            running[:] = 0
            print(f"step {step + 1} {done:4.0%} {now - begin:5.0f} s: {seg:.3f} {rec:.3f}", flush=True)
        if now - saved > 150:
            save(means)
            saved = now
    save(means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoints")
    args = parser.parse_args()
    train(args.minutes, seed=args.seed, resume=args.resume, peak=args.peak)


if __name__ == "__main__":
    main()
