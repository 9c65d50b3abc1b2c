# SPDX-License-Identifier: Apache-2.0
"""Train the middle exits alone, on what a frozen encoder gives them: the other exits stay exactly as they are.

    python -m train.speech.heads --start speech/splitformer --exit-width 256 --out FOLDER FEATURES.pt[:weight] ...

Every clip, bent once (train.speech.bend), goes through the encoder once; what the exits are given is kept in memory,
1.6 kB a frame, and in the file that --kept names. Then a step costs a small part of one of the whole encoder. The loss
is CTC and the distance to the last exit's probabilities, as in train.speech.train. FOLDER/last.pt is for
train.speech.export.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edge_nodes import models
from edge_nodes.speech.encoder import Encoder
from edge_nodes.speech.model import SpeechModel
from train.speech import train

PEAK = 2e-3
DECAY = 0.998
BATCH_FRAMES = 6000


class Given(NamedTuple):
    """What a clip gives the exits."""

    hidden: Tensor  # (middle exits, T, width) float16
    teacher: Tensor  # (T, symbols) float16, the last exit's log-probabilities
    symbols: Tensor


@torch.inference_mode()
def given(encoder: Encoder, items: Sequence[tuple], rng: np.random.Generator) -> list[Given]:
    """Return what clips, (source, text, symbols, mel) each, give the exits after one pass, masked and bent."""
    found, last = [], encoder.shape.blocks - 1
    for batch in passes(items, rng):
        mel, lengths, targets = train.collate(batch, rng, bent=True)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, mask = encoder.stem(mel, lengths)
            middle = []
            for index in range(last + 1):
                hidden = encoder.block(index, hidden, mask)
                middle += [hidden.half()] if 0 < index < last else []
            teacher = encoder.exits[last](hidden, mask).half()
        for row, (frames, symbols) in enumerate(zip(((lengths + 1) // 2).tolist(), targets, strict=True)):
            kept = torch.stack([x[row, :frames] for x in middle])
            found.append(Given(kept, teacher[row, :frames].clone(), symbols))
    return found


def passes(items: Sequence[tuple], rng: np.random.Generator) -> list[list[tuple]]:
    """Return all items once, in batches of like length."""
    ordered, batches = sorted(items, key=lambda item: item[3].shape[1]), [[]]
    for item in ordered:
        if item[3].shape[1] * (len(batches[-1]) + 1) > train.BATCH_FRAMES and batches[-1]:
            batches.append([])
        batches[-1].append(item)
    return batches


def learn(encoder: Encoder, clips: list[Given], steps: int, distil: float, rng: np.random.Generator) -> None:
    """Train the middle exits; leave the average of their weights in the encoder."""
    heads = nn.ModuleList(encoder.exits[1:-1]).requires_grad_(True)
    average = [p.detach().clone() for p in heads.parameters()]
    optimiser = torch.optim.AdamW(heads.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    source, total = batches(clips, rng), torch.zeros(len(heads))
    for step in range(1, steps + 1):
        loss = loss_of(heads, next(source), distil)
        for group in optimiser.param_groups:
            group["lr"] = PEAK * train.rate(step / steps)
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 2.0)
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(average, heads.parameters(), strict=True):
                slow.lerp_(fast, 1 - min(DECAY, (1 + step) / (10 + step)))
        total += loss.detach()
        if step % 200 == 0:
            print(f"step {step} loss {' '.join(f'{x:.3f}' for x in total / 200)}", flush=True)
            total.zero_()
    with torch.no_grad():
        for fast, slow in zip(heads.parameters(), average, strict=True):
            fast.copy_(slow)
    heads.requires_grad_(False)


def batches(clips: list[Given], rng: np.random.Generator):
    """Yield batches of clips of like length, without end."""
    while True:
        order = sorted(range(len(clips)), key=lambda i: clips[i].teacher.shape[0] * rng.uniform(0.9, 1.1))
        groups, group = [], []
        for i in order:
            if group and clips[i].teacher.shape[0] * (len(group) + 1) > BATCH_FRAMES:
                groups, group = [*groups, group], []
            group.append(i)
        groups.append(group)
        for index in rng.permutation(len(groups)):
            yield [clips[i] for i in groups[index]]


def loss_of(heads: nn.ModuleList, batch: list[Given], distil: float) -> Tensor:
    """Return the losses of the heads, (heads,), per symbol."""
    frames = torch.tensor([clip.teacher.shape[0] for clip in batch])
    sizes, flat = torch.tensor([len(clip.symbols) for clip in batch]), torch.cat([clip.symbols for clip in batch])
    longest = int(frames.max())
    mask = torch.arange(longest) < frames[:, None]
    teacher = torch.cat([clip.teacher for clip in batch]).float()
    losses = []
    for number, head in enumerate(heads):
        hidden = torch.zeros(len(batch), longest, batch[0].hidden.shape[2])
        for row, clip in enumerate(batch):
            hidden[row, : frames[row]] = clip.hidden[number]
        output = head(hidden, mask)
        ctc = nn.functional.ctc_loss(output.transpose(0, 1), flat, frames, sizes, reduction="sum", zero_infinity=True)
        apart = nn.functional.kl_div(output[mask], teacher, reduction="sum", log_target=True)
        losses.append((ctc + distil * apart) / sizes.sum().clamp(min=1))
    return torch.stack(losses)


def start(name: str, exit_width: int) -> Encoder:
    """Return a model's encoder whose middle exits have an inner width; new ones add nothing at first."""
    known = SpeechModel(name, beside=False).encoder
    encoder = Encoder(replace(known.shape, exit_width=exit_width))
    encoder.load_state_dict(known.state_dict(), strict=False)
    for head in encoder.exits:
        if head.around is not None and known.shape.exit_width != exit_width:
            nn.init.zeros_(head.around.symbols.weight)
            nn.init.zeros_(head.around.symbols.bias)
    return encoder.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="*")
    parser.add_argument("--start", required=True, help="model, see edge_nodes.models.find")
    parser.add_argument("--kept", type=Path, help="file of what the exits are given; made if there is none")
    parser.add_argument("--exit-width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--distil", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    encoder = start(args.start, args.exit_width)
    if args.kept and args.kept.exists():
        clips = [Given(*clip) for clip in torch.load(args.kept)]
    else:
        clips = given(encoder, drawn(args.features, rng), rng)
        if args.kept:
            torch.save([tuple(clip) for clip in clips], args.kept)
    print(f"{len(clips)} clips, {sum(len(clip.teacher) for clip in clips)} frames", flush=True)
    learn(encoder, clips, args.steps, args.distil, rng)
    args.out.mkdir(parents=True, exist_ok=True)
    steps = models.find(args.start).manifest.get("steps", 0)
    torch.save({"average": encoder.state_dict(), "step": steps}, args.out / "last.pt")


def drawn(features: Sequence[str], rng: np.random.Generator) -> list[tuple]:
    """Return the training items of FEATURES.pt[:weight], as often as their weights say."""
    items: list[tuple] = []
    for name in features:
        path, _, weight = name.partition(":")
        share = float(weight or 1)
        items += [i for i in torch.load(path)["train"] for _ in range(int(share) + (rng.random() < share % 1))]
    return items


if __name__ == "__main__":
    main()
