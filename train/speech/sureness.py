# SPDX-License-Identifier: Apache-2.0
"""How sure each exit is of a word: python -m train.speech.sureness --model MODEL STEM ...

Fits, for each exit between the first and the last, the probability that the last exit spells a word the same, on packs
of clips that were not trained on, and stores it in the model's calibration. No transcript is looked at. The thresholds
are then to be chosen anew, on other clips: edge-nodes eval speech --calibrate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge_nodes import models
from edge_nodes.speech import calibration
from edge_nodes.speech.clips import read as read_clip
from edge_nodes.speech.clips import trained_on, usable
from edge_nodes.speech.exits import read, sounds
from edge_nodes.speech.features import RATE_HZ, log_mel
from edge_nodes.speech.lexicon import Lexicon
from edge_nodes.speech.model import SpeechModel
from edge_nodes.speech.spelling import spell
from edge_nodes.speech.stretches import Stretches
from edge_nodes.speech.sureness import fit, probability, traits


def unheard(stem: Path) -> Iterator[NDArray[np.float32]]:
    """Yield the clips of a pack that were not trained on, as `edge-nodes eval speech` pads them."""
    seen = trained_on(stem)
    for record, _, held_out in usable(stem):
        if held_out or not seen:
            yield np.pad(read_clip(stem, record), RATE_HZ // 10)


def examples(model: SpeechModel, lexicon: Lexicon, samples: NDArray[np.float32]) -> dict[int, tuple]:
    """Return {layer: (traits of the words there, whether the last exit says the same)} of a clip."""
    outputs, found = Stretches(model.encoder, torch.from_numpy(log_mel(samples))[None]), {}
    for layer, output in enumerate(outputs, 1):
        if layer == 1:
            outputs.rest()
        log_probs = output[0].numpy()
        heard = read(log_probs)
        spelled = spell(lexicon, heard.text.split(), heard.spans or (), log_probs)
        found[layer] = spelled.words, traits(lexicon, spelled, sounds(log_probs, spelled.spans))
    said, _ = found.pop(model.layers)
    found.pop(1)
    return {layer: (rows, same(words, said)) for layer, (words, rows) in found.items()}


def same(words: list[str], said: list[str]) -> NDArray[np.bool_]:
    """Return which of the words are in what was said, in order."""
    found = np.zeros(len(words), bool)
    for begin, _, count in SequenceMatcher(None, words, said, autojunk=False).get_matching_blocks():
        found[begin : begin + count] = True
    return found


def ranked(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return how often a right word is surer than a wrong one (area under the receiver operating characteristic)."""
    wrong = sure[~right][:, None]
    return float(((sure[right] > wrong).mean() + (sure[right] >= wrong).mean()) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", type=Path)
    parser.add_argument("--model", default="speech/splitformer")
    parser.add_argument("--judge", type=Path, nargs="*", default=[], help="packs to try it on that are not fitted")
    args = parser.parse_args()
    lexicon, found = Lexicon(), models.find(args.model)
    model = SpeechModel(args.model, lexicon=lexicon, beside=False)
    sets = {
        stem: [examples(model, lexicon, samples) for samples in unheard(stem)] for stem in (*args.packs, *args.judge)
    }
    weights = {}
    for layer in range(2, model.layers):
        of = {stem: [np.concatenate(x) for x in zip(*(c[layer] for c in sets[stem]), strict=True)] for stem in sets}
        rows, right = (np.concatenate(x) for x in zip(*(of[stem] for stem in args.packs), strict=True))
        weights[layer] = fit(rows, right)
        print(f"exit {layer}: {len(right)} words, {right.mean():.1%} as at the last exit", weights[layer])
        for stem, (others, agree) in of.items():
            print(f"  {stem.name}: {len(agree)} words, {ranked(probability(weights[layer], others), agree):.3f}")
    path = found.path.parent / calibration.FILE
    stored = json.loads(path.read_text())
    stored |= {"sureness": {str(layer): asdict(each) for layer, each in weights.items()}, "format": calibration.FORMAT}
    path.write_text(json.dumps(stored, indent=1) + "\n")
    calibration.load(path.parent, found.manifest["sha256"])  # it is one


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        main()
