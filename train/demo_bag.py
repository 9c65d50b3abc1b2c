# SPDX-License-Identifier: Apache-2.0
"""Makes config/demo/demo.mcap: real scans, then a simulated scene, with spoken questions in the same timeline.

    python -m train.demo_bag --real ouster_OS-1-128_v2.3.0_1024x10_lb_n3.npz

A standing sensor sees the same background in each simulated scan, to the byte: it was cast once, noise included. One
chunk of the file holds many scans and is compressed with a window of 128 MiB, so only what moves takes room.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from edge_nodes.bags import BagWriter, long_window, serialize
from edge_nodes.pipeline import header
from train.perception.sensors import Sensor
from train.perception.simulate import Motion, Scan, Scene, Thing, cast

FOLDER = Path(__file__).resolve().parent.parent / "config" / "demo"
START_NS = 1_767_225_600 * 1_000_000_000
PERIOD_NS = 100_000_000
STEP_M = 1 / 256
"""Coordinates are multiples of this: their float32 then ends in zero bits, which compress."""
REAL_S = 6.0
GAP_S = 1.2
RATE_HZ = 16000
CHUNK_SAMPLES = 1600
NOISE_RMS = 6.0
SEED = 7
Cloud = npt.NDArray[np.float32]


class Timed(NamedTuple):
    """One message of the bag."""

    time_ns: int
    topic: str
    type: str
    data: bytes


def load_real(path: Path) -> list[Cloud]:
    """Return the (N, 4) clouds of a packed file: x, y, z (m), intensity (0..255)."""
    packed = np.load(path)
    low, high = packed["xyz_delta_lo"].astype(np.uint16), packed["xyz_delta_hi"].astype(np.uint16)
    counts = np.cumsum((low | (high << 8)).view(np.int16), axis=1, dtype=np.int16).T
    xyz = counts.astype(np.float32) * packed["resolution_m"]
    ends = packed["offsets"]
    return [tidy(np.column_stack([xyz[a:b], packed["intensity"][a:b]])) for a, b in pairwise(ends)]


def tidy(cloud: npt.NDArray[Any]) -> Cloud:
    """Round coordinates to `STEP_M` and intensity to whole numbers."""
    out = np.empty(cloud.shape, np.float32)
    out[..., :3] = np.round(cloud[..., :3] / STEP_M) * STEP_M
    out[..., 3] = np.round(cloud[..., 3])
    return out


def real_scans(clouds: list[Cloud], seconds: float) -> Iterator[Cloud]:
    """Yield the clouds forwards and backwards, as if the car went back and forth."""
    order = [*range(len(clouds)), *range(len(clouds) - 2, 0, -1)]
    for i in range(round(seconds * 1e9 / PERIOD_NS)):
        yield clouds[order[i % len(order)]]


def _house(x: float, y: float, size: tuple[float, float, float], shade: float) -> list[Thing]:
    """Return the four walls of a house around (x, y)."""
    length, width, height = size
    sides = ((0, -1, length, 0), (0, 1, length, 0), (-1, 0, width, 1), (1, 0, width, 1))
    return [
        Thing(
            "wall",
            Motion(x + u * length / 2, y + v * width / 2, turn * math.pi / 2),
            (extent, 0.3, height),
            reflectivity=shade,
        )
        for u, v, extent, turn in sides
    ]


def scene() -> Scene:
    """Return a courtyard with a lane through it: a car comes towards the robot and passes, persons walk."""
    still = [
        *_house(2, 14, (46, 6, 8), 0.5),
        *_house(4, -15.5, (40, 6, 7), 0.35),
        *_house(31, -3, (6, 8, 9), 0.6),
        *_house(-24, 0, (6, 14, 8), 0.45),
        Thing("car", Motion(9.0, -5.2, 0.03), reflectivity=0.5),
        Thing("car", Motion(15.5, -5.3, -0.02), (4.7, 1.85, 1.6), reflectivity=0.2),
        Thing("van", Motion(-8.5, -5.1, 0.0), reflectivity=0.7),
        Thing("pole", Motion(6.5, 7.2), (0.2, 0.2, 6.0), reflectivity=0.4),
        Thing("pole", Motion(-6.0, 7.2), (0.2, 0.2, 6.0), reflectivity=0.4),
        Thing("tree", Motion(12.0, 8.6), (3.0, 3.0, 5.0), reflectivity=0.5),
        Thing("bush", Motion(-3.0, 8.8), (3.0, 1.2, 1.1), reflectivity=0.5),
        Thing("cylinder", Motion(3.0, 7.6), (0.6, 0.6, 1.1), reflectivity=0.3),
        Thing("bench", Motion(0.0, 9.2), reflectivity=0.3),
    ]
    moving = [
        # Comes down the lane on the left, stops beside the robot, drives on.
        Thing(
            "car",
            Motion(
                path=((0, 27, 2.6), (8, 27, 2.6), (15.5, 0.3, 2.8), (19.5, 0.3, 2.8), (23, -13, 2.8), (60, -13, 2.8))
            ),
        ),
        # Crosses ahead from right to left, then waits at the wall.
        Thing("person", Motion(path=((0, 6.0, -3.8), (6.5, 5.6, 4.6), (9, 5.2, 6.4), (60, 5.2, 6.4)))),
        # Waits on the right, walks up to the robot, stands close ahead.
        Thing("person", Motion(path=((0, 3.6, -7.0), (14, 3.6, -7.0), (20, 1.7, -0.3), (60, 1.7, -0.3)), yaw=1.6)),
        # Walks along the house on the left, away.
        Thing("person", Motion(path=((0, -12, 8.0), (30, 22, 8.4)))),
    ]
    return Scene((*still, *moving), seed=SEED)


SENSOR = Sensor(rings=128, columns=1024, elevation_deg=(-24.0, 12.0), height=1.1, noise_m=0.012, dropout=0.01)


def simulated_scans(seconds: float) -> Iterator[Cloud]:
    """Yield (128, 1024, 4) scans; only the rays that hit something moving change."""
    whole = scene()
    still = Scene(tuple(t for t in whole.things if not t.motion.moves), seed=SEED)
    background = tidy(cast(still, SENSOR, 0.0).cloud)
    movers = [i for i, t in enumerate(whole.things) if t.motion.moves]
    sensor = dataclasses.replace(SENSOR, dropout=0.0)
    seen: dict[int, tuple[Any, Scan]] = {}
    for i in range(round(seconds * 1e9 / PERIOD_NS)):
        now = i * PERIOD_NS / 1e9
        scan = cast(_standing(whole, movers, now), sensor, now)
        cloud = np.where(np.isin(scan.thing, movers)[..., None], tidy(scan.cloud), background)
        for k in movers:
            pose = whole.things[k].motion.at(now)
            if k in seen and seen[k][0] == pose:
                same = (scan.thing == k) & (seen[k][1].thing == k)
                cloud[same] = tidy(seen[k][1].cloud[same])
            else:
                seen[k] = (pose, scan)
        yield cloud


def _standing(whole: Scene, movers: list[int], now: float) -> Scene:
    """Return the scene in which whoever stands at `now` does not walk on the spot."""
    things = list(whole.things)
    for k in movers:
        motion = things[k].motion
        pose = motion.at(now)
        if pose == motion.at(now + 0.1) or pose == motion.at(now - 0.1):
            things[k] = dataclasses.replace(things[k], motion=Motion(*pose))
    return Scene(tuple(things), seed=whole.seed)


def point_cloud(time_ns: int, cloud: Cloud) -> bytes:
    """Return a serialized sensor_msgs/PointCloud2 of float32 x, y, z, intensity."""
    height, width = cloud.shape[:2] if cloud.ndim == 3 else (1, len(cloud))
    names = ("x", "y", "z", "intensity")
    fields = {
        "header": header(time_ns, "lidar"),
        "height": height,
        "width": width,
        "fields": [{"name": n, "offset": 4 * i, "datatype": 7, "count": 1} for i, n in enumerate(names)],
        "point_step": 16,
        "row_step": 16 * width,
        "data": cloud,
        "is_dense": bool(np.isfinite(cloud).all()),
    }
    return serialize("sensor_msgs/PointCloud2", fields)


def scans(real: Path, end_s: float) -> Iterator[Timed]:
    """Yield the clouds of the bag."""
    first = START_NS
    for i, cloud in enumerate(real_scans(load_real(real), REAL_S)):
        time_ns = first + i * PERIOD_NS
        yield Timed(time_ns, "/points", "sensor_msgs/PointCloud2", point_cloud(time_ns, cloud))
    first += round((REAL_S + GAP_S) * 1e9)
    for i, cloud in enumerate(simulated_scans(end_s - REAL_S - GAP_S)):
        time_ns = first + i * PERIOD_NS
        yield Timed(time_ns, "/points", "sensor_msgs/PointCloud2", point_cloud(time_ns, cloud))


def sound(clips: list[dict[str, Any]], end_s: float, folder: Path = FOLDER) -> Iterator[Timed]:
    """Yield the sound of the bag: the clips at their times in faint noise."""
    rng = np.random.default_rng(SEED)
    track = rng.normal(0, NOISE_RMS, round(end_s * RATE_HZ))
    for clip in clips:
        samples, rate = soundfile.read(folder / clip["file"], dtype="float32")
        if rate != RATE_HZ:
            raise SystemExit(f"{clip['file']}: {rate} Hz, expected {RATE_HZ}")
        at = round(clip["time_s"] * RATE_HZ)
        track[at : at + len(samples)] += samples[: len(track) - at] * 32767
    pcm = np.clip(np.round(track), -32768, 32767).astype(np.int16)
    for i in range(0, len(pcm) - CHUNK_SAMPLES + 1, CHUNK_SAMPLES):
        dims = (("samples", CHUNK_SAMPLES, CHUNK_SAMPLES), ("channels", 1, 1), ("rate_hz", RATE_HZ, 1))
        layout = {"dim": [{"label": n, "size": size, "stride": stride} for n, size, stride in dims], "data_offset": 0}
        data = serialize("std_msgs/Int16MultiArray", {"layout": layout, "data": pcm[i : i + CHUNK_SAMPLES]})
        # A chunk is there when its last sample was taken.
        time_ns = START_NS + (i + CHUNK_SAMPLES) * 1_000_000_000 // RATE_HZ
        yield Timed(time_ns, "/audio", "std_msgs/Int16MultiArray", data)


def build(out: Path, messages: list[Timed], chunk_bytes: int, level: int) -> None:
    """Write the messages in the order of their times."""
    with BagWriter(out, chunk_bytes=chunk_bytes, compressor=long_window(level)) as writer:
        for message in sorted(messages, key=lambda m: m.time_ns):
            writer.write(message.topic, message.type, message.time_ns, message.data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="packed frames of the OS-1-128")
    parser.add_argument("--out", type=Path, default=FOLDER / "demo.mcap")
    parser.add_argument("--chunk-mb", type=int, default=126)
    parser.add_argument("--level", type=int, default=19)
    parser.add_argument("--seconds", type=float, help="shorter than demo.json says")
    args = parser.parse_args()
    timeline = json.loads((FOLDER / "demo.json").read_text())
    end_s = args.seconds or timeline["end_s"]
    messages = [*scans(args.real, end_s), *sound(timeline["speech"], end_s)]
    build(args.out, messages, args.chunk_mb << 20, args.level)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {len(messages)} messages, {end_s:.1f} s")


if __name__ == "__main__":
    main()
