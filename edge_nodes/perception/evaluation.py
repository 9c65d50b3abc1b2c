# SPDX-License-Identifier: Apache-2.0
"""How good the networks are, and simple methods beside them: on simulated sequences and on labelled real frames."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edge_nodes.perception.config import CLASSES, BevConfig
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.frames import CAR, PEDESTRIAN, VEHICLE_BOXES, Frame
from edge_nodes.perception.grid import cell_index, metres, moved
from edge_nodes.perception.ground import GroundEstimator
from edge_nodes.perception.history import BevHistory
from edge_nodes.perception.inference import Inference
from edge_nodes.perception.odometry import Motion2
from edge_nodes.perception.segmentation import class_ids

UNKNOWN, GROUND, WALL, VEHICLE, PERSON, OBSTACLE = range(6)
IGNORE = 255
"""Label of cells that are left out."""
HELD_OUT = range(90_000, 100_000)
"""Seeds of simulated sequences that are never trained on."""
MASKS = ("occupied", "forecast", "known")
RANGE_M, MIN_POINTS = 40.0, 50
PERIOD_NS = 100_000_000
AHEAD = 5
"""Scans from now to the forecast."""
WITH_RETURNS = "network, cells with returns"
"""The network's overlap over the cells of `with_returns` alone."""
METHODS = ("network", "last scan", "OR of 16 scans", "OR of 16 scans, robot's motion taken out")
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]


class Sample(NamedTuple):
    """One labelled stamp.

    Attributes:
        input: (36 or more, H, W) uint8, what `BevHistory.push` returns with channels first; `BevMap.detail` last.
        label: (H, W) uint8 class id, 255 to be left out.
        occupied, forecast, known: (H, W) bool.
    """

    input: npt.NDArray[np.uint8]
    label: Labels
    occupied: Mask
    forecast: Mask
    known: Mask


def read_samples(path: Path) -> list[Sample]:
    """Return the samples in one file of simulated stamps.

    Raises:
        PerceptionError: it is not such a file.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in Sample._fields}
        for name in MASKS:
            arrays[name] = np.unpackbits(arrays[name], -1).astype(bool)
        return [Sample(*stamp) for stamp in zip(*(arrays[name] for name in Sample._fields), strict=True)]
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise PerceptionError(
            f"{path} holds no simulated samples", got=str(error)[:200], expected=", ".join(Sample._fields)
        ) from None


def held_out(folder: Path) -> list[Path]:
    """Return the files of held-out sequences in a directory that `train.perception.dataset` made.

    Raises:
        PerceptionError: there is none.
    """
    found = [p for p in sorted(folder.glob("*.npz")) if p.stem.isdigit() and int(p.stem) in HELD_OUT]
    if not found:
        raise PerceptionError(
            "no held-out sequences there",
            got=folder,
            expected="<seed>.npz with seeds from 90,000",
            remedy="Run: python -m train.perception.dataset",
        )
    return found


def by_rules(maps: npt.NDArray[np.uint8]) -> Labels:
    """Return labels (H, W) by ground removal, clustering and size rules, from the newest scan of (C, H, W) alone."""
    slices = maps[:6]
    label = np.where(ndimage.binary_closing(slices[0] > 0, np.ones((5, 5))), GROUND, 0).astype(np.uint8)
    islands, _ = ndimage.label(slices[1:5].max(0) > 0, np.ones((3, 3)))
    for island, window in enumerate(ndimage.find_objects(islands), start=1):
        cells = islands[window] == island
        length, width = max(cells.shape) * 0.25, min(cells.shape) * 0.25
        tall = (slices[3:5].max(0)[window] > 0)[cells].any()
        if length > 9 or (length > 5 and width < 0.8):
            kind = WALL
        elif length > 1.8:
            kind = VEHICLE
        else:
            kind = PERSON if tall and length <= 1.0 else OBSTACLE
        label[window][cells] = kind
    return label


class Overlap:
    """Sums for intersection over union of masks."""

    def __init__(self) -> None:
        self.both = self.either = 0

    def add(self, got: Mask, want: Mask, where: Mask) -> None:
        """Add one map."""
        self.both += int((got & want & where).sum())
        self.either += int(((got | want) & where).sum())

    @property
    def value(self) -> float:
        """The quotient over all maps."""
        return round(self.both / max(1, self.either), 4)


class ClassScore:
    """Intersection over union of each class."""

    def __init__(self) -> None:
        self._sums = [Overlap() for _ in CLASSES]
        self._present: set[int] = set()

    def add(self, got: Labels, want: Labels) -> None:
        """Add one map of class ids, (H, W)."""
        counted = want != IGNORE
        self._present |= set(np.unique(want[counted]).tolist())
        for i, sums in enumerate(self._sums):
            sums.add(got == i, want == i, counted)

    @property
    def values(self) -> dict[str, float]:
        """The mean over all classes, and each of them."""
        each = {name: sums.value for name, sums in zip(CLASSES, self._sums, strict=True)}
        return {"mean": round(float(np.mean(list(each.values()))), 4), **each}

    @property
    def known(self) -> dict[str, float | None]:
        """The same of the labelled classes alone: None for one that never occurs, and the mean of the others."""
        each = {
            c: s.value if i in self._present else None for i, (c, s) in enumerate(zip(CLASSES, self._sums, strict=True))
        }
        there = [v for v in each.values() if v is not None]
        return {"mean": round(float(np.mean(there)), 4) if there else None, **each}


class OccupancyScore:
    """Overlap of occupancy and forecast with the truth, of the network and of what scans say themselves."""

    def __init__(self) -> None:
        self._now: dict[str, Overlap] = {}
        self._ahead: dict[str, Overlap] = {}
        self._moving: dict[str, Overlap] = {}

    def add(self, guesses: dict[str, Mask], sample: Sample, later: Mask) -> None:
        """Add one stamp.

        Args:
            guesses: what each method takes as occupied now; "network" is one of them.
            sample: truth.
            later: what the network takes as occupied ahead of time.
        """
        changed = sample.known & ndimage.binary_dilation(sample.occupied != sample.forecast, iterations=4)
        for name, got in guesses.items():
            self._now.setdefault(name, Overlap()).add(got, sample.occupied, sample.known)
        forecasts = {**guesses, "network": later, "network's present": guesses["network"]}
        for name, got in forecasts.items():
            self._ahead.setdefault(name, Overlap()).add(got, sample.forecast, sample.known)
            self._moving.setdefault(name, Overlap()).add(got, sample.forecast, changed)

    @property
    def values(self) -> dict[str, dict[str, float]]:
        """Overlap by measure and method."""
        sums = {
            "occupancy_iou": self._now,
            "forecast_iou": self._ahead,
            "forecast_iou_near_motion": self._moving,
        }
        return {measure: {name: s.value for name, s in each.items()} for measure, each in sums.items()}


def with_returns(sample: Sample) -> Labels:
    """Return the labels (H, W) of the cells that any of the scans has a return in, `IGNORE` elsewhere.

    What is left out are the far sides of things and what lies behind them, which a labelling of points never asks for.
    """
    return np.where(sample.input[:36].max(0) > 0, sample.label, np.uint8(IGNORE))


def scans_alone(maps: npt.NDArray[np.uint8]) -> tuple[Mask, Mask]:
    """Return what the newest of the maps (C, H, W) and what any of them has as occupied, (H, W) each."""
    last = maps[1:5].max(0) > 0
    return last, last | (maps[6:36:2].max(0) > 0)


def labels_of(inference: Inference, maps: npt.NDArray[np.uint8]) -> Labels:
    """Return the class ids (H, W) of maps (H, W, channels), as the node publishes them."""
    return class_ids(inference.forward(maps), inference.history.config.resolution_m)


def occupied_of(inference: Inference, maps: npt.NDArray[np.uint8]) -> tuple[Mask, Mask]:
    """Return what is occupied now and ahead, (H, W) each, of maps (H, W, channels)."""
    now, later = (inference.forward(maps) > 0).cpu().numpy()
    return now, later


def maps_of(inference: Inference, frame: Frame, scans: int) -> npt.NDArray[np.uint8]:
    """Return the maps (H, W, channels) of a frame without predecessors, seen `scans` times by a standing robot."""
    history = inference.history
    history.reset()
    for i in range(scans):
        maps = history.push(frame.xyz, i * PERIOD_NS)
    return maps.copy()


# SemanticKITTI ids to class ids; what is not here is left out.
_SEMANTIC = {
    **dict.fromkeys((10, 13, 16, 18, 20, 252, 256, 257, 258, 259), VEHICLE),
    **dict.fromkeys((30, 31, 32, 253, 254, 255), PERSON),
    **dict.fromkeys((40, 44, 48, 49, 60, 72), GROUND),
    **dict.fromkeys((50, 51, 52), WALL),
    **dict.fromkeys((11, 15, 70, 71, 80, 81, 99), OBSTACLE),
}
_CARS = (10, 252)


def semantic_map(frame: Frame, config: BevConfig) -> Labels:
    """Return a class id for each cell that labelled points lie in, (H, W); `IGNORE` elsewhere.

    What stands in the robot's height band wins over ground, and of that a person over a vehicle over other things.
    """
    assert frame.semantic is not None
    height = GroundEstimator(config.range_m).estimate(frame.xyz).height_of(frame.xyz)
    kind = np.full(65536, IGNORE, np.uint8)
    for semantic, label in _SEMANTIC.items():
        kind[semantic] = label
    labels, cells = kind[frame.semantic], cell_index(frame.xyz, config)
    out = np.full(config.cells**2 + 1, IGNORE, np.uint8)
    out[cells[labels == GROUND]] = GROUND
    blocks = (height >= config.min_height_m) & (height < config.max_height_m)
    for label in (WALL, OBSTACLE, VEHICLE, PERSON):
        out[cells[(labels == label) & blocks]] = label
    return out[:-1].reshape(config.cells, -1)


class Thing(NamedTuple):
    """A true vehicle or person.

    Attributes:
        label: class id.
        car: whether it is a car.
        cells: (K, 2) rows and columns, also beyond the map.
        points: that hit it.
        distance_m: of its middle.
    """

    label: int
    car: bool
    cells: npt.NDArray[np.intp]
    points: int
    distance_m: float


def things(frame: Frame, config: BevConfig) -> Iterator[Thing]:
    """Yield what a frame's boxes, or the instances of its points, say is there."""
    n, res = config.cells, config.resolution_m
    if frame.boxes is not None:
        for kind, x, y, z, length, width, high, yaw in frame.boxes.tolist():
            if int(kind) not in (*VEHICLE_BOXES, PEDESTRIAN, 4, 5):
                continue
            c, s = np.cos(yaw), np.sin(yaw)
            dx, dy, dz = (frame.xyz - np.array([x, y, z], np.float32)).T
            inside = (np.abs(c * dx + s * dy) <= length / 2) & (np.abs(c * dy - s * dx) <= width / 2)
            points = int((inside & (np.abs(dz) <= high / 2)).sum())
            reach = int(np.hypot(length, width) / 2 / res) + 2
            offsets = np.arange(-reach, reach + 1)
            rows, columns = np.floor(n / 2 - x / res) + offsets, np.floor(n / 2 - y / res) + offsets
            r, k = np.meshgrid(rows, columns, indexing="ij")
            dx, dy = metres(r, config) - x, metres(k, config) - y
            covered = (np.abs(c * dx + s * dy) <= length / 2) & (np.abs(c * dy - s * dx) <= width / 2)
            cells = np.column_stack([r[covered], k[covered]]).astype(int)
            label = VEHICLE if int(kind) in VEHICLE_BOXES else PERSON
            yield Thing(label, int(kind) == CAR, cells, points, float(np.hypot(x, y)))
    elif frame.semantic is not None and frame.instance is not None:
        for semantic, instance in np.unique(np.column_stack([frame.semantic, frame.instance]), axis=0).tolist():
            label = _SEMANTIC.get(semantic, UNKNOWN)
            if label not in (VEHICLE, PERSON):
                continue
            hit = frame.xyz[(frame.semantic == semantic) & (frame.instance == instance)]
            cells = np.unique(np.floor(n / 2 - hit[:, :2] / res).astype(int), axis=0)
            yield Thing(label, semantic in _CARS, cells, len(hit), float(np.hypot(*hit[:, :2].mean(0))))


class ThingScore:
    """Which cars were found, and which vehicle-labelled clusters are no vehicle.

    Args:
        config: grid.
        sector_deg: sector ahead in which things are labelled; clusters outside it are not counted.
    """

    def __init__(self, config: BevConfig, sector_deg: float) -> None:
        self._config = config
        axis = metres(np.arange(config.cells), config)
        x, y = axis[:, None], axis[None]
        self._counted = (np.hypot(x, y) <= RANGE_M) & (np.abs(np.degrees(np.arctan2(y, x))) <= sector_deg / 2)
        self.cars: list[bool] = []
        self.cars_on_map: list[bool] = []
        self.clusters: list[bool] = []

    def add(self, labels: Labels, found: list[Thing]) -> None:
        """Add one frame's class ids (H, W) and what is truly there."""
        n = self._config.cells
        vehicles = np.zeros((n, n), bool)
        for thing in found:
            on_map = thing.cells[((thing.cells >= 0) & (thing.cells < n)).all(1)]
            if thing.label != VEHICLE:
                continue
            vehicles[tuple(on_map.T)] = True
            if thing.car and thing.points >= MIN_POINTS and thing.distance_m <= RANGE_M:
                hit = int((labels[tuple(on_map.T)] == VEHICLE).sum()) >= 0.5 * len(thing.cells)
                self.cars.append(hit)
                self.cars_on_map += [hit] if len(on_map) == len(thing.cells) else []
        clusters, count = ndimage.label(labels == VEHICLE, np.ones((3, 3)))
        touched = ndimage.binary_dilation(vehicles, np.ones((3, 3)))
        for cluster in range(1, count + 1):
            cells = clusters == cluster
            if cells.sum() >= 2 and (cells & self._counted).sum() * 2 >= cells.sum():
                self.clusters.append(bool((cells & touched).any()))

    @property
    def values(self) -> dict[str, Any]:
        """Shares (None of nothing) and counts."""
        return {
            "cars_found": share(self.cars),
            "cars": len(self.cars),
            "cars_found_on_map": share(self.cars_on_map),
            "cars_on_map": len(self.cars_on_map),
            "clusters_true": share(self.clusters),
            "clusters": len(self.clusters),
        }


def share(hits: list[bool]) -> float | None:
    """Return the share of True, None of nothing."""
    return round(sum(hits) / len(hits), 4) if hits else None


def measured_ahead(frames: list[Frame], config: BevConfig) -> Iterator[tuple[dict[str, Any], Mask, Mask]]:
    """Yield, for each scan of a sequence that has 15 before it and `AHEAD` after it, what a forecast can be held to.

    No one labelled these: the truth is what the scan `AHEAD` periods later measured, moved back by scan matching, in
    the cells where it measured anything. A cell that it calls ground may stand for the back of a thing.

    Yields:
        {"maps": (H, W, channels), "still": the same without ego motion}, occupied later, seen later.
    """
    follow, still = BevHistory(config), BevHistory(replace(config, ego_motion="none"))
    waiting: list[tuple[dict[str, Any], Motion2]] = []
    for i, frame in enumerate(frames):
        maps = follow.push(frame.xyz, i * PERIOD_NS)
        plain = still.push(frame.xyz, i * PERIOD_NS)
        waiting = [(seen, way.then(follow.motion)) for seen, way in waiting]
        if i >= config.history - 1:
            waiting.append(({"maps": maps.copy(), "still": plain.copy()}, Motion2()))
        if len(waiting) > AHEAD:
            seen, way = waiting.pop(0)
            slices = moved(np.ascontiguousarray(maps[..., :6]), *_inverse(way), config)
            yield seen, slices[..., 1:5].max(-1) > 0, slices[..., :5].max(-1) > 0


def _inverse(way: Motion2) -> tuple[float, float, float]:
    c, s = np.cos(way.yaw), np.sin(way.yaw)
    return float(-(c * way.x + s * way.y)), float(s * way.x - c * way.y), -way.yaw
