# SPDX-License-Identifier: Apache-2.0
"""Train the encoder with and without its parallel layers, alike: without, it stands for an early-exit Conformer.

    python -m train.speech.compare --whisper WHEEL --start MODEL --out comparison.json --minutes 14 FEATURES.pt

Both start from the blocks and exits of a model, else from Whisper's encoder, and compute the same at first: new
parallel layers add nothing. They take every batch, masked alike, one after the other; rates follow the clock as in
train.speech.train. The table is the averaged weights' word error rate on held-out clips, greedily decoded.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge_nodes.speech.encoder import Encoder, Shape
from edge_nodes.speech.model import SpeechModel
from train.speech import train
from train.speech.evaluate import word_errors
from train.speech.whisper import load_encoder

NAMES = ("with", "without")


class Learner:
    """An encoder in training and the average of its weights."""

    def __init__(self, whisper: Path, start: str | None, parallel: bool) -> None:
        torch.manual_seed(1)
        self.encoder, self.average = load_encoder(whisper, Shape()), load_encoder(whisper, Shape())
        if start is not None:
            known = SpeechModel(start, beside=False).encoder.state_dict()
            known = {name: tensor for name, tensor in known.items() if not name.startswith("parallel.")}
            for encoder in (self.encoder, self.average):
                encoder.load_state_dict(known, strict=False)
        if not parallel:
            self.encoder.parallel = self.average.parallel = nn.ModuleDict()
        self.optimiser = train.optimiser_of(self.encoder)
        self.step = 0

    def learn(self, batch: tuple, factor: float) -> None:
        """Take one batch at a factor on the learning rates."""
        losses, _ = train.loss_of(self.encoder, *batch)
        train.take_step(self.encoder, self.optimiser, losses.sum(), factor)
        self.step += 1
        train.follow(self.average, self.encoder, min(0.99, (1 + self.step) / (10 + self.step)))


def figures(encoder: Encoder, dev: list) -> dict[str, object]:
    """Return the number of parameters, and the word error rates, %, of each exit on each source."""
    wer = {}
    for source in sorted({item[0] for item in dev}):
        errors, count = word_errors(encoder, [item for item in dev if item[0] == source])
        wer[source] = [round(100 * float(e) / count, 2) for e in errors]
    return {"parameters": sum(p.numel() for p in encoder.parameters()), "wer": wer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+")
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--start", help="model to start from, see edge_nodes.models.find")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--frames", type=int, default=2000, help="mel frames of a batch")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    sets = [torch.load(path) for path in args.features]
    items = [item for each in sets for item in each["train"]]
    dev = sets[0]["dev"]
    learners = {name: Learner(args.whisper, args.start, name == NAMES[0]) for name in NAMES}
    begin = time.monotonic()
    for batch in train.batches(items, [1.0] * len(items), rng, args.frames):
        done = (time.monotonic() - begin) / 60 / args.minutes
        if done >= 1:
            break
        both = train.collate(batch, rng)
        for learner in learners.values():
            learner.learn(both, args.rate * train.rate(done))
        if learner.step % 50 == 0:
            print(f"{done:6.1%} step {learner.step}", flush=True)
    result: dict[str, object] = {"steps": learner.step, "batch_frames": args.frames, "minutes": args.minutes}
    result |= {name: figures(learner.average, dev) for name, learner in learners.items()}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
