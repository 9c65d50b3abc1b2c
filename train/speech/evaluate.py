# SPDX-License-Identifier: Apache-2.0
"""Word error rate of every exit and of the confidence policy on clips that were not trained on.

    python -m train.speech.evaluate [--model NAME] [--json FILE] STEM[:clips] ...

STEM names a pack (STEM.flac, STEM.jsonl); which of its clips are held out says train.speech.data. `clips` takes that
many of them, evenly spread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from edge_nodes.speech.alphabet import decode
from edge_nodes.speech.encoder import Encoder
from edge_nodes.speech.exits import Reading
from edge_nodes.speech.model import SpeechModel
from train.speech.data import Clip, clips

THRESHOLDS = (0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)


def edit_distance(said: list[str], heard: list[str]) -> int:
    """Return the substitutions, deletions and insertions between two word lists."""
    row = np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return int(row[-1])


@torch.inference_mode()
def word_errors(encoder: Encoder, items: list) -> tuple[np.ndarray, int]:
    """Return the word errors of each exit, (exits,), and the number of words, over (source, text, symbols, mel)."""
    errors, count = np.zeros(encoder.shape.blocks, int), 0
    for _, text, _, mel in items:
        said = text.split()
        count += len(said)
        for index, output in enumerate(encoder(mel[None].float())):
            errors[index] += edit_distance(said, decode(output[0].argmax(-1).numpy()).split())
    return errors, count


class Heard(NamedTuple):
    """A clip's words, the readings of all exits, and the seconds its audio and its recognition took."""

    said: list[str]
    readings: list[Reading]
    audio_s: float
    took_s: float


def listen(model: SpeechModel, items: Iterable[Clip]) -> list[Heard]:
    found = []
    for clip in items:
        readings: list[Reading] = []
        start = time.perf_counter()
        model.recognise(np.pad(clip.samples, 1600), lambda _, reading, out=readings: out.append(reading))
        found.append(
            Heard(clip.text.split(), readings, len(clip.samples) / 16000, time.perf_counter() - start),
        )
    return found


def summary(heard: list[Heard]) -> dict:
    """Return the figures of one set: WER in percent per exit, and per threshold WER with the mean layer."""
    count = sum(len(h.said) for h in heard)
    layers = range(len(heard[0].readings))

    def wer(chosen: list[int]) -> float:
        errors = sum(edit_distance(h.said, h.readings[c].text.split()) for h, c in zip(heard, chosen, strict=True))
        return round(100 * errors / count, 2)

    policies = {}
    for threshold in THRESHOLDS:
        chosen = [next((i for i in layers if h.readings[i].confidence >= threshold), layers[-1]) for h in heard]
        policies[threshold] = {"wer": wer(chosen), "layers": round(float(np.mean(chosen)) + 1, 2)}
    return {
        "clips": len(heard),
        "words": count,
        "minutes": round(sum(h.audio_s for h in heard) / 60, 1),
        "wer_per_exit": [wer([i] * len(heard)) for i in layers],
        "confidence_policy": policies,
        "real_time_factor_all_exits": round(sum(h.took_s for h in heard) / sum(h.audio_s for h in heard), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+")
    parser.add_argument("--model", default="speech/splitformer")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model, results, everything = SpeechModel(args.model), {}, []
    for pack in args.packs:
        stem, _, limit = pack.partition(":")
        held_out = [clip for clip in clips(Path(stem)) if clip.dev]
        step = max(1, len(held_out) // int(limit)) if limit else 1
        heard = listen(model, held_out[::step])
        results[Path(stem).name] = summary(heard)
        everything += heard
    results["all"] = summary(everything)
    for name, result in results.items():
        exits = " ".join(f"{wer:6.2f}" for wer in result["wer_per_exit"])
        print(f"{name:26} {result['clips']:4} clips {result['words']:5} words  WER % per exit: {exits}")
    for threshold, result in results["all"]["confidence_policy"].items():
        print(f"confidence >= {threshold}: WER {result['wer']} %, {result['layers']} layers")
    print(f"real-time factor of all exits, 1 thread: {results['all']['real_time_factor_all_exits']}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
