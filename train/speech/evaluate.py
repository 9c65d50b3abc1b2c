# SPDX-License-Identifier: Apache-2.0
"""Word error rate of every exit and policy on clips that were not trained on.

    python -m train.speech.evaluate [--model NAME] [--json FILE] STEM[:clips] ...

STEM names a pack (STEM.flac, STEM.jsonl); which of its clips are held out says train.speech.data. `clips` takes that
many of them, evenly spread.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from edge_nodes.speech.alphabet import decode
from edge_nodes.speech.encoder import Encoder
from edge_nodes.speech.evaluation import edit_distance, listen, listen_by_words, summary
from edge_nodes.speech.model import SpeechModel
from train.speech.data import clips


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
        chosen = held_out[::step]
        heard = listen_by_words(model, chosen, listen(model, chosen), {model.calibration.words})
        results[Path(stem).name] = summary(heard, model.calibration)
        everything += heard
    results["all"] = summary(everything, model.calibration)
    for name, result in results.items():
        exits = " ".join(f"{p['wer']:6.2f}" for n, p in result["policies"].items() if n.startswith("exit"))
        print(f"{name:26} {result['clips']:4} clips {result['words']:5} words  WER % per exit: {exits}")
    for name, result in results["all"]["policies"].items():
        print(f"{name}: WER {result['wer']} %, {result['layers']} layers, real-time factor {result['seconds_per_s']}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
