# SPDX-License-Identifier: Apache-2.0
"""Train a small Splitformer and an early-exit Conformer of the same size from scratch, alike, several times.

    python -m train.speech.compare --digits STEM --out comparison.json

Both are those of edge_nodes.speech.reference. The Conformer has the parameters of the parallel layers in the
feed-forward parts of the blocks that those stood beside, so that at every exit both have used as many. The task is
strings of spoken digits, put together anew from single ones, of which every fifth is held out; another fifth in each
run. Both networks take every batch, masked alike, one after the other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import nn

from edge_nodes.speech.alphabet import SYMBOLS, decode, encode
from edge_nodes.speech.clips import read, usable
from edge_nodes.speech.evaluation import edit_distance
from edge_nodes.speech.features import log_mel
from edge_nodes.speech.reference.network import Network, Sizes
from train.speech import train

SIZES = Sizes(exits=4, layers_per_exit=1, width=64, heads=4, feed_forward=128, kernel=15, pieces=len(SYMBOLS))
STRINGS = 10
"""Strings of a batch."""
TIMES = 3
"""Strings that each held-out digit is heard in."""
RATE = 2e-3
NAMES = ("with", "without")


class Digit(NamedTuple):
    """A spoken digit at 16 kHz, its loudest sample 0.5."""

    text: str
    samples: np.ndarray


class Learner:
    """A network in training."""

    def __init__(self, network: Network) -> None:
        self.network = network.train()
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)

    def learn(self, mel: torch.Tensor, lengths: torch.Tensor, targets: list[torch.Tensor], rate: float) -> None:
        """Go one step down the sum of the CTC losses of all exits."""
        sizes, flat = torch.tensor([len(t) for t in targets]), torch.cat(targets)
        outputs = self.network(mel, lengths)
        frames = (lengths // 4).clamp(max=outputs.shape[2])
        losses = [
            nn.functional.ctc_loss(x.transpose(0, 1), flat, frames, sizes, reduction="sum", zero_infinity=True)
            for x in outputs
        ]
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        (torch.stack(losses).sum() / sizes.sum()).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()


def networks(sizes: Sizes, seed: int) -> dict[str, Network]:
    """Return the Splitformer and the Conformer of its size."""
    torch.manual_seed(seed)
    split = Network(sizes)
    torch.manual_seed(seed)
    plain = Network(replace(sizes, parallel=False))
    missing = count(split.conformer_parallel[0])
    each = 2 * (2 * sizes.width + 1)  # of one more inner unit in both feed-forward parts
    wide = Network(replace(sizes, parallel=False, feed_forward=sizes.feed_forward + round(missing / each)))
    for index in (0, sizes.exits - 1):
        plain.conformer[index] = wide.conformer[index]
    return dict(zip(NAMES, (split, plain), strict=True))


def count(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def digits(stem: Path) -> list[list[Digit]]:
    """Return the digits of each speaker, those of one take of all digits together."""
    found: dict[str, list[tuple[int, Digit]]] = {}
    for record, text, _ in usable(stem):
        samples = read(stem, record)
        digit = Digit(text, samples * (0.5 / max(1e-3, np.abs(samples).max())))
        found.setdefault(record["speaker"], []).append((record["take"], digit))
    return [[digit for _, digit in sorted(said, key=itemgetter(0))] for said in found.values()]


def fifth(voices: list[list[Digit]], number: int, rest: bool) -> list[list[Digit]]:
    """Return every fifth take of the ten digits of each speaker, or all others."""
    return [[d for i, d in enumerate(said) if (i // 10 % 5 == number % 5) != rest] for said in voices]


def string(said: list[Digit], rng: np.random.Generator) -> tuple:
    """Return (source, text, symbols, mel) of digits with pauses around them, in a little noise."""
    parts = [np.zeros(rng.integers(800, 4000))]
    for digit in said:
        parts += [digit.samples, np.zeros(rng.integers(400, 3000))]
    samples = np.concatenate(parts).astype(np.float32)
    samples += rng.normal(0, 10 ** rng.uniform(-4, -2), len(samples)).astype(np.float32)
    text = " ".join(digit.text for digit in said)
    return "digits", text, torch.tensor(encode(text)), torch.from_numpy(log_mel(samples))


def batches(speakers: list[list[Digit]], rng: np.random.Generator) -> Iterator[list]:
    """Yield batches of strings of three to six digits, each in one voice, without end."""
    while True:
        voices = [speakers[i] for i in rng.integers(0, len(speakers), STRINGS)]
        chosen = [[voice[i] for i in rng.integers(0, len(voice), rng.integers(3, 7))] for voice in voices]
        yield [string(said, rng) for said in chosen]


def measured(network: Network, strings: list) -> tuple[np.ndarray, np.ndarray]:
    """Return the word errors and the CTC loss per symbol of each exit over strings, both (exits,)."""
    errors, losses = np.zeros(network.sizes.exits, int), np.zeros(network.sizes.exits)
    network.eval()
    with torch.inference_mode():
        for _, text, symbols, mel in strings:
            for index, output in enumerate(network(mel[None])[:, 0]):
                errors[index] += edit_distance(text.split(), decode(output.argmax(-1).numpy()).split())
                sizes = torch.tensor([len(output)]), torch.tensor([len(symbols)])
                losses[index] += float(nn.functional.ctc_loss(output[:, None], symbols[None], *sizes, reduction="sum"))
    return errors, losses / sum(len(symbols) for _, _, symbols, _ in strings)


def run(voices: list[list[Digit]], steps: int, seed: int) -> dict[str, object]:
    """Train both networks alike; return word error rates, %, and losses of their exits on the takes held out."""
    rng = np.random.default_rng(seed)
    learners = {name: Learner(network) for name, network in networks(SIZES, seed).items()}
    source = batches(fifth(voices, seed, rest=True), rng)
    for step in range(1, steps + 1):
        mel, lengths, targets = train.collate(next(source), rng)
        for learner in learners.values():
            learner.learn(mel, lengths, targets, RATE * train.rate(step / steps))
    strings = [
        string([said[i] for i in part], rng)
        for said in TIMES * fifth(voices, seed, rest=False)
        for part in np.array_split(rng.permutation(len(said)), len(said) // 4)
    ]
    words = sum(len(text.split()) for _, text, _, _ in strings)
    found: dict[str, object] = {"seed": seed, "steps": steps, "words": words}
    losses = {}
    for name, each in learners.items():
        errors, loss = measured(each.network, strings)
        found[name], losses[name] = (100 * errors / words).round(2).tolist(), loss.round(4).tolist()
    return found | {"loss": losses}


def summary(runs: list[dict]) -> dict[str, object]:
    """Return each network's mean word error rates, and by how much the one with parallel layers is better.

    In points of the word error rate and in percent of the loss: means over the runs, and of several the half widths of
    Student's 95 % intervals.
    """
    found: dict[str, object] = {"steps": runs[0]["steps"]}
    for name, network in networks(SIZES, 0).items():
        wer = np.mean([each[name] for each in runs], axis=0)
        found[name] = {"parameters": count(network), "wer": {"digits": wer.round(2).tolist()}}
    with_them, without = (np.array([each["loss"][name] for each in runs]) for name in NAMES)
    better = {
        "better": np.array([np.subtract(each["without"], each["with"]) for each in runs]),
        "loss_lower_percent": 100 * (1 - with_them / without),
    }
    for name, each in better.items():
        found[name] = each.mean(0).round(2).tolist()
        if len(runs) > 1:
            half = stats.t.ppf(0.975, len(runs) - 1) * each.std(0, ddof=1) / np.sqrt(len(runs))
            found[f"{name}_within"] = half.round(2).tolist()
    return found | {"runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, required=True, help="pack of single digits by several speakers")
    parser.add_argument("--out", type=Path, required=True, help="holds the runs; those that it has are not repeated")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    voices = digits(args.digits)
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    if any(each["steps"] != args.steps for each in runs):
        parser.error(f"{args.out} holds runs of other than {args.steps} steps: name another file")
    for seed in range(len(runs), args.runs):
        runs.append(run(voices, args.steps, seed))
        print(json.dumps(runs[-1]), flush=True)
        args.out.write_text(json.dumps(summary(runs), indent=1) + "\n")


if __name__ == "__main__":
    main()
