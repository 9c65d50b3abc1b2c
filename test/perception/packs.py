# SPDX-License-Identifier: Apache-2.0
"""Small packs of clouds, and a street to fill them with."""

from __future__ import annotations

import numpy as np


def pack(path, clouds, resolution=0.005, **extra):
    """clouds: list of (N, 3); writes path."""
    ticks = np.round(np.concatenate(clouds) / resolution).astype(np.int16).T
    steps = np.diff(ticks, axis=1, prepend=np.int16(0)).astype(np.int16).view(np.uint16)
    np.savez(
        path,
        xyz_delta_lo=(steps & 255).astype(np.uint8),
        xyz_delta_hi=(steps >> 8).astype(np.uint8),
        intensity=np.zeros(ticks.shape[1], np.uint8),
        offsets=np.cumsum([0, *map(len, clouds)]),
        resolution_m=np.float32(resolution),
        **extra,
    )
    return path


CAR = (8.0, 3.0, -0.9, 4.0, 1.8, 1.5, 0.5)
"""x, y, z of the middle, length, width, height, yaw."""


def street(seed=0, ground=8000, car=800):
    """Ground 1.7 m below the sensor and the surface of CAR: (N, 3), first the ground."""
    rng = np.random.default_rng(seed)
    flat = np.column_stack([rng.uniform(-30, 30, (ground, 2)), rng.normal(-1.7, 0.01, ground)])
    x, y, z, length, width, height, yaw = CAR
    local = rng.uniform(-0.49, 0.49, (car, 3)) * (length, width, height)
    c, s = np.cos(yaw), np.sin(yaw)
    body = local @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + (x, y, z)
    return np.concatenate([flat, body]).astype(np.float32)
