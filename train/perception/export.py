# SPDX-License-Identifier: Apache-2.0
"""Write the newest checkpoints into edge_nodes/weights/perception with manifests and model cards.

python -m train.perception.export
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from edge_nodes import models
from edge_nodes.perception.config import CLASSES, BevConfig
from edge_nodes.perception.inference import FORMAT
from train.perception.calibrate import calibrate
from train.perception.dataset import TEST_SEEDS, TRAIN_SEEDS, available, load, samples
from train.perception.evaluate import evaluate
from train.perception.train import NETWORKS, checkpoint

WHAT = {
    "segmentation": ("pyramid", {"inputs": 36, "classes": 6, "widths": [32, 48, 64, 96, 128]}),
    "reconstruction": ("autoencoder", {"inputs": 36, "outputs": 2, "widths": [32, 64, 96, 128]}),
}
FORECAST = "So far the forecast hardly\n  differs from the network's present occupancy (last row). "
CARD = """# {title}

{what} 16 bird's-eye-view maps in (36 channels: the newest scan as point counts in six slices of height above the
ground, each older one as obstacle and ground counts, moved by the robot's motion as scan matching finds it), cells of
{resolution} m, {parameters:,} parameters stored as float16. Architecture `{architecture}` in
`edge_nodes/perception/networks.py`, after the Parallel Perception Network (arXiv 2412.18165); its code and weights
were not used.

- **Data:** {train} simulated sequences of 2 s (`train/perception`, seeds in `dataset.py`): streets, yards, corridors;
  spinning sensors of 16 to 128 rings 0.3 to 2 m above the ground; standing and moving robots. No recorded data.
- **Training:** `python -m train.perception.dataset && python -m train.perception.train`, then
  `python -m train.perception.export`, which also shifts the last biases for the best overlap on training sequences;
  CPU only.
- **Held-out metric:** {samples} stamps of {test} other simulated sequences, printed by
  `python -m train.perception.evaluate` (intersection over union):

{table}

- **Limits:** trained on simulated scenes only; no rain, no dust, no reflections, no Livox-like patterns, ground
  steps higher than 0.15 m count as obstacles; learned at 10 scans a second. {extra}Real frames were
  looked at, not measured.
- **Licence:** Apache-2.0. **sha256:** `{sha256}`
"""


def table(rows: dict[str, dict[str, float]], title: str) -> str:
    """Return a Markdown table: a row for each method."""
    columns = list(next(iter(rows.values())))
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{v:.3f}" for v in row.values()) + " |" for name, row in rows.items()]
    return "\n".join(lines)


def tables(name: str, metrics: dict[str, Any]) -> str:
    if name == "segmentation":
        return table(metrics["segmentation_iou"], "method")
    columns = {
        "occupancy now": "occupancy_iou",
        "forecast 0.5 s": "forecast_iou",
        "forecast near motion": "forecast_iou_near_motion",
    }
    methods = metrics["forecast_iou"]
    rows = {m: {c: metrics[k].get(m, float("nan")) for c, k in columns.items()} for m in methods}
    return table(rows, "method").replace("nan", "-")


def calibrated(name: str) -> dict[str, torch.Tensor]:
    """Return the newest checkpoint with its biases calibrated on some of the training sequences."""
    torch.set_num_threads(1)
    network = NETWORKS[name]()
    network.load_state_dict(load_file(checkpoint(name)))
    seeds = available(TRAIN_SEEDS)[::12]
    offsets = calibrate(name, network, [load(seed)[seed % 3] for seed in seeds])
    print(f"{name}: added {offsets} to the outputs, from {len(seeds)} training sequences")
    return {k: v.contiguous() for k, v in network.state_dict().items()}


def write_weights(name: str, folder: Path) -> None:
    """Write the weights of one network and a first manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.safetensors"
    state = calibrated(name)
    save_file({k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}, file)
    file.chmod(0o644)
    models.write_manifest(folder, file.name)


def describe(name: str, metrics: dict[str, Any], folder: Path) -> None:
    """Write manifest and model card of one network."""
    architecture, hyper = WHAT[name]
    file = folder / "model.safetensors"
    state = load_file(file)
    bev = BevConfig()
    models.write_manifest(
        folder,
        file.name,
        name=f"perception/{name}",
        licence="Apache-2.0",
        format=FORMAT,
        architecture=architecture,
        hyper_parameters=hyper,
        history=bev.history,
        resolution_m=bev.resolution_m,
        classes=list(CLASSES) if name == "segmentation" else ["occupied now", "occupied in 0.5 s"],
        held_out=metrics,
    )
    what = {
        "segmentation": "Says what each cell of a map is: unknown, ground, wall, vehicle, person, other obstacle.",
        "reconstruction": "Says how likely each cell is occupied between 0.15 and 2.2 m, now and in 0.5 s.",
    }[name]
    card = CARD.format(
        title=f"perception/{name}",
        extra="" if name == "segmentation" else FORECAST,
        what=what,
        resolution=bev.resolution_m,
        parameters=sum(v.numel() for k, v in state.items() if "running" not in k and "tracked" not in k),
        architecture=architecture,
        train=len(TRAIN_SEEDS),
        test=len(TEST_SEEDS),
        samples=metrics["samples"],
        table=tables(name, metrics),
        sha256=models.sha256(file),
    )
    (folder / "README.md").write_text(card)


def main() -> None:
    folders = {name: models.SHIPPED / "perception" / name for name in WHAT}
    for name, folder in folders.items():
        write_weights(name, folder)
    metrics = evaluate(samples(TEST_SEEDS))
    print(json.dumps(metrics, indent=1))
    for name, folder in folders.items():
        describe(name, metrics, folder)


if __name__ == "__main__":
    main()
