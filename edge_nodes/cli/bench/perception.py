# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench perception`: maps, the two networks alone, after one another and at once, message to outputs."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from edge_nodes.cli import figures
from edge_nodes.cli.figures import target
from edge_nodes.cli.processes import TIMEOUT_S, answer, in_process, peak_gflop_s, received, seconds

POINTS = 120_000
PERIOD_NS = 100_000_000
SOAK_SCANS = 6000  # 10 minutes at 10 Hz
NAMES = ("segmentation", "reconstruction")
Cloud = npt.NDArray[np.float32]


def street(points: int, seed: int = 0) -> Cloud:
    """Return a made-up scan (points, 3) float32: 64 rings on flat ground between house fronts, with cars and poles."""
    rng = np.random.default_rng(seed)
    rings = 64
    columns = points // rings
    azimuth = np.linspace(-math.pi, math.pi, columns, endpoint=False)[None]
    elevation = np.radians(np.linspace(-24.9, 2.0, rings))[:, None]
    with np.errstate(divide="ignore"):
        ground = np.where(elevation < 0, 1.73 / np.tan(-elevation), np.inf)
        front = 9.0 / np.abs(np.sin(azimuth))
    reach = np.minimum(np.minimum(ground, front), 70.0) * np.ones_like(azimuth)
    for bearing, distance, width in zip(*_things(rng), strict=True):
        off = np.angle(np.exp(1j * (azimuth - bearing)))
        top = np.arctan2(1.6 - 1.73, distance)
        hit = (np.abs(off) < width / distance) & (elevation < top)
        reach = np.where(hit, np.minimum(reach, distance), reach)
    reach += rng.normal(0, 0.02, reach.shape)
    xyz = np.stack([reach * np.cos(azimuth), reach * np.sin(azimuth), reach * np.tan(elevation)], -1).reshape(-1, 3)
    return np.ascontiguousarray(np.resize(xyz, (points, 3)), np.float32)


def _things(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    return rng.uniform(-math.pi, math.pi, 30), rng.uniform(4, 25, 30), rng.uniform(0.1, 2.0, 30)


def cloud_message(xyz: Cloud, time_ns: int) -> Any:
    """Return something with PointCloud2's attributes that holds x, y, z and an intensity of 0."""
    values = np.column_stack([xyz, np.zeros(len(xyz), np.float32)])
    fields = [SimpleNamespace(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate(("x", "y", "z", "i"))]
    stamp = SimpleNamespace(sec=time_ns // 10**9, nanosec=time_ns % 10**9)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp, frame_id="lidar"),
        height=1,
        width=len(xyz),
        fields=fields,
        is_bigendian=False,
        point_step=16,
        row_step=16 * len(xyz),
        data=values.view(np.uint8).reshape(-1),
        is_dense=True,
    )


def bench(console: Console, *, quick: bool) -> dict[str, Any]:
    """Return the figures.

    Args:
        console: for progress.
        quick: fewer repetitions; done in 30 s.

    Raises:
        EdgeNodesError: a model is missing, or a process ended early.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    load = os.getloadavg()[0]
    repeats = 15 if quick else 150
    with console.status("maps and networks, each alone"):
        alone = in_process(_measure_alone, cores[0], repeats)
    with console.status("both networks after one another"):
        serial = _together([NAMES], cores, repeats)
    soak = 10 * repeats if quick else SOAK_SCANS
    with console.status(f"both networks at once, then {soak} scans more"):
        parallel = _together([(name,) for name in NAMES], cores, repeats, soak) if len(cores) > 1 else None
    found = {
        "load_1min_before": _round(load),
        **alone,
        "both": {
            "after one another, one core, ms a scan": _round(1e3 * serial["seconds"] / repeats),
            "at once, two cores, ms a scan": _round(1e3 * parallel["seconds"] / repeats) if parallel else None,
            "times faster": _round(serial["seconds"] / parallel["seconds"]) if parallel else None,
            # Two equal shares would be 2; the longer of the two decides.
            "times faster at best": _best_speedup(alone["networks"]),
        },
        "memory_mb": (parallel or serial)["memory_mb"],
        "growth_mb": {"scans": soak, **(parallel or serial)["growth_mb"]},
    }
    return figures.result(
        "perception",
        {"points": POINTS, "repeats": repeats, "cores": cores, "quick": quick, "device": "cpu, 1 thread"},
        found,
        targets(found),
    )


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached."""
    networks = found["networks"]
    return [
        target(f"{POINTS:,} points to map, median ms", found["bev_ms"]["map with detail and sight"]["p50"], "<", 5.0),
        *(target(f"{name}, one core, p95 ms", networks[name]["p95"], "<", 60.0) for name in NAMES),
        target("both at once, times faster", found["both"]["times faster"], ">=", 1.8),
        *(target(f"memory of {name}, MB", found["memory_mb"].get(name), "<", 500.0) for name in NAMES),
        # A leak of one map a scan would be 65 kB x 6000.
        *(target(f"growth of {name}, MB", found["growth_mb"].get(name), "<", 5.0) for name in NAMES),
    ]


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the figures."""
    found = result["results"]
    spread = ("p50", "p95", "max")
    figures.show_table(
        console,
        "bird's-eye-view map, ms",
        ("", *spread),
        ([k, *(v[s] for s in spread)] for k, v in found["bev_ms"].items()),
    )
    columns = (*spread, "gflop", "gflop_s", "best_ms")
    rows = ([f"{k}, {v['precision']}", *(v[c] for c in columns)] for k, v in found["networks"].items())
    figures.show_table(console, "networks on one core, ms", ("", *columns), rows)
    rows = ([k, *(v[c] for c in columns)] for k, v in found["published_networks"].items())
    figures.show_table(console, "the published networks on one core, ms", ("", *columns), rows)
    peaks = {v["precision"]: v["peak_gflop_s"] for v in found["networks"].values()} | {"float32": found["peak_gflop_s"]}
    told = ", ".join(f"{peak} GFLOP/s in {precision}" for precision, peak in peaks.items())
    console.print(f"peak of one core (matrix product or convolution): {told}", highlight=False)
    figures.show_table(
        console,
        "message to output fields, ms",
        ("", *spread),
        ([k, *(v[s] for s in spread)] for k, v in found["message_to_outputs_ms"].items()),
    )
    figures.show_table(console, "both networks", ("", "value"), found["both"].items())
    figures.show_table(console, "resident memory, MB", ("", "value"), found["memory_mb"].items())
    figures.show_table(console, "growth of resident memory, MB", ("", "value"), found["growth_mb"].items())
    console.print(f"load of the machine before: {found['load_1min_before']}", highlight=False)
    figures.show_targets(console, result["targets"])


def _measure_alone(core: int, repeats: int) -> dict[str, Any]:
    """Return everything that one process measures on one core."""
    import torch

    from edge_nodes.perception.bev import bev_map
    from edge_nodes.perception.config import BevConfig
    from edge_nodes.perception.ground import GroundEstimator
    from edge_nodes.perception.history import DETAILS, BevHistory
    from edge_nodes.perception.odometry import Motion2
    from edge_nodes.perception.sight import reach, sight_map

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    config = BevConfig()
    scans = [street(POINTS, seed) for seed in range(4)]
    ground = GroundEstimator(config.range_m).estimate(scans[0])
    history, estimator = BevHistory(config, details=DETAILS), GroundEstimator(config.range_m)
    older = [(reach(scan, ground, config), Motion2(1.0)) for scan in scans[1:]]

    def with_sight(i: int) -> None:
        bev_map(scans[i % 4], ground, config, detail=True)
        sight_map([(reach(scans[i % 4], ground, config), Motion2()), *older], config)

    bev = {
        "map": _times(lambda i: bev_map(scans[i % 4], ground, config), repeats),
        "map with detail": _times(lambda i: bev_map(scans[i % 4], ground, config, detail=True), repeats),
        "map with detail and sight": _times(with_sight, repeats),
        "ground": _times(lambda i: estimator.estimate(scans[i % 4]), repeats),
        # The same scan again and again: the robot stands, and scan matching has what it needs.
        "ground, scan matching, map, history": _times(lambda i: history.push(scans[0], i * PERIOD_NS), repeats),
    }
    networks = {name: _network(name, scans[0], repeats) for name in NAMES}
    peak = peak_gflop_s()
    pipelines = {name: _pipeline_ms(name, scans, repeats) for name in NAMES}
    return {
        "bev_ms": bev,
        "networks": networks,
        "published_networks": _published(config.cells, max(2, repeats // 15), peak),
        "peak_gflop_s": _round(peak),
        "message_to_outputs_ms": pipelines,
    }


def _network(name: str, scan: Cloud, repeats: int) -> dict[str, Any]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from edge_nodes.perception.config import BevConfig
    from edge_nodes.perception.inference import Inference

    inference = Inference(f"perception/{name}", BevConfig(), device="cpu", threads=1, progress=lambda _: None)
    for i in range(16):
        maps = inference.history.push(scan, i * PERIOD_NS)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        inference.forward(maps)
    gflop = counter.get_total_flops() / 1e9
    spread = _times(lambda _: inference.forward(maps), repeats)
    median = spread["p50"] or math.inf
    precision = str(inference.dtype).rpartition(".")[2]
    peak = peak_gflop_s(precision)
    return {
        **spread,
        "precision": precision,
        "peak_gflop_s": _round(peak),
        "gflop": _round(gflop),
        "gflop_s": _round(1e3 * gflop / median),
        "best_ms": _round(1e3 * gflop / peak),
    }


def _published(cells: int, repeats: int, peak: float) -> dict[str, Any]:
    """Return the published graphs, whole and pruned, on a map about as large; the weights do not change the time."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from edge_nodes.perception.reference import KINDS, legal_size

    size, found = legal_size(cells), {}
    maps = (torch.rand(1, 16, size, size) < 0.05).float()
    for kind, build in KINDS.items():
        for prune in (False, True):
            network = build(prune=prune).eval()
            with torch.inference_mode():
                with FlopCounterMode(display=False) as counter:
                    network(maps)
                spread = figures.spread([1e3 * seconds(network, maps) for _ in range(repeats)])
            gflop = counter.get_total_flops() / 1e9
            found[f"{kind}, {'pruned' if prune else 'whole'}, {size} cells"] = {
                **spread,
                "gflop": _round(gflop),
                "gflop_s": _round(1e3 * gflop / (spread["p50"] or math.inf)),
                "best_ms": _round(1e3 * gflop / peak),
            }
    return found


def _pipeline(name: str) -> tuple[Any, tuple[str, ...]]:
    """Return a loaded pipeline on the CPU with one thread, and its outputs."""
    from edge_nodes.perception.config import ReconstructionConfig, SegmentationConfig
    from edge_nodes.pipelines.reconstruction import FORECAST, OCCUPANCY, ReconstructionPipeline
    from edge_nodes.pipelines.segmentation import GRID, LABELS, SegmentationPipeline

    built: Any
    if name == "segmentation":
        built, wanted = SegmentationPipeline(SegmentationConfig(device="cpu")), (LABELS, GRID)
    else:
        built, wanted = ReconstructionPipeline(ReconstructionConfig(device="cpu")), (OCCUPANCY, FORECAST)
    built.load(lambda _: None)
    return built, wanted


def _pipeline_ms(name: str, scans: list[Cloud], repeats: int) -> dict[str, float | None]:
    pipeline, wanted = _pipeline(name)
    messages = [cloud_message(scans[0], i * PERIOD_NS) for i in range(repeats + 3)]

    def once(i: int) -> None:
        for _ in pipeline.process("points", messages[i], received_ns=0, wanted=wanted):
            pass

    return _times(once, repeats)


def _times(work: Callable[[int], Any], repeats: int) -> dict[str, float | None]:
    """Return the spread of the milliseconds of `work`, after three calls that do not count."""
    for i in range(3):
        work(i)
    return figures.spread([1e3 * seconds(work, i) for i in range(3, repeats + 3)])


def _best_speedup(networks: dict[str, Any]) -> float | None:
    each = [networks[name]["p50"] for name in NAMES]
    return _round(sum(each) / max(each)) if all(each) else None


def _round(value: float) -> float:
    return round(value, 3)


def _together(groups: list[tuple[str, ...]], cores: list[int], repeats: int, soak: int = 0) -> dict[str, Any]:
    """Return the seconds that all groups of pipelines take for `repeats` scans, one pinned process a group.

    `soak` scans follow that are not timed: memory must not grow during them.
    """
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(len(groups)), context.Queue()
    processes = [
        context.Process(target=answer, args=(results, _run, names, core, repeats, soak, start))
        for names, core in zip(groups, cores, strict=False)
    ]
    for process in processes:
        process.start()
    found = [received(results, processes) for _ in processes]
    for process in processes:
        process.join()
    return {
        "seconds": max(each["seconds"] for each in found),
        **{key: {" + ".join(each["names"]): each[key] for each in found} for key in ("memory_mb", "growth_mb")},
    }


def _growth_mb(levels: Sequence[float]) -> float:
    """Return how much the least resident memory of the second half is above that of the first.

    The least: buffers that come and go move the level by 30 MB from scan to scan. The first fifth is left out: the heap
    takes some 300 scans to find a place for all of them, 7 MB that then stay as they are.
    """
    settled = levels[len(levels) // 5 :]
    half = len(settled) // 2
    return _round(min(settled[half:]) - min(settled[:half])) if half else 0.0


def _run(names: tuple[str, ...], core: int, repeats: int, soak: int, start: Any) -> dict[str, Any]:
    import psutil
    import torch

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    pipelines = [_pipeline(name) for name in names]
    scan = street(POINTS)
    messages = [cloud_message(scan, i * PERIOD_NS) for i in range(3)]

    def resident_mb() -> float:
        return float(psutil.Process().memory_info().rss) / 2**20

    def once(i: int) -> None:
        message = messages[i % 3]
        time_ns = i * PERIOD_NS
        message.header.stamp = SimpleNamespace(sec=time_ns // 10**9, nanosec=time_ns % 10**9)
        for pipeline, wanted in pipelines:
            for _ in pipeline.process("points", message, received_ns=0, wanted=wanted):
                pass

    for i in range(3):
        once(i)
    start.wait(timeout=TIMEOUT_S)
    begin = time.perf_counter()
    for i in range(3, repeats + 3):
        once(i)
    seconds, taken_mb = time.perf_counter() - begin, resident_mb()
    levels = []
    for i in range(repeats + 3, repeats + 3 + soak):
        once(i)
        levels.append(resident_mb())
    memory = {"memory_mb": _round(max([taken_mb, *levels])), "growth_mb": _growth_mb(levels)}
    return {"names": names, "seconds": seconds, **memory}
