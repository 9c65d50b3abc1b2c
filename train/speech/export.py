# SPDX-License-Identifier: Apache-2.0
"""Write the shipped weights: python -m train.speech.export CHECKPOINT[:weight] ... --out FOLDER.

Of several checkpoints of one training, in order, the weighted mean of their averaged weights (model soup, arXiv
2203.05482).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from edge_nodes import models
from edge_nodes.speech.alphabet import SYMBOLS
from edge_nodes.speech.encoder import Shape
from edge_nodes.speech.model import FORMAT


def quantise(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return matrices as int8 with a float32 scale a row (`NAME.scale`), everything else as float16."""
    out = {}
    for name, tensor in state.items():
        if tensor.dim() < 2 or name.startswith("exits."):
            out[name] = tensor.half().contiguous()
            continue
        scale = tensor.flatten(1).abs().amax(1).clamp(min=1e-8) / 127
        shape = [-1] + [1] * (tensor.dim() - 1)
        out[name] = (tensor / scale.view(shape)).round().to(torch.int8).contiguous()
        out[name + ".scale"] = scale
    return out


def mean(states: list[dict[str, torch.Tensor]], weights: list[float]) -> dict[str, torch.Tensor]:
    """Return the weighted mean of each tensor."""
    shares = [weight / sum(weights) for weight in weights]
    return {name: sum(s * state[name] for s, state in zip(shares, states, strict=True)) for name in states[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--out", type=Path, default=models.SHIPPED / "speech" / "splitformer")
    args = parser.parse_args()
    named = [name.partition(":") for name in args.checkpoints]
    saved = [torch.load(path) for path, _, _ in named]
    average = mean([each["average"] for each in saved], [float(weight or 1) for _, _, weight in named])
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(quantise(average), args.out / "encoder.safetensors")
    models.write_manifest(
        args.out,
        "encoder.safetensors",
        name="speech/splitformer",
        kind="splitformer",
        format=FORMAT,
        licence="Apache-2.0 AND MIT",
        doc="English speech to text, an exit after each of 4 blocks",
        shape=Shape().to_dict(),
        symbols=SYMBOLS[1:],
        sample_rate_hz=16000,
        steps=saved[-1]["step"],
    )


if __name__ == "__main__":
    main()
