# SPDX-License-Identifier: Apache-2.0
"""Train the networks on simulated sequences, each on its own.

python -m train.perception.dataset                # once, about an hour on one core
python -m train.perception.train segmentation     # checkpoints in the cache as it goes; --start goes on
python -m train.perception.train reconstruction
torchrun --nproc-per-node 2 -m train.perception.train -- segmentation --start checkpoint   # two processes share it
python -m train.perception.export                 # evaluates and writes edge_nodes/weights/perception
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from edge_nodes import heap, models
from edge_nodes.perception.bev import SLICES
from edge_nodes.perception.history import DETAILS
from edge_nodes.perception.networks import KINDS
from edge_nodes.perception.sight import AGES
from train.perception.dataset import (
    CHANNELS,
    INTENSITY_FULL,
    PLAIN,
    TRAIN_SEEDS,
    available,
    cache,
    is_stamp,
    turned,
    unpacked,
)
from train.perception.losses import reconstruction_loss, segmentation_loss

BATCH, GROUP, DECAY = 4, 8, 0.997
AHEAD = 4
"""Batches loaded ahead."""
ARCHITECTURES = {"segmentation": "pyramid", "reconstruction": "autoencoder"}
HYPER: dict[str, dict[str, Any]] = {
    "segmentation": {
        "inputs": CHANNELS,
        "classes": 6,
        "widths": [32, 48, 64, 96, 128],
        "detail": 16,
        "details": DETAILS,
        "layers": 2,
        "deep": 2,
        "coarse": True,
    },
    "reconstruction": {"inputs": PLAIN, "outputs": 2, "widths": [32, 64, 96, 128]},
}
"""Shapes; a network takes the first `inputs` of a sample's channels."""
FIRST, CELLS = "encoder.down.0.conv.weight", "branch.cells.conv.weight"
"""The weights that know the channels of an input."""


def checkpoint(name: str) -> Path:
    """Return the path of a network's newest averaged weights."""
    return cache().parent / f"checkpoints{'_intensity' if INTENSITY_FULL else ''}" / f"{name}.safetensors"


def augmented(sample: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a sample (H, W, channels + 4) turned and mirrored; sometimes with a short history, as after a start."""
    out = turned(sample, int(rng.integers(4)), mirror=bool(rng.random() < 0.5))
    if rng.random() < 0.15:
        scans = int(rng.integers(0, 15))
        out[..., 6 + 2 * scans : 36] = 0
        if scans < min(AGES):
            out[..., CHANNELS - 1] = out[..., CHANNELS - 2]
    return out


def batches(
    rng: np.random.Generator, choose: Sequence[int], inputs: int, stamps: float = 1.0
) -> Iterator[list[Tensor]]:
    """Yield batches without end, loaded by a thread; sequences that appear in the cache meanwhile are taken up.

    Args:
        rng: of order and augmentation.
        choose: seeds.
        inputs: how many channels of an input are wanted; they come as bfloat16, 0 to 1, channels last in memory.
        stamps: in which part of the rounds a single stamp comes: robots move.
    """
    made = _batches(rng, choose, inputs, stamps)
    with ThreadPoolExecutor(1, "loader") as loader:
        waiting = deque(loader.submit(next, made) for _ in range(AHEAD))
        while True:
            waiting.append(loader.submit(next, made))
            yield waiting.popleft().result()


def _batches(rng: np.random.Generator, choose: Sequence[int], inputs: int, stamps: float) -> Iterator[list[Tensor]]:
    while True:
        seeds = [s for s in available(choose) if not is_stamp(s) or rng.random() < stamps]
        seeds = rng.permutation(seeds).tolist()
        for start in range(0, len(seeds) - GROUP + 1, GROUP):
            group = [sample for seed in seeds[start : start + GROUP] for sample in unpacked(seed)]
            order = rng.permutation(len(group))
            for i in range(0, len(group) - BATCH + 1, BATCH):
                chosen = torch.from_numpy(np.stack([augmented(group[j], rng) for j in order[i : i + BATCH]]))
                x = chosen[..., :inputs].permute(0, 3, 1, 2)
                x = x.to(torch.bfloat16, memory_format=torch.channels_last).mul_(1 / 255)
                yield [x, *(chosen[..., CHANNELS + k].contiguous() for k in range(4))]


def average(mean: nn.Module, network: nn.Module, decay: float) -> None:
    """Move averaged weights and statistics towards the network's."""
    with torch.no_grad():
        for a, b in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)


def grown(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load the weights of a smaller shape of `network`: what it did not have starts at zero and changes nothing."""
    own = network.state_dict()
    for name, value in own.items():
        if name not in state:
            continue
        old = state[name].to(value.dtype)
        if old.shape == value.shape:
            value.copy_(old)
            continue
        value.zero_()
        value[tuple(slice(0, n) for n in old.shape)] = old
        if name == FIRST and CELLS in state:
            # What says more of the newest scan comes last, whatever there is before it.
            begin, before = (weights.shape[1] - details(known) for weights, known in ((value, own), (old, state)))
            value[:, before:] = 0
            value[:, begin : begin + old.shape[1] - before] = old[:, before:]


def details(state: dict[str, Tensor]) -> int:
    """Return how many of its inputs a pyramid's branch alone sees at full resolution."""
    return state[CELLS].shape[1] - SLICES


def build(name: str) -> Any:
    """Return a network that has learned nothing yet."""
    return KINDS[ARCHITECTURES[name]](**HYPER[name])


def shipped(name: str) -> dict[str, Tensor]:
    """Return the weights of a network as the package has them."""
    return load_file(models.find(f"perception/{name}").path)


def begin(name: str, start: str, *, keep: float = 0.0) -> nn.Module:
    """Return a network with the weights to start from.

    Args:
        name: key of `HYPER`.
        start: "shipped", "checkpoint" or "none".
        keep: share of the shipped weights in those of the checkpoint.
    """
    network: nn.Module = build(name).to(memory_format=torch.channels_last)
    if start != "none":
        grown(network, load_file(checkpoint(name)) if start == "checkpoint" else shipped(name))
    if keep > 0:
        before = copy.deepcopy(network)
        grown(before, shipped(name))
        average(network, before, 1 - keep)
    return network


def loss_of(name: str, output: Tensor, batch: list[Tensor]) -> Tensor:
    """Return a network's loss on (input, label, occupied, forecast, known)."""
    _, label, occupied, forecast, known = batch
    if name == "segmentation":
        return segmentation_loss(output.float(), label.long())
    return reconstruction_loss(output.float(), torch.stack([occupied, forecast], 1).float(), known)


def together(network: nn.Module, done: float) -> float:
    """Average gradients over all processes; return the mean of their shares `done`, so that all stop at one step."""
    if not distributed.is_initialized():
        return done
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([torch.tensor([done]), *(g.flatten() for g in gradients)])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, part in zip(gradients, flat[1:].split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(flat[0])


def train(
    name: str, minutes: float, *, network: nn.Module, seed: int, peak: float, progress: float, stamps: float
) -> None:
    """Train one network for some minutes; the averaged weights are saved as it goes.

    Args:
        name: key of `HYPER`.
        minutes: of the clock; the learning rate falls with them, as a cosine.
        network: to train, see `begin`.
        seed: of order and augmentation.
        peak: highest learning rate.
        progress: share of a longer training that is done already, for the learning rate.
        stamps: see `batches`.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    heap.keep()
    mean = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=0.01)
    # Stamps without history say nothing about motion.
    choose = [s for s in TRAIN_SEEDS if name == "segmentation" or s < 40_000 or s % 8 == 0]
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    first = saved = time.monotonic()
    running, done = 0.0, progress
    source = batches(np.random.default_rng((seed, rank)), choose, HYPER[name]["inputs"], stamps)
    for step, batch in enumerate(source):
        if done >= 1:
            break
        for entry in optimizer.param_groups:
            entry["lr"] = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        with torch.autocast("cpu", torch.bfloat16):
            output = network(batch[0])
        loss = loss_of(name, output, batch)
        optimizer.zero_grad()
        loss.backward()
        now = time.monotonic()
        done = together(network, progress + (1 - progress) * (now - first) / (60 * minutes))
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        average(mean, network, min(DECAY, (step + 1) / (step + 10)))
        running += float(loss.detach())
        if step % 50 == 49 and rank == 0:
            print(f"step {step + 1} {done:4.0%} {now - first:5.0f} s: {running / 50:.3f}", flush=True)
            running = 0.0
        if rank == 0 and now - saved > 150:
            save(name, mean)
            saved = now
    if rank == 0:
        save(name, mean)


def save(name: str, mean: nn.Module) -> None:
    """Write the averaged weights where `checkpoint` says, in one stroke."""
    path = checkpoint(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in mean.state_dict().items()}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(HYPER))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument(
        "--start", choices=("none", "shipped", "checkpoint"), default="none", help="weights to begin with"
    )
    parser.add_argument("--progress", type=float, default=0.0, help="share of a longer training that is done already")
    parser.add_argument("--keep", type=float, default=0.0, help="share of the shipped weights to begin with")
    parser.add_argument(
        "--stamps", type=float, default=1 / 3, help="part of the rounds that have a single stamp in them"
    )
    args = parser.parse_args()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        distributed.init_process_group("gloo")
    network = begin(args.network, args.start, keep=args.keep)
    how = {name: getattr(args, name) for name in ("seed", "peak", "progress", "stamps")}
    train(args.network, args.minutes, network=network, **how)


if __name__ == "__main__":
    main()
