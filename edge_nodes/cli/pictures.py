# SPDX-License-Identifier: Apache-2.0
"""The report's pictures, as PNG data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon

from edge_nodes.perception import COLOURS, decode
from edge_nodes.perception.bev import bev_map
from edge_nodes.perception.config import CLASSES, BevConfig
from edge_nodes.perception.ground import GroundEstimator

INK, MUTED, PAPER = "#1d2430", "#6b7686", "#ffffff"
ACCENT = {
    "segmentation/labels": "#2a78c8",
    "reconstruction/forecast": "#d2691e",
    "scene/event": "#2e8b57",
    "speech": "#8a5cc2",
    "answer": "#2e8b57",
}
KIND = {"vehicle": "#3c82dc", "person": "#f05a3c", "wall": "#96704f", "obstacle": "#c9a227"}
TARGET_MS = 150.0
CHARACTERS_S = 7.0
_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def moment(at: Any) -> str:
    """Return the five views of one stamp: scan, map, classes, occupied now, occupied in half a second.

    Args:
        at: a `report.Moment`.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(18, 3.75), dpi=90, layout="constrained", facecolor=PAPER)
        axes = figure.subplots(1, 5)
        xyz = decode(at.cloud).xyz
        config = BevConfig()
        ground = GroundEstimator(config.range_m).estimate(xyz)
        reach = config.range_m
        _scan(axes[0], xyz, ground.height_of(xyz), reach)
        _boxes(axes[0], at.scene.get("objects", []))
        axes[0].set_title(f"scan, {len(xyz):,} points; objects")
        axes[1].imshow(bev_map(xyz, ground, config).obstacle, cmap="Blues", vmin=0, vmax=120, extent=_extent(reach))
        axes[1].set_title("seen from above: obstacles")
        _labels(axes[2], at.images.get("segmentation/labels"), reach)
        for axis, topic, title in (
            (axes[3], "reconstruction/occupancy", "occupied now"),
            (axes[4], "reconstruction/forecast", "occupied in 0.5 s"),
        ):
            image = at.images.get(topic)
            if image is not None:
                drawn = axis.imshow(plane(image), vmin=0, vmax=1, cmap="magma", extent=_extent(reach))
                if topic.endswith("forecast"):
                    figure.colorbar(drawn, ax=axis, shrink=0.8, label="probability")
            axis.set_title(title)
        for axis in axes:
            _frame(axis, reach)
        return _uri(figure)


def plane(image: Any) -> npt.NDArray[Any]:
    """Return the (H, W) values of a mono8 or 32FC1 image."""
    dtype = np.dtype(np.uint8 if image.encoding == "mono8" else np.float32)
    rows = np.asarray(image.data, np.uint8).reshape(image.height, image.step)[:, : image.width * dtype.itemsize]
    values: npt.NDArray[Any] = np.ascontiguousarray(rows).view(dtype)
    return values


def timeline(
    events: Mapping[str, Sequence[dict[str, Any]]],
    about: Mapping[str, Any],
    talk: Sequence[Any],
    start_ns: int,
    end_ns: int,
) -> str:
    """Return the run over time: parts of the bag, nearest person and vehicle, speech and answers."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(15, 3.8), dpi=90, layout="constrained", facecolor=PAPER)
        far, talk_axis = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1.2))
        for part in about.get("parts", ()):
            shade = "#e6f0e8" if part.get("real") else "#eef0f6"
            for axis in (far, talk_axis):
                axis.axvspan(part["from_s"], part["to_s"], color=shade, zorder=0)
            name = "real scans" if part.get("real") else "simulated scans"
            far.annotate(name, (part["from_s"] + 0.1, 0.97), xycoords=("data", "axes fraction"), va="top", color=MUTED)
        for kind in ("person", "vehicle"):
            points = [
                ((e["stamp_ns"] - start_ns) / 1e9, min(ranges))
                for e in events["scene/event"]
                if (ranges := [o["range_m"] for o in e["objects"] if o["class"] == kind])
            ]
            if points:
                far.plot(*zip(*points, strict=True), ".", ms=3, color=KIND[kind], label=f"nearest {kind}")
        far.set_ylabel("range, m")
        far.set_ylim(0, 1.25 * far.get_ylim()[1])
        if far.get_legend_handles_labels()[0]:
            far.legend(loc="upper right", frameon=False, ncols=2)
        begins = [(e.heard["start_ns"] - start_ns) / 1e9 for e in talk]
        for exchange, until in zip(talk, [*begins[1:], math.inf], strict=True):
            _spoken(talk_axis, exchange, start_ns, until)
        talk_axis.set_yticks((0, 1), ("robot", "person"))
        talk_axis.set_ylim(-0.6, 2.0)
        talk_axis.set_xlim(0, (end_ns - start_ns) / 1e9 + 2)
        talk_axis.set_xlabel("time in the bag, s")
        return _uri(figure)


def latency(measurements: Mapping[str, Any]) -> str:
    """Return latency over the run and its distribution."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(15, 3.4), dpi=90, layout="constrained", facecolor=PAPER)
        over, share = figure.subplots(1, 2, width_ratios=(2, 1))
        most = TARGET_MS
        for topic in ("segmentation/labels", "reconstruction/forecast", "scene/event"):
            samples = measurements["topics"].get(topic, {}).get("latency_ms", [])
            if not samples:
                continue
            colour = ACCENT[topic]
            over.plot(np.arange(len(samples)), samples, color=colour, lw=1, label=topic)
            share.plot(np.sort(samples), np.linspace(0, 100, len(samples)), color=colour)
            most = max(most, float(np.percentile(samples, 99)))
        for axis, line in ((over, "axhline"), (share, "axvline")):
            getattr(axis, line)(TARGET_MS, color=MUTED, ls="--", lw=1)
        over.annotate(
            f"target {TARGET_MS:.0f} ms", (1, TARGET_MS), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
        over.set(xlabel="output", ylabel="ms from the scan's stamp", title="scan to output", ylim=(0, 1.15 * most))
        share.set(xlabel="ms", ylabel="% of outputs", title="distribution", xlim=(0, 1.15 * most), ylim=(0, 100))
        if over.get_legend_handles_labels()[0]:
            over.legend(frameon=False, ncols=3, loc="upper left")
        return _uri(figure)


def _spoken(axis: Any, exchange: Any, start_ns: int, until_s: float) -> None:
    heard = exchange.heard
    begin, end = ((heard[key] - start_ns) / 1e9 for key in ("start_ns", "end_ns"))
    axis.barh(1, end - begin, left=begin, height=0.7, color=ACCENT["speech"])
    axis.annotate(heard["text"], (begin, 1.45), va="bottom", fontsize=8, annotation_clip=False)
    if exchange.answer is not None:
        told = (exchange.answer["recorded_ns"] - start_ns) / 1e9
        took = exchange.answer["latency_ms"].get("total", exchange.answer["latency_ms"].get("total_ms", 300.0)) / 1e3
        axis.barh(0, took, left=told - took, height=0.7, color=ACCENT["answer"])
        text, room = exchange.answer["text"], int(min(until_s - told + 1.0, 6.0) * CHARACTERS_S)
        text = text if len(text) <= room else text[:room].rstrip() + " ..."
        axis.annotate(text, (told + 0.15, 0), va="center", fontsize=8, annotation_clip=False)


def _scan(axis: Any, xyz: npt.NDArray[np.float32], height: npt.NDArray[np.float32], reach: float) -> None:
    near = np.maximum(np.abs(xyz[:, 0]), np.abs(xyz[:, 1])) < reach
    step = max(1, int(near.sum()) // 40000)
    x, y, z = xyz[near, 0][::step], xyz[near, 1][::step], height[near][::step]
    order = np.argsort(z)
    axis.scatter(-y[order], x[order], c=z[order], s=0.5, cmap="viridis", vmin=-0.2, vmax=3.0, linewidths=0)


def _boxes(axis: Any, objects: Sequence[Mapping[str, Any]]) -> None:
    for thing in objects:
        if thing["class"] == "wall":
            continue
        x, y, _ = thing["center_m"]
        length, width, _ = thing["size_m"]
        yaw = math.radians(thing.get("yaw_deg", 0.0))
        along = np.array([math.cos(yaw), math.sin(yaw)]) * max(length, 0.4) / 2
        across = np.array([-math.sin(yaw), math.cos(yaw)]) * max(width, 0.4) / 2
        corners = np.array([x, y]) + np.array([along + across, along - across, -along - across, -along + across])
        colour = KIND.get(thing["class"], INK)
        axis.add_patch(Polygon(np.column_stack([-corners[:, 1], corners[:, 0]]), fill=False, ec=colour, lw=1.4))
        speed = thing.get("velocity_mps", (0.0, 0.0))
        if math.hypot(*speed) > 0.3:
            axis.annotate(
                "", (-y - speed[1], x + speed[0]), (-y, x), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.4}
            )


def _labels(axis: Any, image: Any, reach: float) -> None:
    axis.set_title("segmentation")
    if image is None:
        return
    colours = ListedColormap(np.array(COLOURS) / 255)
    axis.imshow(plane(image), cmap=colours, vmin=-0.5, vmax=len(COLOURS) - 0.5, extent=_extent(reach))
    handles = [Patch(color=tuple(v / 255 for v in c), label=n) for c, n in zip(COLOURS, CLASSES, strict=True)]
    axis.legend(handles=handles, loc="lower center", ncols=3, fontsize=7, framealpha=0.85, handlelength=1)


def _frame(axis: Any, reach: float) -> None:
    axis.set_xlim(-reach, reach)
    axis.set_ylim(-reach, reach)
    axis.set_aspect("equal")
    for side in axis.spines.values():
        side.set_visible(True)
        side.set_color("#c5ccd6")
    axis.set_xticks((-20, 0, 20), ("20 left", "0", "20 right"))
    axis.set_yticks((-20, 0, 20), ("-20", "0", "20 m"))
    axis.plot(0, 0, marker="^", color="#e8384f", ms=5, mec="white", mew=0.5)


def _extent(reach: float) -> tuple[float, float, float, float]:
    return -reach, reach, -reach, reach


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
