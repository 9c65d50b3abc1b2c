# SPDX-License-Identifier: Apache-2.0
"""LiDARs: spinning ones of 16 to 128 rings, and two whose pattern does not repeat."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Rng = np.random.Generator
Directions = npt.NDArray[np.float32]
# Elevations of the HDL-64E: an upper block of 32 beams 1/3 degree apart, a lower one 1/2 degree apart.
HDL_64 = (*np.linspace(2.0, -8.33, 32), *np.linspace(-8.83, -24.33, 32))
PERIOD_S = 0.1


@dataclass(frozen=True)
class Sensor:
    """A LiDAR.

    Attributes:
        rings: beams.
        columns: firings a turn; with `pattern` "rosette" or "dome", rings x columns are the points of a scan.
        elevation_deg: lowest and highest beam; of a rosette, its field of view's.
        height: of its origin above the ground, m.
        noise_m: standard deviation of range.
        max_range: m.
        min_range: nearer returns are lost, m.
        dropout: share of returns lost at random.
        tilt_deg: roll and pitch of its mounting.
        uneven: beams are spaced closer around the horizon, as in VLS-128 and Pandar-40P.
        beams_deg: elevation of each beam, top first, in place of `elevation_deg` and `uneven`.
        pattern: "spinning"; "rosette": petals around the x axis that turn from scan to scan; "dome": all around,
            up and down faster than around.
        rain: 0..1, drops before the sensor and returns that they swallow.
    """

    rings: int = 128
    columns: int = 1024
    elevation_deg: tuple[float, float] = (-22.5, 22.5)
    height: float = 0.9
    noise_m: float = 0.015
    max_range: float = 100.0
    min_range: float = 0.4
    dropout: float = 0.02
    tilt_deg: tuple[float, float] = (0.0, 0.0)
    uneven: bool = False
    beams_deg: tuple[float, ...] = ()
    pattern: str = "spinning"
    rain: float = 0.0

    @cached_property
    def directions(self) -> Directions:
        """Unit vectors (rings, columns, 3) in the sensor's frame, top ring first, clockwise from behind."""
        low, high = np.radians(self.elevation_deg)
        share = np.linspace(-1, 1, self.rings)
        if self.uneven:
            share = 0.5 * share + 0.5 * share**3
        elevation = ((low + high) / 2 + share * (high - low) / 2)[::-1, None]
        if self.beams_deg:
            elevation = np.radians(self.beams_deg)[:, None]
        azimuth = np.pi - (np.arange(self.columns) + 0.5)[None] * 2 * np.pi / self.columns
        return _unit(elevation, azimuth)

    def rays(self, time_s: float) -> Directions:
        """Return the unit vectors (rings, columns, 3) of the scan that starts at `time_s`."""
        if self.pattern == "spinning":
            return self.directions
        count = self.rings * self.columns
        t = time_s + np.arange(count).reshape(self.rings, self.columns) * PERIOD_S / count
        low, high = np.radians(self.elevation_deg)
        if self.pattern == "dome":
            elevation = (low + high) / 2 + (high - low) / 2 * np.sin(2 * np.pi * 187.3 * t)
            return _unit(elevation, -2 * np.pi * 10.37 * t)
        # Two prisms that turn against each other at rates without a common measure.
        a, b = 2 * np.pi * 113.7 * t, -2 * np.pi * 71.9 * t
        radius = (high - low) / 2
        right, up = (radius * (f(a) + f(b)) / 2 for f in (np.cos, np.sin))
        return _unit(up + (low + high) / 2, right)


def _unit(elevation: npt.NDArray[np.float64], azimuth: npt.NDArray[np.float64]) -> Directions:
    elevation, azimuth = np.broadcast_arrays(elevation, azimuth)
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], -1).astype(np.float32)


# rings, columns, elevation, max range, uneven: shapes of common spinning sensors.
SENSORS = (
    (16, 1800, (-15, 15), 100, False),
    (16, 1024, (-15, 15), 90, False),
    (32, 1024, (-25, 15), 110, True),
    (32, 1024, (-22.5, 22.5), 90, False),
    (40, 1800, (-25, 15), 120, True),
    (64, 1024, (-22.5, 22.5), 100, False),
    (64, 1800, (-25, 2), 120, False),
    (128, 1024, (-22.5, 22.5), 100, False),
    (128, 1024, (-45, 45), 50, False),
)


def random_sensor(rng: Rng) -> Sensor:
    """Return one of the common spinning sensors, mounted 0.3 to 2 m high, a little tilted."""
    rings, columns, elevation, reach, uneven = SENSORS[rng.integers(len(SENSORS))]
    tilt = rng.normal(0, 0.8, 2)
    return Sensor(
        rings=rings,
        columns=columns,
        elevation_deg=elevation,
        height=float(rng.uniform(0.3, 2.0)),
        noise_m=float(rng.uniform(0.005, 0.03)),
        max_range=reach,
        dropout=float(rng.choice([0.0, 0.02, 0.1])),
        tilt_deg=(float(tilt[0]), float(tilt[1])),
        uneven=uneven,
    )


def outdoor_sensor(rng: Rng) -> Sensor:
    """Return an HDL-64E on a car's roof, a common spinning sensor, a rosette or a dome; one in seven in rain."""
    rain = float(rng.uniform(0.1, 1.0)) if rng.random() < 0.14 else 0.0
    tilt = rng.normal(0, 0.8, 2)
    common = {
        "noise_m": float(rng.uniform(0.005, 0.03)),
        "dropout": float(rng.choice([0.0, 0.02, 0.08])),
        "tilt_deg": (float(tilt[0]), float(tilt[1])),
        "rain": rain,
    }
    choice = rng.random()
    if choice < 0.5:
        height = float(rng.normal(1.73, 0.08))
        return Sensor(rings=64, columns=2000, beams_deg=HDL_64, height=height, max_range=120, min_range=0.9, **common)
    height = float(rng.uniform(0.3, 2.0))
    if choice < 0.58:
        return Sensor(
            rings=8, columns=3000, elevation_deg=(-35, 35), height=height, max_range=150, pattern="rosette", **common
        )
    if choice < 0.66:
        return Sensor(
            rings=8, columns=2500, elevation_deg=(-7, 52), height=height, max_range=60, pattern="dome", **common
        )
    rings, columns, elevation, reach, uneven = SENSORS[rng.integers(len(SENSORS))]
    return Sensor(
        rings=rings,
        columns=columns,
        elevation_deg=elevation,
        height=height,
        max_range=reach,
        uneven=uneven,
        **common,
    )
