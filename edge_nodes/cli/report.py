# SPDX-License-Identifier: Apache-2.0
"""report.html: one self-contained page about a run, with pictures of what was seen and a transcript."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import psutil

from edge_nodes import __version__
from edge_nodes.bags import BagReader, map_topics, stamp_ns
from edge_nodes.cli import measure
from edge_nodes.cli.session import description
from edge_nodes.language.kernel_choice import cpu_name

MOMENTS = 4
IMAGES = ("segmentation/labels", "reconstruction/occupancy", "reconstruction/forecast")
EVENTS = ("scene/event", "speech/event", "language/event")


@dataclass
class Moment:
    """What was there at one stamp: the cloud and all outputs about it."""

    stamp_ns: int
    cloud: Any = None
    images: dict[str, Any] = field(default_factory=dict)
    scene: dict[str, Any] = field(default_factory=dict)


@dataclass
class Exchange:
    """One utterance and what came of it; times in seconds of the bag.

    Attributes:
        heard: the speech event.
        partials: hypotheses before it.
        said: what was really said, where the bag's description tells, and by whom.
        answer: the language event, if there was one.
    """

    heard: dict[str, Any]
    partials: list[str]
    said: Mapping[str, Any]
    answer: dict[str, Any] | None


def write(
    path: Path,
    *,
    bag: Path,
    recording: Path,
    measurements: Mapping[str, Any] | None = None,
    topics: Mapping[str, str] | None = None,
) -> None:
    """Write the page.

    Args:
        path: the .html file.
        bag: what was played.
        recording: what the nodes put out.
        measurements: what `nodes.monitor` measured, None after a replay.
        topics: {recorded name: topic of the graph} of the bag; None finds them.

    Raises:
        BagError: one of the bags cannot be read.
    """
    from edge_nodes.cli import pictures

    about = description(bag)
    with BagReader(bag) as reader:
        start_ns, end_ns = reader.start_ns, reader.end_ns
        mapping = topics or map_topics(reader.topics, {})
    events = _events(recording)
    talk = exchanges(events, about, start_ns)
    moments = _moments(bag, recording, mapping, _stamps(events, talk))
    rows = measure.rows(measurements) if measurements else []
    page = _template().render(
        about=about,
        bag=bag.name,
        version=__version__,
        length_s=(end_ns - start_ns) / 1e9,
        machine=machine(),
        rows=rows,
        replay=measurements is None,
        first_word=_stat(measurements["first_word_ms"]) if measurements else None,
        both=_stat(measure.both_outputs_ms(measurements)) if measurements else None,
        moments=[
            {
                "time_s": (m.stamp_ns - start_ns) / 1e9,
                "real": _part(about, (m.stamp_ns - start_ns) / 1e9).get("real"),
                "picture": pictures.moment(m),
                "objects": m.scene.get("objects", [])[:8],
                "more": max(0, len(m.scene.get("objects", [])) - 8),
                "text": m.scene.get("text", ""),
                "alarm": (m.scene.get("alarm") or {}).get("text", ""),
            }
            for m in moments
        ],
        talk=talk,
        seconds=lambda ns: (ns - start_ns) / 1e9,
        timeline=pictures.timeline(events, about, talk, start_ns, end_ns),
        latency=pictures.latency(measurements) if measurements else "",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def exchanges(
    events: Mapping[str, Sequence[dict[str, Any]]], about: Mapping[str, Any], start_ns: int
) -> list[Exchange]:
    """Return the utterances in order, each with its answer."""
    out: list[Exchange] = []
    partials: list[str] = []
    answers = list(events["language/event"])
    for event in events["speech/event"]:
        if event["kind"] == "start":
            partials = []
        elif event["kind"] == "partial" and event["text"] and event["text"] not in partials:
            partials.append(event["text"])
        elif event["kind"] == "final":
            answer = next((a for a in answers if _answers(a, event)), None)
            if answer is not None:
                answers.remove(answer)
            if event.get("replaces") and out and out[-1].heard["start_ns"] == event["start_ns"]:
                out.pop()
            out.append(Exchange(event, partials, _said(about, event, start_ns), answer))
            partials = []
    return out


def _answers(answer: Mapping[str, Any], heard: Mapping[str, Any]) -> bool:
    request = answer["request"]
    return bool(request["source"] == "speech" and request["text"] == heard["text"] and heard["text"])


def _said(about: Mapping[str, Any], heard: Mapping[str, Any], start_ns: int) -> Mapping[str, Any]:
    begin_s, end_s = ((heard[key] - start_ns) / 1e9 for key in ("start_ns", "end_ns"))
    for clip in about.get("speech", ()):
        if clip["time_s"] < end_s and begin_s < clip["time_s"] + clip.get("length_s", 3.0):
            return dict(clip)
    return {}


def _events(recording: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {topic: [] for topic in EVENTS}
    with BagReader(recording) as reader:
        for message in reader.messages(["/" + topic for topic in EVENTS]):
            event = json.loads(reader.deserialize(message).data)
            found[message.topic.lstrip("/")].append({**event, "recorded_ns": message.time_ns})
    return found


def _stamps(
    events: Mapping[str, Sequence[dict[str, Any]]],
    talk: Sequence[Exchange],
) -> list[int]:
    """Return the stamps to draw: those at which questions were asked, and more if these are few."""
    stamps = sorted({event["stamp_ns"] for event in events["scene/event"]})
    if not stamps:
        return []
    wanted = [exchange.heard["end_ns"] for exchange in talk if exchange.heard["text"]]
    if len(wanted) < MOMENTS:
        wanted += [stamps[(2 * i + 1) * len(stamps) // (2 * MOMENTS)] for i in range(MOMENTS - len(wanted))]
    nearest = {min(stamps, key=lambda s, w=w: abs(s - w)) for w in wanted}  # type: ignore[misc]
    return sorted(nearest)


def _moments(bag: Path, recording: Path, mapping: Mapping[str, str], stamps: Sequence[int]) -> list[Moment]:
    moments = {stamp: Moment(stamp) for stamp in stamps}
    for message, reader in _stamped(recording, ["/" + topic for topic in IMAGES], moments):
        moments[stamp_ns(message.data)].images[message.topic.lstrip("/")] = reader.deserialize(message)
    with BagReader(recording) as reader:
        for message in reader.messages(["/scene/event"]):
            event = json.loads(reader.deserialize(message).data)
            if event["stamp_ns"] in moments:
                moments[event["stamp_ns"]].scene = event
    clouds = [name for name, topic in mapping.items() if topic == "points"]
    for message, reader in _stamped(bag, clouds, moments):
        moments[stamp_ns(message.data)].cloud = reader.deserialize(message)
    return [m for m in moments.values() if m.cloud is not None]


def _stamped(path: Path, topics: Sequence[str], stamps: Mapping[int, Moment]) -> Iterator[tuple[Any, BagReader]]:
    """Yield the messages whose header has one of the stamps, without reading the others."""
    if not topics or not stamps:
        return
    with BagReader(path) as reader:
        for message in reader.messages(topics):
            if stamp_ns(message.data) in stamps:
                yield message, reader


def _part(about: Mapping[str, Any], time_s: float) -> Mapping[str, Any]:
    parts = [p for p in about.get("parts", ()) if p["from_s"] <= time_s < p["to_s"]]
    return parts[0] if parts else {}


def _stat(samples: Sequence[float]) -> dict[str, Any] | None:
    if not samples:
        return None
    return {"p50": measure.percentile(samples, 50), "p95": measure.percentile(samples, 95), "count": len(samples)}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "report.html"
    )
