# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench graph`: the running graph on the demo's bag at its recorded speed, in figures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_nodes import graph
from edge_nodes.bags import BagReader, BagWriter
from edge_nodes.cli import figures, measure, models, session
from edge_nodes.cli.demo import language_model
from edge_nodes.cli.demo import show as show_nodes

QUICK_S = 10.5
CLOUD_POINTS = 120_000
SCAN_HZ = 10.0
GAINED_MB = 5.0
"""What an allocator may move by; a leak of 1 kB a scan is 6 MB in ten minutes."""


def bench(
    console: Console, *, bag: Path | None, quick: bool, config: str, devices: str, minutes: float = 0.0
) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        bag: another bag than the demo's.
        quick: only the first seconds of the bag.
        config: see `graph.Options.config`.
        devices: see `graph.Options.devices`.
        minutes: play the bag again and again for so long, to see whether memory grows; 0 for once.

    Raises:
        EdgeNodesError: the graph did not run to the bag's end.
    """
    session.need_ros()
    chosen = session.demo_bag() if bag is None else bag.expanduser()
    models.ensure(console, language_model(config))
    with tempfile.TemporaryDirectory(prefix="edge_nodes_bench_") as name:
        folder = Path(name)
        played = _first_part(chosen, folder / "part.mcap", QUICK_S) if quick else chosen
        options = graph.Options(bag=str(played.resolve()), config=config, devices=devices)
        with console.status("the graph runs on the bag at its recorded speed"):
            outcome = session.run(options, folder=folder, handle=_problems(console), record=False, play_s=60 * minutes)
        if outcome.code or outcome.first != session.MONITOR:
            raise session.SessionError(
                f"{outcome.first or 'the graph'} ended before the bag did",
                got=session.last_lines(folder, outcome.first, 1) or f"exit code {outcome.code}",
                remedy="Run: edge-nodes doctor",
            )
        clouds, length_s = _clouds(played)
        if minutes:
            clouds = round(clouds * 60 * minutes / length_s)
    with console.status("the ROS layer by itself"):
        layer = ros_layer()
    found = _results(outcome.measurements, clouds, layer)
    found["growth_mb"] = _growth(outcome.measurements) if minutes else {}
    about = {"bag": chosen.name, "quick": quick, "devices": devices, "config": config, "minutes": minutes}
    return figures.result("graph", about, found, targets(found))


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    show_nodes(console, [measure.Row(**row) for row in result["results"]["nodes"]])
    figures.show_targets(console, result["targets"])


def targets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached."""
    return [
        figures.target("scans answered by both networks, Hz", results["sustained_hz"], ">=", 0.98 * SCAN_HZ),
        figures.target("clouds waiting in a queue at most", results["waiting_max"], "<=", 1),
        figures.target("cloud to both outputs, p95 ms", results["both_outputs_ms"]["p95"], "<", 150.0),
        figures.target("end of speech to first word, p95 ms", results["first_word_ms"]["p95"], "<", 2000.0),
        figures.target(f"ROS layer, {CLOUD_POINTS:,} points, ms", results["ros_layer_ms"]["sum"], "<", 8.0),
        *(
            figures.target(f"{name}: memory gained over {results['bag_s'] / 60:.1f} min, MB", gained, "<=", GAINED_MB)
            for name, gained in results.get("growth_mb", {}).items()
        ),
    ]


def ros_layer() -> dict[str, float]:
    """Return what `nodes.ros_layer` measures, in a process of its own.

    Raises:
        SessionError: it failed.
    """
    command = [sys.executable, "-m", "edge_nodes.nodes.ros_layer", str(CLOUD_POINTS)]
    done = subprocess.run(command, env=session.environment(), check=False, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise session.SessionError("the ROS layer could not be measured", got=done.stderr.strip()[-300:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _growth(measurements: Mapping[str, Any]) -> dict[str, float]:
    """Return what each node's memory gained, MB."""
    return {n: p["growth_mb"] for n, p in measurements["processes"].items() if n in graph.NODES}


def _results(measurements: Mapping[str, Any], clouds: int, layer: Mapping[str, float]) -> dict[str, Any]:
    both = measure.both_outputs_ms(measurements)
    nodes = measure.rows(measurements)
    return {
        "bag_s": round(measurements["bag_s"], 2),
        "clouds": clouds,
        "sustained_hz": round(SCAN_HZ * len(both) / clouds, 2) if clouds else None,
        "waiting_max": max((n for _, n in measurements["waiting"]), default=0),
        "both_outputs_ms": figures.spread(both),
        "first_word_ms": figures.spread(measurements["first_word_ms"]),
        "ros_layer_ms": dict(layer),
        "topics": {
            topic: {"count": found["count"], "rate_hz": found["rate_hz"], **figures.spread(found["latency_ms"])}
            for topic, found in measurements["topics"].items()
        },
        "nodes": [asdict(row) for row in nodes],
    }


def _problems(console: Console) -> session.Handler:
    def handle(event: dict[str, Any]) -> None:
        if event["kind"] == "log" and event["level"] in {"WARN", "ERROR", "FATAL"}:
            console.print(f"{event['node']}: {event['text']}", style="yellow", markup=False, highlight=False)

    return handle


def _clouds(bag: Path) -> tuple[int, float]:
    """Return how many clouds a bag has, and its length in s."""
    with BagReader(bag) as reader:
        clouds = sum(t.count for t in reader.topics.values() if t.type == graph.TOPICS["points"].type)
        return clouds, max(1e-9, (reader.end_ns - reader.start_ns) / 1e9)


def _first_part(bag: Path, out: Path, seconds: float) -> Path:
    with BagReader(bag) as reader, BagWriter(out) as writer:
        for message in reader.messages(stop_ns=reader.start_ns + int(seconds * 1e9)):
            writer.write(message.topic, message.type, message.time_ns, message.data)
    return out
