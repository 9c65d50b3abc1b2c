# SPDX-License-Identifier: Apache-2.0
"""What all figures share: targets, spreads, the JSON file and the tables."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from edge_nodes import __version__
from edge_nodes.cli import measure
from edge_nodes.errors import EdgeNodesError

WIDEST = 400  # characters of a table
_RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class DataError(EdgeNodesError):
    """Data to evaluate with are missing or not what was asked for."""


def spread(samples: Sequence[float]) -> dict[str, float | None]:
    """Return median, 95th percentile and maximum."""
    shares = {"p50": 50.0, "p95": 95.0, "max": 100.0}
    return {name: measure.percentile(samples, share) for name, share in shares.items()}


def target(name: str, value: float | None, relation: str, wanted: float | None) -> dict[str, Any]:
    """Return what was wanted, what was measured, and whether that is met; nothing meets what was not measured."""
    met = value is not None and wanted is not None and _RELATIONS[relation](value, wanted)
    return {"name": name, "value": value, "relation": relation, "target": wanted, "met": met}


def result(
    name: str, config: Mapping[str, Any], results: Mapping[str, Any], targets: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the figures with what they were measured on."""
    from edge_nodes.cli.report import machine

    return {
        "name": name,
        "version": __version__,
        "machine": machine(),
        "config": dict(config),
        "results": dict(results),
        "targets": [dict(t) for t in targets],
    }


def show_table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows of figures, the first column to the left."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=title or None, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    _print(console, table)


def show_targets(console: Console, targets: Sequence[Mapping[str, Any]]) -> None:
    """Print which targets are met."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("target", "measured", "wanted", ""):
        table.add_column(column, justify="left" if column in {"target", ""} else "right")
    for wanted in targets:
        mark = "[green]met[/]" if wanted["met"] else "[bold red]missed[/]"
        aim = "-" if wanted["target"] is None else f"{wanted['relation']} {wanted['target']:g}"
        table.add_row(wanted["name"], _text(wanted["value"], "none"), aim, mark)
    _print(console, table)


def _print(console: Console, table: Table) -> None:
    if not console.is_terminal:  # a file has no edge
        needed = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
        console.width = max(console.width, needed)
    console.print(table)


def write(console: Console, path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures to a file, if one is named."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")
        console.print(f"figures: {path}")


def _text(value: Any, nothing: str = "-") -> str:
    if value is None:
        return nothing
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
