# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes demo`: the whole graph on a bag, followed live, summed up in a table and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_nodes import graph
from edge_nodes.cli import measure, models, session
from edge_nodes.cli.timeline import Timeline


def demo(
    console: Console,
    out: Path,
    *,
    bag: Path | None,
    parts: Sequence[str],
    config: str,
    devices: str,
    report: bool,
) -> int:
    """Run the demo.

    Args:
        console: where to print.
        out: directory of the report, the recording and the logs.
        bag: another bag than the demo's.
        parts: parts of the graph.
        config: see `graph.Options.config`.
        devices: see `graph.Options.devices`.
        report: whether to write report.html.

    Returns:
        The exit code: 1 if a node died or no answer came.

    Raises:
        EdgeNodesError: the bag or a model is missing, ROS 2 is missing.
    """
    session.need_ros()
    chosen = session.demo_bag() if bag is None else bag.expanduser()
    if "language" in parts:
        models.ensure(console, language_model(config))
    about = session.description(chosen)
    console.print(f"[bold]{about.get('title', chosen.name)}[/]: starting the nodes; logs in {out / 'logs'}")
    timeline = Timeline(console, about)
    options = graph.Options(parts=tuple(parts), bag=str(chosen.resolve()), config=config, devices=devices)
    begin = time.monotonic()
    outcome = session.run(options, folder=out, handle=_Started(console, begin, timeline))
    timeline.finish()
    if outcome.interrupted:
        console.print("stopped")
        return outcome.code
    console.print()
    show(console, measure.rows(outcome.measurements))
    _show_speech(console, outcome.measurements)
    code = _verdict(console, out, outcome, wants_answer="language" in parts and bool(about.get("speech")))
    recorded = (out / session.RECORDING).is_file() and outcome.measurements.get("topics")
    if report and recorded:
        _write_report(console, out, chosen, outcome)
    if recorded:
        with console.status("adding the scans and the sound to the recording"):
            session.merge(chosen, out / session.RECORDING)
        console.print(f"recording of everything: {out / session.RECORDING}", highlight=False)
    return code


class _Started:
    """Passes events on to the timeline, and says once how long the start took."""

    def __init__(self, console: Console, begin: float, timeline: Timeline) -> None:
        self._console, self._begin, self._timeline = console, begin, timeline

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "clock":
            self._console.print(f"all nodes up after {time.monotonic() - self._begin:.1f} s", style="dim")
        self._timeline.handle(event)


def show(console: Console, rows: Sequence[measure.Row]) -> None:
    """Print the nodes' figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("node", no_wrap=True)
    for column in ("out Hz", "p50 ms", "p95 ms", "dropped", "bad in", "CPU %", "MB"):
        table.add_column(column, justify="right")
    for row in rows:
        values = (row.rate_hz, row.p50_ms, row.p95_ms, row.dropped, row.errors, row.cpu_percent, row.memory_mb)
        table.add_row(row.name, *("" if v is None else f"{v:g}" for v in values))
    console.print(table)
    console.print("ms: stamp of the input to receipt of the output; language: end of speech to first word", style="dim")


def _show_speech(console: Console, measurements: dict[str, Any]) -> None:
    questions, answers = measurements.get("questions", 0), measurements.get("answers", 0)
    if questions:
        console.print(f"{questions} utterances with words, {answers} answers", highlight=False)


def _verdict(console: Console, out: Path, outcome: session.Outcome, *, wants_answer: bool) -> int:
    if outcome.first != session.MONITOR:
        console.print(f"error: {outcome.first or 'a node'} ended before the bag did", style="bold red")
        console.print(session.last_lines(out, outcome.first), style="dim", markup=False, highlight=False)
        return 1
    if outcome.measurements.get("failure"):
        console.print(f"error: {outcome.measurements['failure']}", style="bold red")
        return 1
    if wants_answer and not outcome.measurements.get("answers"):
        console.print(f"error: no answer came; see {out / 'logs'}", style="bold red")
        return 1
    return outcome.code


def _write_report(console: Console, out: Path, bag: Path, outcome: session.Outcome) -> None:
    from edge_nodes.cli import report as reporting

    recording = out / session.RECORDING
    with console.status("drawing the report"):
        reporting.write(out / "report.html", bag=bag, recording=recording, measurements=outcome.measurements)
    console.print(f"report: {out / 'report.html'}", highlight=False)


def language_model(config: str) -> str:
    """Return the name of the model that the language node is configured to use."""
    from edge_nodes.replay import parameters_from_files

    node = graph.NODES["language_node"]
    values = parameters_from_files(node, config)
    return str(values.get("model", node.config_type()().model))
