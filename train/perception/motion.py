# SPDX-License-Identifier: Apache-2.0
"""How well scan matching finds the motion: on simulated scans the truth is known, on recorded ones Open3D says it.

python -m train.perception.motion [--real PACK...]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open3d as o3d

from edge_nodes.perception.frames import read_frames
from edge_nodes.perception.ground import GroundEstimator
from edge_nodes.perception.odometry import Motion2, ScanOdometry, standing_points
from train.perception.dataset import FRAMES, OUTDOOR_TEST_SEEDS, PERIOD_S, PLAIN_TEST_SEEDS, points_of, setting
from train.perception.simulate import Motion, cast

AGES = FRAMES - 5
"""Steps that are added up: those that the oldest map of a history has gone."""
Scans = Iterable[npt.NDArray[np.float32]]


def found(scans: Scans) -> Iterator[Motion2]:
    """Yield the motion from each scan to the next as the nodes find it."""
    estimator, odometry = GroundEstimator(32.0), ScanOdometry()
    for i, xyz in enumerate(scans):
        motion = odometry.update(standing_points(xyz, estimator.estimate(xyz)), PERIOD_S)
        if i:
            yield motion


def between(ego: Motion, before_s: float, now_s: float) -> Motion2:
    """Return the true motion from one time to another."""
    (px, py, pyaw), (x, y, yaw) = ego.at(before_s), ego.at(now_s)
    return Motion2(px, py, pyaw).inverse().then(Motion2(x, y, yaw))


def registered(scans: Scans, guesses: Iterable[Motion2]) -> Iterator[Motion2]:
    """Yield the motion from each scan to the next as Open3D's point-to-plane ICP finds it, in six dimensions."""
    o3 = o3d.pipelines.registration
    estimation, criteria = o3.TransformationEstimationPointToPlane(o3.TukeyLoss(0.2)), o3.ICPConvergenceCriteria()
    before = None
    waiting = iter(guesses)
    for xyz in scans:
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz.astype(float))).voxel_down_sample(0.3)
        cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(1.0, 20))
        if before is not None:
            guess, pose = next(waiting), np.eye(4)
            c, s = math.cos(guess.yaw), math.sin(guess.yaw)
            pose[:2, :2], pose[:2, 3] = [[c, -s], [s, c]], guess[:2]
            for reach in (1.0, 0.3):
                pose = o3.registration_icp(cloud, before, reach, pose, estimation, criteria).transformation
            yield Motion2(pose[0, 3], pose[1, 3], math.atan2(pose[1, 0], pose[0, 0]), True)
        before = cloud


def apart(a: Motion2, b: Motion2) -> tuple[float, float]:
    """Return how far two motions end apart, m and degrees."""
    return math.hypot(a.x - b.x, a.y - b.y), abs(math.degrees(a.yaw - b.yaw))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, nargs="*", default=[], metavar="PACK", help="recorded sequences")
    for path in parser.parse_args().real:
        scans = [frame.xyz for frame in read_frames(path)]
        motions = list(found(scans))
        off = np.array([apart(a, b) for a, b in zip(motions, registered(scans, motions), strict=True)])
        lost = sum(not m.trusted for m in motions)
        print(
            f"{path.stem}: {len(off)} steps, {lost} not matched; from Open3D's {100 * off[:, 0].mean():.1f} cm, "
            f"at most {100 * off[:, 0].max():.1f}, {off[:, 1].mean():.3f} degrees"
        )
    for kind, seeds in (("plain", PLAIN_TEST_SEEDS), ("outdoor", OUTDOOR_TEST_SEEDS)):
        errors, lost, steps = [], 0, 0
        for sensor, scene in map(setting, seeds):
            if not scene.ego.moves:
                continue
            motions = list(found(points_of(cast(scene, sensor, i * PERIOD_S)) for i in range(FRAMES)))
            lost, steps = lost + sum(not m.trusted for m in motions), steps + len(motions)
            way = Motion2()
            for motion in motions[-AGES:]:
                way = way.then(motion)
            errors.append(apart(way, between(scene.ego, (FRAMES - 1 - AGES) * PERIOD_S, (FRAMES - 1) * PERIOD_S)))
        off = np.array(errors)
        print(
            f"{kind} scenes: {len(off)} sequences, {lost} of {steps} steps not matched; off after {AGES} steps: "
            f"median {100 * np.median(off[:, 0]):.1f} cm, mean {100 * off[:, 0].mean():.1f} cm, "
            f"{off[:, 1].mean():.2f} degrees, {100 * (off[:, 0] > 0.25).mean():.0f} % more than a cell"
        )


if __name__ == "__main__":
    main()
