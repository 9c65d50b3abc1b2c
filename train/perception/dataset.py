# SPDX-License-Identifier: Apache-2.0
"""Simulated sequences as the networks see them, made once and kept in the user's cache.

Run `python -m train.perception.dataset` to make them all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.bev import BevHistory
from edge_nodes.perception.config import BevConfig
from edge_nodes.perception.evaluation import Sample, read_samples
from edge_nodes.perception.grid import moved
from train.perception.scenes import overgrown, random_scene, random_sensor, with_body
from train.perception.simulate import Motion, Scan, cast
from train.perception.truth import truth

FRAMES, LABELLED, PERIOD_S = 20, (15, 17, 19), 0.1
TRAIN_SEEDS = (*range(10_000, 10_700), *range(20_000, 20_200))
TEST_SEEDS = (*range(90_000, 90_060), *range(95_000, 95_040))
_HELD_OUT, _ROUGH = frozenset(TEST_SEEDS), {4, 19}
VERSION = 1


def cache() -> Path:
    """Return the directory of the made sequences."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "edge_nodes" / "train" / f"perception_v{VERSION}"


def make(seed: int) -> list[Sample]:
    """Return the samples of one simulated sequence.

    Seeds 20,000 to 24,999 and 95,000 to 99,999 give rough scenes: overgrown, and with the robot's body in view.
    """
    # Held-out sequences go the way of the nodes; the others are moved by the true motion when they are loaded.
    config = BevConfig(ego_motion="scan" if seed in _HELD_OUT else "none")
    rng = np.random.default_rng((seed, 1))
    sensor, scene = random_sensor(rng), random_scene(seed)
    if seed % 100_000 // 5_000 in _ROUGH:
        scene = with_body(overgrown(scene), sensor)
    history = BevHistory(config)
    scans: list[tuple[float, Scan]] = []
    samples = []
    for frame in range(FRAMES):
        time_s = frame * PERIOD_S
        scans.append((time_s, cast(scene, sensor, time_s)))
        points = scans[-1][1].cloud.reshape(-1, 4)[:, :3]
        points = np.ascontiguousarray(points[np.isfinite(points[:, 0])])
        seen = history.push(points, round(time_s * 1e9))
        if frame in LABELLED:
            real = truth(scene, sensor, [scans[i] for i in (frame - 15, frame - 10, frame - 5, frame)], config)
            samples.append(Sample(seen.transpose(2, 0, 1).copy(), *real))
    return samples


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
    samples = read_samples(path)
    if seed not in _HELD_OUT:
        ego = random_scene(seed).ego
        for frame, sample in zip(LABELLED, samples, strict=True):
            _follow(sample.input, ego, frame)
    return samples


def _follow(maps: npt.NDArray[np.uint8], ego: Motion, frame: int) -> None:
    """Move the older maps of an input (36, H, W) into the newest scan's frame, in place."""
    if not ego.moves:
        return
    config = BevConfig()
    x, y, yaw = ego.at(frame * PERIOD_S)
    for age in range(1, config.history):
        px, py, pyaw = ego.at((frame - age) * PERIOD_S)
        c, s = math.cos(pyaw), math.sin(pyaw)
        way = (c * (x - px) + s * (y - py), -s * (x - px) + c * (y - py), yaw - pyaw)
        for channel in (4 + 2 * age, 5 + 2 * age):
            maps[channel] = moved(maps[channel], *way, config)


def available(seeds: Iterable[int]) -> list[int]:
    """Return the seeds that are in the cache."""
    return [s for s in seeds if (cache() / f"{s}.npz").is_file()]


def samples(seeds: Iterable[int]) -> Iterator[Sample]:
    """Yield the samples of all seeds in order."""
    for seed in seeds:
        yield from load(seed)


def main() -> None:
    """Make every sequence that is not there yet."""
    for count, seed in enumerate((*TEST_SEEDS, *TRAIN_SEEDS)):
        load(seed)
        if count % 20 == 0:
            print(f"{count} sequences, seed {seed}", flush=True)


if __name__ == "__main__":
    main()
