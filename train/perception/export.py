# SPDX-License-Identifier: Apache-2.0
"""Write the newest checkpoints into edge_nodes/weights/perception with manifests and model cards.

python -m train.perception.export
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from edge_nodes import models
from edge_nodes.cli.eval import perception as evaluation
from edge_nodes.perception.config import CLASSES, BevConfig
from edge_nodes.perception.frames import read_frames
from edge_nodes.perception.inference import FORMAT
from train.perception.calibrate import calibrate
from train.perception.dataset import TEST_SEEDS, TRAIN_SEEDS, available, held_out, load
from train.perception.evaluate import evaluate
from train.perception.train import ARCHITECTURES, HYPER, build, checkpoint, shipped

DOC = {
    "segmentation": "What each cell of the map around the robot is",
    "reconstruction": "What stands in each cell now, and in half a second",
}
CARD = """# {title}

{what}

16 bird's-eye-view maps in ({channels} channels: the newest scan as point counts in six slices of height above the
ground, each older one as obstacle and ground counts, moved by the robot's motion as scan matching finds it{detail}),
cells of {resolution} m, {parameters:,} parameters stored as float16. Architecture `{architecture}` in
`edge_nodes/perception/networks.py`, after the Parallel Perception Network (arXiv 2412.18165); its code and weights
were not used.

- **Data:** {train:,} of the simulated scenes of `TRAIN_SEEDS` in `train/perception/dataset.py`, ray-cast, labels exact:
  streets, yards and corridors, and outdoor scenes with leaves that let rays through, banks, rough ground, fronts with
  openings, rails, car parks, a race track; spinning sensors of 16 to 128 rings 0.3 to 2 m above the ground, a 64-ring
  one on a car, rosettes and domes whose pattern does not repeat, one outdoor scene in seven in rain; standing and
  moving robots. No recorded data.
- **Training:** `python -m train.perception.dataset`, `python -m train.perception.train {network} --start shipped`
  from the weights before these, then `python -m train.perception.export`, which also shifts the last biases for the
  best overlap on training scenes; CPU only, {effort}.
- **Held-out metric:** {samples} stamps of {test} other simulated sequences, printed by
  `python -m train.perception.evaluate` (intersection over union). Left out are the cells of things with fewer than 3
  returns in the newest scan and, if they stand still, fewer than 12 in four:

{table}

{real}- **Limits:** trained on simulated scenes only; no dust, no reflections, rain only as lost and added returns;
  ground steps higher than 0.15 m count as obstacles; learned at 10 scans a second.
  {extra}
- **Licence:** Apache-2.0. **sha256:** `{sha256}`
"""
DETAIL = """; of the
newest scan also the mean, the spread and the greatest height of each cell's points, and how far within line of sight of
it and of those 5, 10 and 15 before a cell lies"""
EFFORT = {
    "segmentation": "some 120 minutes on two cores for what was added last, the end of it with all single stamps\n"
    "  and with a share of the weights before, which helped on the recorded frame (docs/training_perception.md).\n"
    "  Labels were corrected while it learned before. Vehicles are preferred by a little more than what is best on\n"
    "  simulated scenes: chosen on that frame as well",
    "reconstruction": "some 55 minutes on a third of a core for what was added last;\n"
    "  `--keep 0.25` left a quarter of the weights before in it, which helped on recorded frames",
}
EXTRA = {
    "segmentation": "Posts and trunks are easily mistaken for persons in a single scan.\n"
    "  In all figures what is connected, called a vehicle and smaller than 1 m2 takes its second class, as the node\n"
    "  publishes it.\n"
    '  "Two looks" is `mirrored: true`, at twice the time, which two cores that run the whole graph do not have.',
    "reconstruction": "The forecast is little better than the network's present occupancy: see the tables.",
}


SEEN = """

"Cells with returns" are those in which any of the 16 scans has one. "Network" is asked of all cells: also of the far
sides of things, which reconstruction fills in as well. A return says that a cell is not unknown, so that class has next
to nothing left to be found there."""


def table(rows: dict[str, dict[str, float]], title: str) -> str:
    """Return a Markdown table: a row for each method."""
    columns = list(next(iter(rows.values())))
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(name: str, metrics: dict[str, Any]) -> str:
    """Return the held-out figures of a network, a row for each set and method."""
    rows: dict[str, dict[str, float]] = {}
    for kind, found in metrics.items():
        if name == "segmentation":
            rows |= {f"{kind}: {method}": values for method, values in found["segmentation_iou"].items()}
            continue
        measures = {
            "occupancy now": "occupancy_iou",
            "forecast 0.5 s": "forecast_iou",
            "forecast near motion": "forecast_iou_near_motion",
        }
        for method in found["forecast_iou"]:
            rows[f"{kind}: {method}"] = {c: found[k].get(method, float("nan")) for c, k in measures.items()}
    return table(rows, "set, method").replace("nan", "-") + (SEEN if name == "segmentation" else "")


def real_frames(name: str, packs: Sequence[Path]) -> str:
    """Return the paragraph with what `edge-nodes eval` says of packs of recorded clouds; "" without packs."""
    parts = []
    for pack in packs:
        data = read_frames(pack)[0]
        labelled = data.boxes is not None or data.semantic is not None
        if labelled != (name == "segmentation"):
            continue
        folder = str(models.SHIPPED / "perception" / name)
        if labelled:
            sector = 90.0 if data.boxes is not None else 360.0
            found = evaluation.segmentation(
                Console(quiet=True), pack, model=folder, device="cpu", sector_deg=sector, quick=False
            )["results"]["things"]
            rows = {method: {k: math.nan if v is None else v for k, v in row.items()} for method, row in found.items()}
        else:
            found = evaluation.reconstruction(Console(quiet=True), pack, model=folder, device="cpu", quick=False)
            rows = {method: {"forecast IoU": value} for method, value in found["results"]["forecast_iou"].items()}
        parts.append(f"{table(rows, pack.stem).replace('nan', '-')}\n\n")
        if not rows["network"].get("cars_on_map", 1):
            parts.append("None of that set's labelled cars lies on the map.\n\n")
    if not parts:
        return ""
    about = (
        f"- **Recorded frames** of KITTI and SemanticKITTI, as `edge-nodes eval {name} --data PACK` prints them.\n"
        "  Nothing was trained on them; what they show was put into the simulated scenes.\n\n"
    )
    return about + "".join(parts)


def calibrated(name: str) -> dict[str, torch.Tensor]:
    """Return the newest checkpoint with its biases calibrated on some of the training sequences."""
    torch.set_num_threads(1)
    network = build(name)
    network.load_state_dict(load_file(checkpoint(name)))
    found = available(TRAIN_SEEDS)
    seeds = [*[s for s in found if s < 40_000][::4], *[s for s in found if s >= 40_000][::20]]
    # Sequences have three samples, single stamps two.
    offsets = calibrate(name, network, [load(seed)[seed % 2] for seed in seeds])
    print(f"{name}: added {offsets} to the outputs, from {len(seeds)} training scenes")
    return {k: v.contiguous() for k, v in network.state_dict().items()}


def mixed(state: dict[str, torch.Tensor], name: str, keep: float) -> dict[str, torch.Tensor]:
    """Return `state` with the share `keep` of the shipped weights in it, for what they knew better.

    Weights trained on from others may be averaged with them (arXiv 2109.01903, section 3). Units that these lack add so
    much less.
    """
    before = {k: v.float() for k, v in shipped(name).items()}
    fewer = {k for k in state if k not in before and k.endswith(("norm.weight", "norm.bias", "coarse.weight"))}
    out = {k: v * (1 - keep) if k in fewer else v for k, v in state.items()}
    return out | {k: out[k].lerp(v, keep) for k, v in before.items() if out[k].dtype.is_floating_point}


def write_weights(name: str, folder: Path, keep: float) -> None:
    """Write the weights of one network and a first manifest, with what it takes to build it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.safetensors"
    state = calibrated(name)
    if keep:
        state = mixed(state, name, keep)
    save_file({k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}, file)
    file.chmod(0o644)
    models.write_manifest(folder, file.name, architecture=ARCHITECTURES[name], hyper_parameters=HYPER[name])


def describe(name: str, metrics: dict[str, Any], folder: Path, packs: Sequence[Path]) -> None:
    """Write manifest and model card of one network."""
    architecture, hyper = ARCHITECTURES[name], HYPER[name]
    file = folder / "model.safetensors"
    state = load_file(file)
    bev = BevConfig()
    models.write_manifest(
        folder,
        file.name,
        name=f"perception/{name}",
        licence="Apache-2.0",
        doc=DOC[name],
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
        network=name,
        effort=EFFORT[name],
        extra=EXTRA[name],
        real=real_frames(name, packs),
        what=what,
        channels=hyper["inputs"],
        detail=DETAIL if hyper.get("detail") else "",
        resolution=bev.resolution_m,
        parameters=sum(v.numel() for k, v in state.items() if "running" not in k and "tracked" not in k),
        architecture=architecture,
        train=len(available(TRAIN_SEEDS)),
        test=len(TEST_SEEDS),
        samples=metrics["all"]["samples"],
        table=tables(name, metrics),
        sha256=models.sha256(file),
    )
    (folder / "README.md").write_text(card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(HYPER), help="write this network's weights, leave the other's")
    parser.add_argument("--keep", type=float, default=0.0, help="share of the shipped weights in the new ones")
    parser.add_argument("--cards", action="store_true", help="leave the weights; write their manifests and cards anew")
    parser.add_argument("--real", nargs="*", type=Path, default=[], help="packs of recorded clouds for the cards")
    args = parser.parse_args()
    folders = {name: models.SHIPPED / "perception" / name for name in HYPER}
    for name, folder in folders.items():
        if not args.cards and args.only in (None, name):
            write_weights(name, folder, args.keep)
    metrics = evaluate(held_out())
    print(json.dumps(metrics, indent=1))
    for name, folder in folders.items():
        describe(name, metrics, folder, args.real)


if __name__ == "__main__":
    main()
