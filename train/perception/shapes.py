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


def _extrude(profile: list[tuple[float, float]], top: float) -> Mesh:
    """Return the solid of a side view (x, z), convex from its middle, narrowed to the share `top` at z = 1."""
    x, z = np.array(profile).T
    half = 0.5 * (1 - (1 - top) * np.clip((z - 0.5) / 0.5, 0, 1))
    n = len(x)
    right, left = np.column_stack([x, -half, z]), np.column_stack([x, half, z])
    middle = np.array([(0.0, -0.5, 0.45), (0.0, 0.5, 0.45)])
    faces = []
    for i in range(n):
        j = (i + 1) % n
        faces += [(i, j, n + i), (j, n + j, n + i), (i, j, 2 * n), (n + j, n + i, 2 * n + 1)]
    return np.concatenate([right, left, middle]), np.array(faces, np.uint32)


# Side views of cars, bumper to bumper.
_SALOON = [
    (0.5, 0.14), (0.5, 0.4), (0.46, 0.5), (0.22, 0.6), (0.06, 0.97), (-0.05, 1.0), (-0.22, 0.96), (-0.37, 0.66),
    (-0.49, 0.6), (-0.5, 0.14),
]  # fmt: skip
_HATCHBACK = [
    (0.5, 0.14), (0.5, 0.42), (0.46, 0.5), (0.26, 0.6), (0.1, 0.97), (0.0, 1.0), (-0.34, 0.97), (-0.48, 0.6),
    (-0.5, 0.3), (-0.5, 0.14),
]  # fmt: skip
_OFFROADER = [
    (0.5, 0.2), (0.5, 0.5), (0.44, 0.58), (0.24, 0.62), (0.14, 0.98), (0.0, 1.0), (-0.44, 0.98), (-0.5, 0.6),
    (-0.5, 0.2),
]  # fmt: skip
_RACER = [
    (0.5, 0.05), (0.5, 0.25), (0.1, 0.5), (0.05, 0.75), (-0.08, 0.85), (-0.3, 0.6), (-0.44, 0.55), (-0.45, 1.0),
    (-0.5, 1.0), (-0.5, 0.1),
]  # fmt: skip

UNIT: dict[str, Mesh] = {
    "saloon": _extrude(_SALOON, 0.76),
    "hatchback": _extrude(_HATCHBACK, 0.78),
    "offroader": _extrude(_OFFROADER, 0.82),
    "racer": _extrude(_RACER, 0.5),
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
        leafy: leaves fill the solid's place instead ("ball" or "box").
    """

    solid: str
    offset: tuple[float, float, float]
    size: tuple[float, float, float]
    swing: float = 0.0
    leafy: bool = False

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


def _whole_car(solid: str) -> Callable[[Size], list[Part]]:
    return lambda size: [Part(solid, (0, 0, 0), size), *_wheels(size[0], size[1])]


def _lorry(size: Size) -> list[Part]:
    length, width, height = size
    cab = Part("box", (0.38 * length, 0, 0.35), (0.22 * length, width, 0.75 * height - 0.35))
    load = Part("box", (-0.12 * length, 0, 0.9), (0.74 * length, width, height - 0.9))
    beam = Part("box", (-0.1 * length, 0, 0.5), (0.78 * length, 0.5 * width, 0.4))
    return [cab, load, beam, *_wheels(length, width), *_wheels(0.6 * length, width)]


def _trailer(size: Size) -> list[Part]:
    length, width, height = size
    bar = Part("box", (0.45 * length, 0, 0.4), (0.3 * length, 0.1, 0.1))
    wheels = [Part("box", (-0.1 * length, y * width, 0), (0.6, 0.15, 0.6)) for y in (-0.5, 0.5)]
    return [Part("box", (-0.1 * length, 0, 0.45), (0.8 * length, width, max(height - 0.45, 0.3))), bar, *wheels]


def _seated(size: Size) -> list[Part]:
    length, width, h = size
    body = [Part(p.solid, (p.offset[0] - 0.15, p.offset[1], p.offset[2] - 0.3 * h), p.size) for p in _person(size)[2:]]
    return [*body, Part("box", (0.1, 0, 0.1 * h), (max(length, 0.5), 0.7 * width, 0.12 * h))]


def _bicycle(size: Size) -> list[Part]:
    length, width, h = size
    wheels = [Part("box", (x * length, 0, 0), (0.36 * length, 0.05, 0.62 * h)) for x in (-0.31, 0.31)]
    bar = Part("box", (0.25 * length, 0, 0.9 * h), (0.06, width, 0.06))
    return [*wheels, bar, Part("box", (0, 0, 0.35 * h), (0.5 * length, 0.06, 0.5 * h))]


def _sign(size: Size) -> list[Part]:
    _, width, height = size
    return [Part("cylinder", (0, 0, 0), (0.08, 0.08, height)), Part("box", (0, 0, height - 0.7), (0.04, width, 0.7))]


def _railing(size: Size) -> list[Part]:
    """Posts, two rails and bars a hand apart."""
    length, width, height = size
    count = int(max(2, min(90, length / 0.22)))
    bars = [Part("box", ((i / (count - 1) - 0.5) * length, 0, 0), (0.035, width, height)) for i in range(count)]
    rails = [Part("box", (0, 0, z * height), (length, width, 0.06)) for z in (0.1, 0.95)]
    return [*bars, *rails]


def _guard_rail(size: Size) -> list[Part]:
    length, width, height = size
    count = int(max(2, min(40, length / 2.0)))
    posts = [Part("box", ((i / (count - 1) - 0.5) * length, 0, 0), (0.1, width, height)) for i in range(count)]
    return [Part("box", (0, 0, height - 0.3), (length, width, 0.3)), *posts]


def _leafy_tree(size: Size) -> list[Part]:
    """The crown starts at a third of the height, the trunk is a twelfth of the crown wide."""
    length, width, height = size
    stem = 0.3 * height
    trunk = min(0.7, 0.05 + 0.06 * length)
    crown = Part("ball", (0, 0, stem), (length, width, height - stem), leafy=True)
    return [Part("cylinder", (0, 0, 0), (trunk, trunk, 0.7 * height)), crown]


def _leafy(solid: str) -> Callable[[Size], list[Part]]:
    return lambda size: [Part(solid, (0, 0, 0), size, leafy=True)]


def _thicket(size: Size) -> list[Part]:
    """Leaves with stems between them."""
    length, width, height = size
    count = int(max(2, min(12, length / 1.7)))
    stems = [
        Part(
            "cylinder",
            ((i / count - 0.45) * length, 0.35 * width * ((7 * i) % 5 - 2) / 2, 0),
            (0.12 + 0.04 * (i % 4), 0.12 + 0.04 * (i % 4), 0.9 * height),
        )
        for i in range(count)
    ]
    return [Part("box", (0, 0, 0), size, leafy=True), *stems]


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
    "saloon": _whole_car("saloon"),
    "hatchback": _whole_car("hatchback"),
    "offroader": _whole_car("offroader"),
    "racer": _solid("racer"),
    "lorry": _lorry,
    "trailer": _trailer,
    "seated": _seated,
    "bicycle": _bicycle,
    "sign": _sign,
    "railing": _railing,
    "guard_rail": _guard_rail,
    "leafy_tree": _leafy_tree,
    "shrub": _leafy("ball"),
    "clipped_hedge": _leafy("box"),
    "thicket": _thicket,
    "grass": _leafy("box"),
    "kerb": _solid("box"),
    "block": _solid("box"),
}
"""Kinds of things: size (length, width, height in m) -> parts."""
