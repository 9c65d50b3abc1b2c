# SPDX-License-Identifier: Apache-2.0
"""Compute features once: python -m train.speech.prepare --noise NOISE.flac --out FILE.pt STEM[:variants] ...

Each training clip is stored as it is and in `variants` augmented versions; held-out clips only as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from edge_nodes.speech.alphabet import encode
from edge_nodes.speech.features import log_mel
from train.speech.data import Augmenter, clips


def prepare(packs: list[str], noise: Path, seed: int, noises: int) -> dict[str, list]:
    """Return {'train': [...], 'dev': [...]} of (source, text, symbols int16, mel float16 (80, T))."""
    augment, sets = Augmenter(noise, seed), {"train": [], "dev": []}
    for pack in packs:
        stem, _, variants = pack.partition(":")
        for clip in clips(Path(stem)):
            whole = np.pad(clip.samples, 1600)
            versions = [whole] if clip.dev else [whole, *(augment(clip.samples) for _ in range(int(variants or 1)))]
            symbols = torch.tensor(encode(clip.text), dtype=torch.int16)
            for samples in versions:
                mel = torch.from_numpy(log_mel(samples)).half()
                sets["dev" if clip.dev else "train"].append((clip.source, clip.text, symbols, mel))
    for samples in augment.noises(noises):
        mel = torch.from_numpy(log_mel(samples)).half()
        sets["train"].append(("noise", "", torch.zeros(0, dtype=torch.int16), mel))
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+")
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noises", type=int, default=0, help="pieces of noise alone, without words")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    sets = prepare(args.packs, args.noise, args.seed, args.noises)
    torch.save(sets, args.out)
    for name, items in sets.items():
        for source in sorted({item[0] for item in items}):
            frames = [item[3].shape[1] for item in items if item[0] == source]
            print(f"{name} {source}: {len(frames)} items, {sum(frames) / 6000:.1f} minutes")


if __name__ == "__main__":
    main()
