# SPDX-License-Identifier: Apache-2.0
"""Tracks: the same thing from scan to scan, with a stable id and a speed.

A Kalman filter of constant velocity each, detections assigned to tracks by least total distance (Hungarian method).
Positions are in the sensor's frame, velocities over ground along its axes, as far as the robot's motion is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from edge_nodes.perception.clusters import OBSTACLE, PERSON, VEHICLE, Detection
from edge_nodes.perception.config import SceneConfig
from edge_nodes.perception.odometry import Motion2

# Standard deviations: acceleration in m/s2, position in m.
_ACCELERATION = {PERSON: 1.5, VEHICLE: 3.0, OBSTACLE: 0.7}
_POSITION = {PERSON: 0.12, VEHICLE: 0.3, OBSTACLE: 0.2}
_MEMORY, _FOLLOW = 0.97, 0.1
_OTHER_CLASS_M = 0.6
_STILL = Motion2()


@dataclass
class Track:
    """One thing followed over time.

    Attributes:
        id: counts up from 1, never used again.
        state: x, y, vx, vy.
        covariance: (4, 4).
        detection: the newest one.
        first_ns, last_ns: stamps of the first and newest detection.
        hits: scans it was seen in.
        anchor: x, y that follow the state slowly, about a second behind.
        votes: fading sum of seen classes.
    """

    id: int
    state: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    detection: Detection
    first_ns: int
    last_ns: int
    anchor: npt.NDArray[np.float64]
    hits: int = 1
    votes: dict[int, float] = field(default_factory=dict)

    @property
    def label(self) -> int:
        """Class id it was seen as most."""
        return max(self.votes, key=lambda k: self.votes[k])

    @property
    def velocity(self) -> tuple[float, float]:
        """Velocity in m/s, zero where it cannot be told from standing."""
        vx, vy = self.state[2:]
        speed = math.hypot(vx, vy)
        spread = math.sqrt(max(self.covariance[2, 2], self.covariance[3, 3]))
        # The filter also follows a box whose outline flickers: it must have come a way, too, and in that direction.
        along = float((self.state[:2] - self.anchor) @ self.state[2:]) / max(speed, 1e-6)
        moves = speed > 2.0 * spread and along > 0.3 + 0.1 * self.detection.length
        return (float(vx), float(vy)) if moves else (0.0, 0.0)

    def follow(self, motion: Motion2) -> None:
        """Move into the sensor's new frame after the robot has moved."""
        c, s = math.cos(motion.yaw), math.sin(motion.yaw)
        turn = np.kron(np.eye(2), np.array([[c, s], [-s, c]]))
        self.state = turn @ (self.state - np.array([motion.x, motion.y, 0, 0]))
        self.anchor = turn[:2, :2] @ (self.anchor - np.array([motion.x, motion.y]))
        self.covariance = turn @ self.covariance @ turn.T

    def predict(self, seconds: float) -> None:
        """Move the state on by `seconds`."""
        move = np.eye(4)
        move[0, 2] = move[1, 3] = seconds
        push = np.array([[seconds**2 / 2, 0], [0, seconds**2 / 2], [seconds, 0], [0, seconds]])
        self.state = move @ self.state
        noise = push @ push.T * _ACCELERATION[self.label] ** 2
        self.covariance = move @ self.covariance @ move.T + noise

    def update(self, detection: Detection, time_ns: int) -> None:
        """Take in a detection."""
        self.votes = {k: _MEMORY * v for k, v in self.votes.items()}
        self.votes[detection.label] = self.votes.get(detection.label, 0.0) + 1.0
        spread = self.covariance[:2, :2] + np.eye(2) * _POSITION[detection.label] ** 2
        gain = np.linalg.solve(spread, self.covariance[:2]).T
        self.state = self.state + gain @ (np.array([detection.x, detection.y]) - self.state[:2])
        self.covariance = self.covariance - gain @ self.covariance[:2]
        self.anchor = self.anchor + _FOLLOW * (self.state[:2] - self.anchor)
        self.detection, self.last_ns = detection, time_ns
        self.hits += 1


class Tracker:
    """Follows things from scan to scan.

    Args:
        config: gate, patience.
    """

    def __init__(self, config: SceneConfig) -> None:
        self.config = config
        self.tracks: list[Track] = []
        self._next = 1
        self._time_ns: int | None = None

    def update(self, detections: Sequence[Detection], time_ns: int, motion: Motion2 = _STILL) -> list[Track]:
        """Take in one scan's detections; return the tracks seen in it often enough to be believed.

        Args:
            detections: of this scan.
            time_ns: its stamp; a step back in time drops all tracks.
            motion: the sensor's since the last scan.
        """
        if self._time_ns is not None and time_ns < self._time_ns:
            self.tracks.clear()
        seconds = 0.0 if self._time_ns is None else (time_ns - self._time_ns) / 1e9
        self._time_ns = time_ns
        for track in self.tracks:
            track.predict(min(seconds, 1.0))
            track.follow(motion)
        free = set(range(len(detections)))
        for row, column in self._pairs(detections):
            self.tracks[row].update(detections[column], time_ns)
            free.discard(column)
        patience = self.config.forget_s * 1e9
        self.tracks = [t for t in self.tracks if time_ns - t.last_ns <= (patience if t.hits > 2 else 0.25e9)]
        self.tracks += [self._begin(detections[i], time_ns) for i in sorted(free)]
        return [t for t in self.tracks if t.last_ns == time_ns and t.hits >= self.config.confirm]

    def _pairs(self, detections: Sequence[Detection]) -> list[tuple[int, int]]:
        if not self.tracks or not detections:
            return []
        where = np.array([t.state[:2] for t in self.tracks])
        seen = np.array([[d.x, d.y] for d in detections])
        cost = np.linalg.norm(where[:, None] - seen[None], axis=-1)
        labels = np.array([t.label for t in self.tracks])
        cost += _OTHER_CLASS_M * (labels[:, None] != np.array([d.label for d in detections])[None])
        rows, columns = linear_sum_assignment(np.minimum(cost, 10 * self.config.gate_m))
        return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if cost[r, c] <= self.config.gate_m]

    def _begin(self, detection: Detection, time_ns: int) -> Track:
        spread = _POSITION[detection.label]
        quick = {PERSON: 1.5, VEHICLE: 5.0, OBSTACLE: 0.5}[detection.label]
        track = Track(
            id=self._next,
            state=np.array([detection.x, detection.y, 0.0, 0.0]),
            covariance=np.diag([spread**2, spread**2, quick**2, quick**2]),
            detection=detection,
            first_ns=time_ns,
            last_ns=time_ns,
            anchor=np.array([detection.x, detection.y]),
            votes={detection.label: 1.0},
        )
        self._next += 1
        return track
