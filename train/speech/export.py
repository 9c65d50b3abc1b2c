# SPDX-License-Identifier: Apache-2.0
"""Write the shipped weights from a checkpoint: python -m train.speech.export CHECKPOINT --out FOLDER."""

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=models.SHIPPED / "speech" / "splitformer")
    args = parser.parse_args()
    saved = torch.load(args.checkpoint)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(quantise(saved["average"]), args.out / "encoder.safetensors")
    models.write_manifest(
        args.out,
        "encoder.safetensors",
        name="speech/splitformer",
        kind="splitformer",
        format=FORMAT,
        licence="Apache-2.0 AND MIT",
        shape=Shape().to_dict(),
        symbols=SYMBOLS[1:],
        sample_rate_hz=16000,
        steps=saved["step"],
    )


if __name__ == "__main__":
    main()
