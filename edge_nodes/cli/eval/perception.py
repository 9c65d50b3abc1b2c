# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes eval segmentation` and `eval reconstruction`: the networks on simulated and on real labelled data."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes.cli import figures
from edge_nodes.cli.figures import DataError, target
from edge_nodes.perception import evaluation as ev
from edge_nodes.perception.clusters import sized_vehicles
from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.frames import Frame, read_frames
from edge_nodes.perception.inference import Inference

QUICK_FILES, QUICK_FRAMES, SCANS = 8, 3, 16
SIMULATED = "simulated"
Found = tuple[dict[str, Any], list[dict[str, Any]]]
"""Results and targets."""
Ways = tuple[Callable[[Iterable[ev.Sample], Inference], Found], Callable[[Inference], Found]]
"""What is done with simulated samples, and with a pack of real scans."""


def segmentation(
    console: Console, data: Path, *, model: str, device: str, sector_deg: float, quick: bool
) -> dict[str, Any]:
    """Return the figures of a segmentation model on simulated sequences, or on packed real frames with labels.

    Args:
        console: for progress.
        data: directory of simulated sequences, a pack of clouds, or "simulated" to make the sequences now.
        model: see `Inference`.
        device: see `Inference`.
        sector_deg: sector ahead in which boxes are labelled.
        quick: only the first part of the data.

    Raises:
        EdgeNodesError: bad data or no such model.
    """

    def measured(inference: Inference) -> Found:
        frames = read_frames(data)[: QUICK_FRAMES if quick else None]
        return _segmentation_real(frames, data, inference, sector_deg)

    ways = (_segmentation_simulated, measured)
    return _result(console, "segmentation", data, ways, model, device, quick, sector_deg=sector_deg)


def reconstruction(console: Console, data: Path, *, model: str, device: str, quick: bool) -> dict[str, Any]:
    """Return the figures of a reconstruction model on simulated sequences, or on a pack of successive real scans.

    Args:
        console: for progress.
        data: see `segmentation`.
        model: see `Inference`.
        device: see `Inference`.
        quick: only the first part of the data.

    Raises:
        EdgeNodesError: bad data or no such model.
    """

    def measured(inference: Inference) -> Found:
        frames = read_frames(data)[: SCANS + ev.AHEAD + QUICK_FRAMES if quick else None]
        return _reconstruction_real(frames, data, inference)

    return _result(console, "reconstruction", data, (_reconstruction_simulated, measured), model, device, quick)


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the figures: one table per measure."""
    for title, rows in result["results"].items():
        if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
            columns = list(dict.fromkeys(name for row in rows.values() for name in row))
            figures.show_table(
                console, title, ("", *columns), ([name, *(row.get(c) for c in columns)] for name, row in rows.items())
            )
        elif isinstance(rows, dict):
            figures.show_table(console, title, ("", "value"), rows.items())
        else:
            console.print(f"{title}: {rows}", highlight=False)
    figures.show_targets(console, result["targets"])


def _result(
    console: Console, name: str, data: Path, ways: Ways, model: str, device: str, quick: bool, **measured_with: float
) -> dict[str, Any]:
    """Return the figures of a model on simulated samples, or on a pack of real scans, which has options of its own."""
    inference = Inference(model, BevConfig(), device=device, threads=1, progress=lambda _: None)
    about = {"data": data.name, "model": inference.model_name, "device": str(inference.device), "quick": quick}
    simulated, measured = ways
    with console.status(f"{inference.model_name} on {data.name}"):
        samples = _samples(data, quick)
        found, targets = measured(inference) if samples is None else simulated(samples, inference)
    return figures.result(name, about if samples is not None else {**about, **measured_with}, found, targets)


def _samples(data: Path, quick: bool) -> Iterator[ev.Sample] | None:
    """Return the samples of simulated sequences, None if `data` is no set of them."""
    if data.is_dir():
        files = ev.held_out(data)[:: 100 // QUICK_FILES if quick else 1]
        return (sample for file in files for sample in ev.read_samples(file))
    if str(data) != SIMULATED:
        if not data.exists():
            raise DataError(
                "there are no such data",
                got=data,
                expected="a pack (.npz), a directory of simulated sequences, or the word simulated",
            )
        return None
    try:
        dataset = importlib.import_module("train.perception.dataset")
    except ImportError as error:
        raise DataError(
            "sequences cannot be simulated here",
            got=error,
            remedy="Run it in the repository with the extra [train], or give a directory that "
            "`python -m train.perception.dataset` made.",
        ) from error
    seeds = dataset.TEST_SEEDS[:: 100 // QUICK_FILES if quick else 1]
    samples: Iterator[ev.Sample] = dataset.samples(seeds)
    return samples


def _last(maps: Any) -> Any:
    return np.ascontiguousarray(maps.transpose(1, 2, 0))


def _segmentation_simulated(samples: Iterable[ev.Sample], inference: Inference) -> Found:
    network, seen, rules, count = ev.ClassScore(), ev.ClassScore(), ev.ClassScore(), 0
    for sample in samples:
        count += 1
        labels = ev.labels_of(inference, _last(sample.input))
        network.add(labels, sample.label)
        seen.add(labels, ev.with_returns(sample))
        rules.add(ev.by_rules(sample.input), sample.label)
    iou = {"network": network.values, ev.WITH_RETURNS: seen.values, "rules": rules.values}
    targets = [
        target("mean IoU, simulated", network.values["mean"], ">=", 0.75),
        target("person IoU, simulated", network.values["person"], ">=", 0.5),
        target("mean IoU above the rules'", network.values["mean"], ">", rules.values["mean"]),
    ]
    return {"stamps": count, "iou": iou}, targets


def _segmentation_real(frames: list[Frame], data: Path, inference: Inference, sector_deg: float) -> Found:
    config = inference.history.config
    boxes = frames[0].boxes is not None if frames else False
    if not frames or not (boxes or frames[0].semantic is not None):
        raise DataError(
            "the pack has no labels to compare with", got=data, expected="`boxes`, or `semantic` and `instance`"
        )
    # Every frame stands alone: the history is that one scan, or, second, that scan over and over.
    sized = "network, vehicles by size"
    methods = ("network", f"network, scan {SCANS}x", sized, "rules")
    classes = {name: ev.ClassScore() for name in methods}
    found = {name: ev.ThingScore(config, sector_deg if boxes else 360.0) for name in methods}
    for frame in frames:
        one, many = ev.maps_of(inference, frame, 1), ev.maps_of(inference, frame, SCANS)
        truth = list(ev.things(frame, config))
        plain = ev.labels_of(inference, one)
        # As scene_node takes them.
        likely = sized_vehicles(plain, config.resolution_m)
        guesses = (plain, ev.labels_of(inference, many), likely, ev.by_rules(one.transpose(2, 0, 1)))
        for name, labels in zip(methods, guesses, strict=True):
            found[name].add(labels, truth)
            if frame.semantic is not None:
                classes[name].add(labels, ev.semantic_map(frame, config))
    results: dict[str, Any] = {"frames": len(frames), "things": {n: f.values for n, f in found.items()}}
    if frames[0].semantic is not None:
        results["iou of labelled cells"] = {name: score.known for name, score in classes.items()}
    values = found[methods[0]].values
    targets = [
        target("cars of 50 points within 40 m found", values["cars_found"], ">=", 0.8),
        target("vehicle clusters within 40 m that touch a vehicle", values["clusters_true"], ">=", 0.7),
        target("the same after scene_node's size rules", found[sized].values["clusters_true"], ">=", 0.7),
    ]
    return results, targets


def _reconstruction_simulated(samples: Iterable[ev.Sample], inference: Inference) -> Found:
    score, count = ev.OccupancyScore(), 0
    for sample in samples:
        count += 1
        now, later = ev.occupied_of(inference, _last(sample.input))
        last, every = ev.scans_alone(sample.input)
        # Stored maps have the robot's motion taken out already: the OR of scans as they came is not in them.
        score.add({"network": now, ev.METHODS[1]: last, ev.METHODS[3]: every}, sample, later)
    values = score.values
    targets = [_best(measure.replace("_iou", " IoU, simulated"), each) for measure, each in values.items()][:2]
    persistence = values["forecast_iou"].get("network's present")
    targets.append(target("forecast IoU above persistence", values["forecast_iou"].get("network"), ">", persistence))
    return {"stamps": count, **values}, targets


def _reconstruction_real(frames: list[Frame], data: Path, inference: Inference) -> Found:
    config = inference.history.config
    sums = {name: ev.Overlap() for name in (*ev.METHODS, "network's present")}
    count = 0
    for seen, later, known in ev.measured_ahead(frames, config):
        count += 1
        now, ahead = ev.occupied_of(inference, seen["maps"])
        last, followed = ev.scans_alone(seen["maps"].transpose(2, 0, 1))
        _, plain = ev.scans_alone(seen["still"].transpose(2, 0, 1))
        for name, got in zip(sums, (ahead, last, plain, followed, now), strict=True):
            sums[name].add(got, later, known)
    if not count:
        raise DataError(
            "too few successive scans to forecast from",
            got=f"{len(frames)} in {data}",
            expected=f"at least {SCANS + ev.AHEAD}, 0.1 s apart",
        )
    values = {name: each.value for name, each in sums.items()}
    truth = "what the scan 0.5 s later measured, in cells where it measured anything; no labels"
    results = {"stamps": count, "truth": truth, "forecast_iou": values}
    return results, [_best("forecast IoU, measured scans", values)]


def _best(name: str, values: dict[str, float]) -> dict[str, Any]:
    """Return the target that the network be better than all else."""
    others = [value for method, value in values.items() if not method.startswith("network")]
    return target(f"{name}, above every baseline", values.get("network"), ">", max(others, default=None))
