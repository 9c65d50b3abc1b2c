# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes replay`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edge_nodes import replay
from edge_nodes.bags import BagError, BagReader, map_topics
from edge_nodes.cli.measure import percentile


def write(
    console: Console,
    bag: Path,
    out: Path,
    *,
    topics: Mapping[str, str],
    parts: Sequence[str],
    config: str,
    duration_s: float | None,
    report: Path | None,
) -> None:
    """Run a bag through the pipelines, print what each did.

    Raises:
        EdgeNodesError: the bag, the configuration or a model cannot be used.
    """
    if out.resolve() == bag.resolve():
        raise BagError("the result would replace the bag", got=out)
    with BagReader(bag) as reader:
        length = (reader.end_ns - reader.start_ns) / 1e9
    length = length if duration_s is None else min(length, duration_s)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("replaying", total=length)
        result = replay.replay(
            bag,
            out,
            topics=topics,
            parts=parts,
            config=config,
            duration_s=duration_s,
            progress=lambda text: bar.console.print(text, style="dim", markup=False, highlight=False),
            step=lambda done: bar.update(task, completed=done),
        )
    _show(console, result)
    if report is not None:
        from edge_nodes.cli import report as reporting

        reporting.write(report, bag=bag, recording=out, topics=result.topics)
        console.print(f"report: {report}")


def _show(console: Console, result: replay.ReplayResult) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("node", "messages in", "out", "p50 ms", "p95 ms", "bad in"):
        table.add_column(column, justify="left" if column == "node" else "right")
    for name, node in result.nodes.items():
        spread = [percentile(node.times_ms, share) for share in (50, 95)]
        figures = (len(node.times_ms), sum(node.outputs.values()), *spread, sum(node.errors.values()))
        table.add_row(name, *("" if figure is None else f"{figure:g}" for figure in figures))
    console.print(table)
    for name, node in result.nodes.items():
        for text, count in node.errors.most_common(3):
            console.print(f"{name}: {count} x {text}", style="yellow", markup=False, highlight=False)
    speed = result.bag_s / result.wall_s if result.wall_s else 0.0
    console.print(
        f"{result.bag_s:.1f} s of the bag in {result.wall_s:.1f} s ({speed:.2f}x), models loaded in "
        f"{result.load_s:.1f} s: {result.path}",
        highlight=False,
    )


def play(bag: Path, topics: Mapping[str, str], *, rate: float, loop: bool) -> int:
    """Play a bag into the running graph of this ROS domain; return the exit code.

    Raises:
        EdgeNodesError: the bag cannot be used, or ROS 2 is missing.
    """
    from honcho.manager import Manager

    from edge_nodes.cli.session import need_ros

    need_ros()
    with BagReader(bag) as reader:
        map_topics(reader.topics, topics)
    chosen = " ".join(f"{topic}:={name}" for topic, name in topics.items())
    options = {"bag": f'"{bag.resolve()}"', "rate": rate, "loop": str(loop).lower(), "topics": f'"{chosen}"'}
    player = [sys.executable, "-m", "edge_nodes.nodes.bag_player_node", "--ros-args"]
    for name, value in options.items():
        player += ["-p", f"{name}:={value}"]
    # A manager of its own: the graph's may run elsewhere and does not know the player.
    manage = [sys.executable, "-m", "edge_nodes.nodes.lifecycle_manager", "--ros-args", "-r"]
    manage += ["__node:=replay_manager", "-p", "nodes:=bag_player_node"]
    if subprocess.run([sys.executable, "-c", "import rclpy"], check=False, capture_output=True).returncode:
        raise BagError("ROS 2 does not load", remedy="Run: edge-nodes doctor")
    manager = Manager()
    manager.add_process("bag_player_node", "exec " + shlex.join(player))
    manager.add_process("replay_manager", "exec " + shlex.join(manage))
    manager.loop()
    return int(manager.returncode or 0)
