# SPDX-License-Identifier: Apache-2.0
"""Simulated sequences as the networks see them, made once and kept in the user's cache.

Run `python -m train.perception.dataset` to make them all, or with `--part 0/2` and `--part 1/2` on two cores.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.bev import MOMENTS
from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.evaluation import Sample, read_samples
from edge_nodes.perception.history import DETAILS, BevHistory
from edge_nodes.perception.transforms import Matrix4
from train.perception.outdoors import on_car, outdoor_scene
from train.perception.scenes import overgrown, random_scene, with_body
from train.perception.sensors import Sensor, outdoor_sensor, random_sensor
from train.perception.simulate import Scan, Scene, cast
from train.perception.truth import truth

FRAMES, LABELLED, PERIOD_S = 20, (15, 17, 19), 0.1
# Made-up streets, yards and corridors; the same overgrown; outdoor scenes; single outdoor stamps.
TRAIN_SEEDS = (*range(10_000, 10_700), *range(20_000, 20_200), *range(30_000, 30_400), *range(40_000, 43_000))
PLAIN_TEST_SEEDS = (*range(90_000, 90_060), *range(95_000, 95_040))
OUTDOOR_TEST_SEEDS = tuple(range(97_000, 97_060))
TEST_SEEDS = (*PLAIN_TEST_SEEDS, *OUTDOOR_TEST_SEEDS)
_HELD_OUT = frozenset(TEST_SEEDS)
VERSION = 4
INTENSITY_FULL = 0.0
"""`bev.intensity_full` of the networks to train; sensors are made with 0 to 255. The shipped ones know no intensity."""
PLAIN = 36 + 2 * (INTENSITY_FULL > 0)
CHANNELS = PLAIN + DETAILS
"""Channels of an input without and with the details, which come last."""


def cache() -> Path:
    """Return the directory of the made sequences."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "edge_nodes" / "train" / f"perception_v{VERSION}{'_intensity' if INTENSITY_FULL else ''}"


def setting(seed: int) -> tuple[Sensor, Scene]:
    """Return sensor and scene of a seed.

    10,000 to 19,999 and 90,000 to 94,999: streets, yards, corridors. 20,000 to 29,999 and 95,000 to 96,999: the same
    overgrown and with the robot's body in view. 30,000 to 49,999 and 97,000 to 99,999: outdoor scenes.
    """
    rng = np.random.default_rng((seed, 1))
    kind = seed // 1000
    if 30 <= kind < 50 or kind >= 97:
        sensor = outdoor_sensor(rng)
        # Some robots with new sensors stay indoors.
        scene = outdoor_scene(seed) if rng.random() < 0.85 else overgrown(random_scene(seed))
        return sensor, on_car(scene, sensor)
    sensor, scene = random_sensor(rng), random_scene(seed)
    if 20 <= kind < 30 or kind >= 95:
        scene = with_body(overgrown(scene), sensor)
    return sensor, scene


def is_stamp(seed: int) -> bool:
    """Return whether a seed is that of a single stamp."""
    return seed // 10_000 == 4


def make(seed: int) -> list[Sample]:
    """Return the samples of one simulated sequence, or of one stamp with hardly any history (40,000 to 49,999)."""
    # Held-out sequences go the way of the nodes; the others are moved by the true motion.
    config = BevConfig(ego_motion="scan" if seed in _HELD_OUT else "odometry", intensity_full=INTENSITY_FULL)
    sensor, scene = setting(seed)
    if is_stamp(seed):
        return _stamp(seed, sensor, scene, replace(config, ego_motion="none"))
    history = BevHistory(config, details=DETAILS)
    scans: list[tuple[float, Scan]] = []
    samples = []
    for frame in range(FRAMES):
        time_s = frame * PERIOD_S
        scans.append((time_s, cast(scene, sensor, time_s)))
        history.ego_motion.poses.add(round(time_s * 1e9), _pose(scene, time_s))
        seen = history.push(points_of(scans[-1][1]), round(time_s * 1e9))
        if frame in LABELLED:
            real = truth(scene, sensor, [scans[i] for i in (frame - 15, frame - 10, frame - 5, frame)], config)
            samples.append(Sample(seen.transpose(2, 0, 1).copy(), *real))
    return samples


def _pose(scene: Scene, time_s: float) -> Matrix4:
    """Return the robot's true pose (4, 4) in the world."""
    x, y, yaw = scene.ego.at(time_s)
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    pose[:2, 3] = x, y
    return pose


def points_of(scan: Scan) -> npt.NDArray[np.float32]:
    """Return the points (N, 4) of a scan that returned."""
    points = scan.cloud.reshape(-1, 4)
    return np.ascontiguousarray(points[np.isfinite(points[:, 0])])


def _stamp(seed: int, sensor: Sensor, scene: Scene, config: BevConfig) -> list[Sample]:
    """Return one scan as it came, and as a poorer sensor had seen it; some repeated as for a robot that stands."""
    rng = np.random.default_rng((seed, 6))
    whole = cast(scene, sensor, 0.0)
    samples = []
    for scan in (whole, thinned(whole, sensor, rng)):
        history = BevHistory(config, details=DETAILS)
        for i in range(1 if rng.random() < 0.7 else config.history):
            seen = history.push(points_of(scan), round(i * PERIOD_S * 1e9))
        samples.append(Sample(seen.transpose(2, 0, 1).copy(), *truth(scene, sensor, [(0.0, scan)], config)))
    return samples


def thinned(scan: Scan, sensor: Sensor, rng: np.random.Generator) -> Scan:
    """Return the scan of a sensor with fewer rings or points."""
    cloud, label, thing = (a.copy() for a in scan)
    if sensor.pattern == "spinning":
        step = int(rng.choice([1, 2, 2, 4] if sensor.rings >= 64 else [1, 1, 2]))
        gone = np.arange(sensor.rings) % step != rng.integers(step)
        lost = np.broadcast_to(gone[:, None], label.shape).copy()
    else:
        lost = np.zeros(label.shape, bool)
    lost |= rng.random(label.shape) < rng.choice([0.05, 0.2, 0.4])
    cloud[lost], label[lost], thing[lost] = np.nan, 0, -1
    return Scan(cloud, label, thing)


def load(seed: int) -> list[Sample]:
    """Return the samples of `seed`, made now if they are not in the cache."""
    path = cache() / f"{seed}.npz"
    if not path.is_file():
        cache().mkdir(parents=True, exist_ok=True)
        samples = make(seed)
        fields = {name: np.stack([getattr(s, name) for s in samples]) for name in Sample._fields}
        packed = {k: np.packbits(v, -1) if v.dtype == bool else v for k, v in fields.items()}
        np.savez_compressed(path.with_suffix(".tmp.npz"), **packed)
        path.with_suffix(".tmp.npz").rename(path)
    return read_samples(path)


def unpacked(seed: int) -> list[npt.NDArray[np.uint8]]:
    """Return the samples of `seed` as (H, W, channels + 4) each: the input, label, occupied, forecast, known.

    They are mapped from a file next to the packed one, made now if it is not there: 3 MB a sample, read in no time.
    """
    path = cache() / "unpacked" / f"{seed}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = [np.concatenate([s.input, np.stack(s[1:]).astype(np.uint8)]).transpose(1, 2, 0) for s in load(seed)]
        np.save(path.with_suffix(f".{os.getpid()}.npy"), np.stack(made))
        path.with_suffix(f".{os.getpid()}.npy").rename(path)
    return list(np.load(path, mmap_mode="r"))


def turned(sample: npt.NDArray[np.uint8], turns: int, *, mirror: bool) -> npt.NDArray[np.uint8]:
    """Return a sample as `unpacked` gives it after `turns` quarter turns to the left, then perhaps mirrored."""
    out = np.rot90(sample, turns)
    out = (out[:, ::-1] if mirror else out).copy(order="C")
    moments = out[..., PLAIN : PLAIN + MOMENTS]
    row, column, both, spread, other, top = np.moveaxis(moments, -1, 0).copy()
    for _ in range(turns % 4):
        # What lay along columns lies against rows now; codes of uint8 change their sign as its numbers do.
        row, column, both, spread, other = -column, row, -both, other, spread
    moments[:] = np.stack([row, -column if mirror else column, -both if mirror else both, spread, other, top], -1)
    return out


def available(seeds: Iterable[int]) -> list[int]:
    """Return the seeds that are in the cache."""
    return [s for s in seeds if (cache() / f"{s}.npz").is_file()]


def samples(seeds: Iterable[int]) -> Iterator[Sample]:
    """Yield the samples of all seeds in order."""
    for seed in seeds:
        yield from load(seed)


def held_out() -> dict[str, Iterator[Sample]]:
    """Return the held-out samples by kind: scenes as the first networks learned them, and outdoor scenes."""
    return {"plain scenes": samples(PLAIN_TEST_SEEDS), "outdoor scenes": samples(OUTDOOR_TEST_SEEDS)}


def main() -> None:
    """Make every sequence that is not there yet; several processes share the work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="0/1", metavar="I/N", help="make every N-th sequence, from the I-th on")
    part, parts = map(int, parser.parse_args().part.split("/"))
    mixed = np.random.default_rng(0).permutation(TRAIN_SEEDS).tolist()
    for count, seed in enumerate([*TEST_SEEDS, *mixed][part::parts]):
        load(seed)
        if count % 20 == 0:
            print(f"{count} sequences, seed {seed}", flush=True)


if __name__ == "__main__":
    main()
