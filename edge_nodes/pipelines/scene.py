# SPDX-License-Identifier: Apache-2.0
"""What scene_node does: joins both networks' maps and the cloud by stamp; objects, text and events out."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_nodes import events
from edge_nodes.perception.config import MOTION_TOPICS, SceneConfig
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.pipeline import Output, Pipeline, Progress, header, stamp_ns

if TYPE_CHECKING:
    from edge_nodes.perception.scene import SceneBuilder, SceneObject, SceneState

LABELS, OCCUPANCY, FORECAST, POINTS = (
    "segmentation/labels",
    "reconstruction/occupancy",
    "reconstruction/forecast",
    "points",
)
OBJECTS, TEXT, EVENT = "scene/objects", "scene/text", "scene/event"
_PARTS = frozenset((LABELS, OCCUPANCY, FORECAST, POINTS))
_COLORS = {"vehicle": (0.2, 0.5, 1.0), "person": (1.0, 0.25, 0.2), "obstacle": (1.0, 0.75, 0.1)}
_CUBE, _TEXT, _ADD, _DELETE_ALL = 1, 9, 0, 3


class ScenePipeline(Pipeline[SceneConfig]):
    """segmentation/labels, reconstruction/*, points, odometry -> scene/objects, scene/text, scene/event."""

    config_type = SceneConfig
    early = MOTION_TOPICS

    def __init__(self, config: SceneConfig) -> None:
        super().__init__(config)
        self._builder: SceneBuilder | None = None
        self._waiting: dict[int, dict[str, Any]] = {}
        self._newest_ns = -1
        self._sequence = 0
        self._joined = self._late = self._incomplete = 0

    def load(self, progress: Progress) -> None:
        """See `Pipeline.load`."""
        from edge_nodes.perception.scene import SceneBuilder

        progress("scene: no model to load")
        self._builder = SceneBuilder(self.config)
        self._waiting, self._newest_ns = {}, -1

    def arrived(self, topic: str, message: Any, *, received_ns: int) -> bool:
        """Remember how the robot moves."""
        if self._builder is not None:
            self._builder.ego_motion.take(topic, message)
        return True

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """See `Pipeline.process`; an output comes once the last part of a stamp is there."""
        from edge_nodes.perception.cloud import decode

        if self._builder is None or topic not in _PARTS:
            return
        if not {OBJECTS, TEXT, EVENT} & set(wanted):
            self._waiting.clear()
            return
        time_ns = stamp_ns(message.header.stamp)
        # Unusable parts are refused before they can be waited for.
        part = message if topic == POINTS else _plane(message, "mono8" if topic == LABELS else "32FC1")
        parts = self._join(topic, part, time_ns)
        if parts is None:
            return
        begin = time.perf_counter()
        cloud, frame = decode(parts[POINTS]), parts[POINTS].header.frame_id
        self._builder.ego_motion.sensor_frame = frame
        state = self._builder.update(parts[LABELS], parts[OCCUPANCY], parts[FORECAST], cloud.xyz, stamp_ns=time_ns)
        latency = {
            "scene": (time.perf_counter() - begin) * 1e3,
            # Stamps of another clock than the node's give no age.
            "since_stamp": max(0.0, (received_ns - time_ns) / 1e6),
        }
        yield from self._outputs(state, time_ns, frame, latency, wanted)
        self._sequence += 1

    def _join(self, topic: str, part: Any, time_ns: int) -> dict[str, Any] | None:
        """Keep one part; return all parts of its stamp once they are there."""
        if self._newest_ns - time_ns > 5_000_000_000:
            # Time went back: a bag was started again.
            self._waiting, self._newest_ns = {}, -1
        if time_ns <= self._newest_ns:
            self._late += 1
            return None
        parts = self._waiting.setdefault(time_ns, {})
        parts[topic] = part
        if set(parts) == _PARTS:
            self._joined += 1
            self._newest_ns = time_ns
            self._incomplete += sum(t < time_ns for t in self._waiting)
            self._waiting = {t: p for t, p in self._waiting.items() if t > time_ns}
            return parts
        while len(self._waiting) > self.config.wait_frames:
            del self._waiting[min(self._waiting)]
            self._incomplete += 1
        return None

    def _outputs(
        self, state: SceneState, time_ns: int, frame: str, latency: dict[str, float], wanted: Collection[str]
    ) -> Iterator[Output]:
        if EVENT in wanted:
            event = scene_event(state, time_ns, frame, self._sequence, latency)
            yield Output(EVENT, {"data": events.encode(event)})
        if TEXT in wanted:
            alarm = f"ALARM: {state.alarm.text} " if state.alarm else ""
            yield Output(TEXT, {"data": alarm + state.text})
        if OBJECTS in wanted:
            yield Output(OBJECTS, {"markers": markers(state.objects, time_ns, frame)})

    def reads(self, topic: str) -> bool:
        """See `Pipeline.reads`."""
        return topic not in MOTION_TOPICS or self.config.bev.reads(topic)

    def update(self, config: SceneConfig) -> None:
        """See `Pipeline.update`."""
        super().update(config)
        if self._builder is not None:
            self._builder.configure(config)

    def status(self) -> Mapping[str, str | int | float]:
        """See `Pipeline.status`."""
        return {
            "joined": self._joined,
            "late_parts": self._late,
            "incomplete_stamps": self._incomplete,
            "waiting_stamps": len(self._waiting),
        }

    def close(self) -> None:
        """See `Pipeline.close`."""
        self._builder = None
        self._waiting = {}


def _plane(message: Any, encoding: str) -> np.ndarray[Any, Any]:
    """Return the (H, W) values of a sensor_msgs/Image of one channel."""
    if message.encoding != encoding:
        raise PerceptionError("an image has the wrong encoding", got=message.encoding, expected=encoding)
    dtype = np.dtype("u1" if encoding == "mono8" else (">f4" if message.is_bigendian else "<f4"))
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(bytes(message.data) if isinstance(message.data, list) else message.data, np.uint8)
    if height * width == 0 or step < width * dtype.itemsize or data.size < height * step:
        raise PerceptionError(
            "an image's data do not fit its size",
            got=f"{data.size} bytes, step {step}",
            expected=f"{height} x {width} {encoding}, step >= {width * dtype.itemsize}",
        )
    rows = data[: height * step].reshape(height, step)[:, : width * dtype.itemsize]
    values = np.ascontiguousarray(rows).view(dtype)
    return values if encoding == "mono8" else values.astype(np.float32, copy=False)


def scene_event(
    state: SceneState, time_ns: int, frame_id: str, sequence: int, latency_ms: Mapping[str, float]
) -> dict[str, Any]:
    """Return the event of a scene as `events.SCENE` describes it."""
    return {
        "schema": "edge_nodes/scene/1",
        "stamp_ns": time_ns,
        "sequence": sequence,
        "latency_ms": {name: round(value, 2) for name, value in latency_ms.items()},
        "frame_id": frame_id,
        "objects": [_object(thing) for thing in state.objects],
        "free_m": {name: round(value, 2) for name, value in state.free_m.items()},
        "text": state.text,
        "alarm": None if state.alarm is None else {"text": state.alarm.text, "object": state.alarm.object},
    }


def _object(thing: SceneObject) -> dict[str, Any]:
    return {
        "id": thing.id,
        "class": thing.kind,
        "range_m": round(thing.range_m, 2),
        "bearing_deg": round(thing.bearing_deg, 1),
        "center_m": [round(v, 2) for v in thing.center_m],
        "size_m": [round(v, 2) for v in thing.size_m],
        "yaw_deg": round(thing.yaw_deg, 1),
        "speed_mps": round(thing.speed_mps, 2),
        "velocity_mps": [round(v, 2) for v in thing.velocity_mps],
        "confidence": round(thing.confidence, 3),
        "age_s": round(thing.age_s, 2),
    }


def markers(objects: Collection[SceneObject], time_ns: int, frame_id: str) -> list[dict[str, Any]]:
    """Return the markers of a scene: one that clears the old ones, then a box and a caption for each object."""
    head = header(time_ns, frame_id)
    out: list[dict[str, Any]] = [{"header": head, "action": _DELETE_ALL}]
    for thing in objects:
        x, y, z = thing.center_m
        half = math.radians(thing.yaw_deg) / 2
        red, green, blue = _COLORS[thing.kind]
        caption = f"{thing.kind} {thing.id}  {thing.range_m:.1f} m"
        if thing.speed_mps:
            caption += f"  {thing.speed_mps:.1f} m/s"
        common = {"header": head, "id": thing.id, "action": _ADD}
        out.append(
            common
            | {
                "ns": "boxes",
                "type": _CUBE,
                "pose": {
                    "position": {"x": x, "y": y, "z": z},
                    "orientation": {"x": 0.0, "y": 0.0, "z": math.sin(half), "w": math.cos(half)},
                },
                "scale": dict(zip("xyz", thing.size_m, strict=True)),
                "color": {"r": red, "g": green, "b": blue, "a": 0.45},
            }
        )
        out.append(
            common
            | {
                "ns": "captions",
                "type": _TEXT,
                "pose": {
                    "position": {"x": x, "y": y, "z": z + thing.size_m[2] / 2 + 0.3},
                    "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
                },
                "scale": {"x": 0.0, "y": 0.0, "z": 0.4},
                "color": {"r": 1.0, "g": 1.0, "b": 1.0, "a": 0.95},
                "text": caption,
            }
        )
    return out
