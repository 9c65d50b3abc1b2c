# SPDX-License-Identifier: Apache-2.0
"""Leaves and twigs as small triangles, dense enough to return many rays and loose enough to let others through."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from train.perception.shapes import Mesh

_MOST = 3000


def leaves(size: tuple[float, float, float], *, density: float, is_round: bool, seed: tuple[int, int]) -> Mesh:
    """Return triangles that fill a box or an ellipsoid, in clumps, more of them near the hull.

    Args:
        size: of the hull, m; it stands on z = 0.
        density: leaf area in a volume, m^2 / m^3; 1 is an open crown, 4 a clipped hedge.
        is_round: an ellipsoid, else a box.
        seed: of the places.
    """
    rng = np.random.default_rng(seed)
    volume = float(np.prod(size)) * (0.52 if is_round else 1.0)
    edge = float(rng.uniform(0.12, 0.28))
    count = density * volume / (0.35 * edge**2)
    if count > _MOST:
        edge *= (count / _MOST) ** 0.5
    n = int(np.clip(count, 30, _MOST))
    clumps = _spread(rng, max(4, n // 25), is_round)
    unit = clumps[rng.integers(len(clumps), size=n)] + rng.normal(0, 0.09, (n, 3))
    loose = rng.random(n) < 0.4
    unit[loose] = _spread(rng, int(loose.sum()), is_round)
    middle = np.clip(unit, -0.5, 0.5) * size + (0, 0, size[2] / 2)
    corners = middle[:, None] + rng.normal(0, edge / 2, (n, 3, 3))
    corners[..., 2] = np.maximum(corners[..., 2], 0.02)
    return corners.reshape(-1, 3), np.arange(3 * n, dtype=np.uint32).reshape(-1, 3)


def _spread(rng: np.random.Generator, n: int, is_round: bool) -> npt.NDArray[np.float64]:
    if not is_round:
        return rng.uniform(-0.5, 0.5, (n, 3))
    way = rng.normal(size=(n, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    return 0.5 * way * rng.random((n, 1)) ** 0.25
