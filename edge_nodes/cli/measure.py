# SPDX-License-Identifier: Apache-2.0
"""Figures from what the monitor measured: per node, per topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_nodes import graph

MAIN = {
    "segmentation_node": "segmentation/labels",
    "reconstruction_node": "reconstruction/forecast",
    "scene_node": "scene/event",
    "speech_node": "speech/event",
    "language_node": "language/reply",
}
"""The topic whose rate and latency stand for a node."""


@dataclass(frozen=True)
class Row:
    """One node's figures; None where there is nothing to say.

    Attributes:
        name: of the node.
        rate_hz: messages of its main topic a second.
        p50_ms, p95_ms: input stamp to receipt of the output; for the language node end of speech to first word.
        dropped: input messages it never looked at.
        errors: input messages it could not use.
        cpu_percent: 100 is one core.
        memory_mb: largest resident memory seen.
    """

    name: str
    rate_hz: float | None
    p50_ms: float | None
    p95_ms: float | None
    dropped: int
    errors: int
    cpu_percent: float | None
    memory_mb: float | None


def rows(measurements: Mapping[str, Any]) -> list[Row]:
    """Return the figures of all nodes that were seen, in the graph's order."""
    known = measurements.get("nodes", {})
    running = {*known, *measurements.get("processes", {})}
    names = [*graph.NODES, *sorted(running - set(graph.NODES))]
    return [_row(name, measurements, known.get(name, {})) for name in names if name in running]


def _row(name: str, measurements: Mapping[str, Any], values: Mapping[str, str]) -> Row:
    topic = measurements["topics"].get(MAIN.get(name, ""), {})
    samples = measurements["first_word_ms"] if name == "language_node" else topic.get("latency_ms", [])
    process = measurements["processes"].get(name, {})
    return Row(
        name,
        topic.get("rate_hz"),
        percentile(samples, 50),
        percentile(samples, 95),
        sum(int(v) for k, v in values.items() if k.startswith("dropped ")),
        int(values.get("errors", 0)),
        process.get("cpu_percent"),
        process.get("rss_mb"),
    )


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return a percentile, None of nothing."""
    return round(float(np.percentile(np.array(samples), share)), 1) if len(samples) else None


def both_outputs_ms(measurements: Mapping[str, Any]) -> list[float]:
    """Return, for each cloud that both networks answered, the time until the later of their outputs."""
    return [max(found.values()) for found in measurements["clouds"].values() if len(found) == 3]
