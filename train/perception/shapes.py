# SPDX-License-Identifier: Apache-2.0
"""Triangle meshes of the simulator's things: cars, persons, trees, walls, from a few unit solids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mesh = tuple[Array, npt.NDArray[np.uint32]]


def _box(top: float = 1.0) -> Mesh:
    low = [(-0.5, -0.5, 0.0), (0.5, -0.5, 0.0), (0.5, 0.5, 0.0), (-0.5, 0.5, 0.0)]
    high = [(x * top, y * top, 1.0) for x, y, _ in low]
    sides = [(i, (i + 1) % 4, 4 + i) for i in range(4)] + [((i + 1) % 4, 4 + (i + 1) % 4, 4 + i) for i in range(4)]
    return np.array(low + high), np.array([(0, 2, 1), (0, 3, 2), (4, 5, 6), (4, 6, 7), *sides], np.uint32)


def _revolve(profile: list[tuple[float, float]], sides: int = 10) -> Mesh:
    """Return the solid of a (radius, height) profile turned around z."""
    angle = np.arange(sides) * 2 * np.pi / sides
    rings = [np.column_stack([r * np.cos(angle), r * np.sin(angle), np.full(sides, z)]) for r, z in profile]
    i, j = np.meshgrid(np.arange(sides), np.arange(len(profile) - 1))
    a, b = j * sides + i, j * sides + (i + 1) % sides
    faces = np.concatenate([np.stack([a, b, a + sides], -1), np.stack([b, b + sides, a + sides], -1)])
    return np.concatenate(rings), faces.reshape(-1, 3).astype(np.uint32)


def _ball(sides: int, stacks: int) -> list[tuple[float, float]]:
    angle = np.linspace(-np.pi / 2, np.pi / 2, stacks)
    return [(0.5 * float(np.cos(a)), 0.5 + 0.5 * float(np.sin(a))) for a in angle]


UNIT: dict[str, Mesh] = {
    "box": _box(),
    "cabin": _box(0.72),
    "cylinder": _revolve([(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]),
    "ball": _revolve(_ball(10, 7)),
}
"""Solids of length, width and height one, standing on z = 0, centred on the z axis."""


@dataclass(frozen=True)
class Part:
    """One solid of a thing, in the thing's frame (x ahead, origin on the ground below its middle).

    Attributes:
        solid: key of `UNIT`.
        offset: of the solid's foot, m.
        size: length, width, height, m.
        swing: amplitude of the foot's way forward and back while walking, m.
    """

    solid: str
    offset: tuple[float, float, float]
    size: tuple[float, float, float]
    swing: float = 0.0

    def mesh(self, phase: float) -> Mesh:
        """Return vertices in the thing's frame and triangles, at a phase (rad) of its walk."""
        unit, faces = UNIT[self.solid]
        vertices = unit * self.size + self.offset
        if self.swing:
            vertices[:, 0] += self.swing * np.sin(phase) * (1.0 - unit[:, 2])
        return vertices, faces


Size = tuple[float, float, float]


def _solid(solid: str) -> Callable[[Size], list[Part]]:
    return lambda size: [Part(solid, (0, 0, 0), size)]


def _car(size: Size) -> list[Part]:
    length, width, height = size
    body = Part("box", (0, 0, 0.2), (length, width, 0.38 * height))
    roof = 0.2 + 0.38 * height
    cabin = Part("cabin", (-0.06 * length, 0, roof), (0.62 * length, 0.92 * width, height - roof))
    return [body, cabin, *_wheels(length, width)]


def _van(size: Size) -> list[Part]:
    length, width, height = size
    return [Part("box", (0, 0, 0.3), (length, width, height - 0.3)), *_wheels(length, width)]


def _wheels(length: float, width: float) -> list[Part]:
    return [Part("box", (x * length, y * width, 0), (0.6, 0.2, 0.55)) for x in (-0.3, 0.3) for y in (-0.43, 0.43)]


def _person(size: Size) -> list[Part]:
    length, width, h = size
    leg = (0.55 * length, 0.3 * width, 0.48 * h)
    arm = (0.3 * length, 0.2 * width, 0.36 * h)
    return [
        Part("cylinder", (0, 0.2 * width, 0), leg, 0.28),
        Part("cylinder", (0, -0.2 * width, 0), leg, -0.28),
        Part("cylinder", (0, 0, 0.46 * h), (0.85 * length, 0.8 * width, 0.38 * h)),
        Part("cylinder", (0, 0.45 * width, 0.46 * h), arm, -0.2),
        Part("cylinder", (0, -0.45 * width, 0.46 * h), arm, 0.2),
        Part("ball", (0, 0, 0.85 * h), (0.2, 0.17, 0.15 * h)),
    ]


def _cyclist(size: Size) -> list[Part]:
    length, width, h = size
    rider = [
        Part(p.solid, (p.offset[0], p.offset[1], p.offset[2] * 0.85 + 0.3), p.size) for p in _person((0.3, width, h))
    ]
    wheels = [Part("box", (x * length, 0, 0), (0.62, 0.06, 0.65)) for x in (-0.3, 0.3)]
    return [*rider[2:], *wheels, Part("box", (0, 0, 0.4), (0.6 * length, 0.05, 0.5))]


def _tree(size: Size) -> list[Part]:
    length, width, height = size
    trunk = Part("cylinder", (0, 0, 0), (0.12 * length, 0.12 * length, 0.6 * height))
    return [trunk, Part("ball", (0, 0, 0.42 * height), (length, width, 0.58 * height))]


def _bench(size: Size) -> list[Part]:
    length, width, height = size
    legs = [Part("box", (x * length, 0, 0), (0.08, width, 0.45)) for x in (-0.4, 0.4)]
    back = Part("box", (0, 0.45 * width, 0.4), (length, 0.05, max(height - 0.4, 0.1)))
    return [*legs, Part("box", (0, 0, 0.42), (length, width, 0.06)), back]


KINDS: dict[str, Callable[[Size], list[Part]]] = {
    "box": _solid("box"),
    "cylinder": _solid("cylinder"),
    "wall": _solid("box"),
    "pole": _solid("cylinder"),
    "bush": _solid("ball"),
    "hedge": _solid("box"),
    "fence": _solid("box"),
    "car": _car,
    "van": _van,
    "person": _person,
    "cyclist": _cyclist,
    "tree": _tree,
    "bench": _bench,
}
"""Kinds of things: size (length, width, height in m) -> parts."""
