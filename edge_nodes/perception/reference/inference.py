# SPDX-License-Identifier: Apache-2.0
"""The published networks behind the nodes' topics: their maps in, the nodes' grid out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_nodes import models
from edge_nodes.errors import State
from edge_nodes.perception import device as devices
from edge_nodes.perception.config import CLASSES, BevConfig, NetworkConfig, ReconstructionConfig, SegmentationConfig
from edge_nodes.perception.ego_motion import EgoMotion
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.ground import Ground
from edge_nodes.perception.reconstruction import Occupancy
from edge_nodes.perception.reference.checkpoint import load
from edge_nodes.perception.reference.maps import HISTORY, RESOLUTION_M, MapHistory
from edge_nodes.perception.reference.networks import legal_size
from edge_nodes.perception.segmentation import Segments

FOLDER = "perception/reference"
"""Directory below the model cache in which `reference` alone looks for the authors' files."""
FILES = {
    "segmentation": ("racetrained-PPN-segnet.pth", "racetrained-PPN-model.pth", "pytorch_model.bin"),
    "reconstruction": ("racetrained-PPN-recnet.pth", "racetrained-PPN-model.pth", "pytorch_model.bin"),
}
"""The published names, in the order they are looked for."""
_OBSTACLE = CLASSES.index("obstacle")


def checkpoint(model: str, kind: str) -> Path:
    """Return the file that a node's `model` names: `reference`, `reference:FILE`, or a path.

    Raises:
        PerceptionError: MODEL_MISSING, `reference` alone and none of the authors' files is in the model cache.
    """
    if model != "reference":
        return Path(model.removeprefix("reference:")).expanduser()
    folder = models.cache_dir() / FOLDER
    found = next((folder / name for name in FILES[kind] if (folder / name).is_file()), None)
    if found is None:
        raise PerceptionError(
            "no published checkpoint is installed",
            got=f"none of them in {folder}",
            expected=" or ".join(FILES[kind]),
            remedy="Put the authors' file there, or set model to reference:FILE.",
            state=State.MODEL_MISSING,
        )
    return found


class ReferenceInference:
    """Keeps the 16 published maps and runs one published network on them.

    The maps have cells of 0.2 m and the smallest size the networks take that holds the node's map; `bev.range_m` 100
    gives the published 1000 x 1000. They are not moved by ego motion, as published. z counts from the cloud's origin,
    or from the ground if `bev.sensor_height_m` is set.

    Args:
        kind: "segmentation" or "reconstruction".
        config: model, device, maps.
        progress: told what is done, one line a step.

    Raises:
        PerceptionError: MODEL_MISSING, MODEL_BAD, NO_DEVICE, OUT_OF_MEMORY, or another history than 16.

    Attributes:
        model_name: of the file.
        device: where it runs.
        history: `config` and `ground`, as of `Inference.history`.
        bev_ms, network_ms: what the last scan took.
    """

    def __init__(self, kind: str, config: NetworkConfig, progress: Callable[[str], None]) -> None:
        bev = config.bev
        if bev.history != HISTORY:
            raise PerceptionError("bev.history does not fit the published network", got=bev.history, expected="16")
        self.device, self.dtype = devices.parse(config.device), torch.float32
        self.history = SimpleNamespace(
            config=bev, ground=Ground(offset_m=0.0 - bev.sensor_height_m), ego_motion=EgoMotion(bev)
        )
        self.bev_ms = self.network_ms = 0.0
        self._worker = devices.Worker(self.device, config.threads)
        self._worker.pin()
        path = checkpoint(config.model, kind)
        self.model_name = f"reference:{path.name}"
        progress(f"loading {path}")
        self._network = load(path, kind, train_statistics=config.reference.train_statistics)
        # A map of 104 cells has no statistics of its own: from 168.
        size = max(legal_size(math.ceil(bev.cells * bev.resolution_m / RESOLUTION_M - 1e-6)), legal_size(105))
        self._stamp_ns: int | None = None
        progress(f"warming up {self.model_name} on {self.device}, {size} x {size} cells")
        self._start(size)

    def _start(self, size: int) -> None:
        with self.device.memory_for(self.model_name):
            # Faster on a CPU with channels last in memory.
            self._network.to(device=self.device.torch, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.maps = MapHistory(size, device=self.device.torch)
            self._cover = _cover(self.history.config, size).to(self.device.torch)
            self._forward(self.maps.maps)

    def _forward(self, maps: Tensor) -> Tensor:
        """Return the output on the node's grid: the largest of the values each cell overlaps."""
        with torch.inference_mode():
            values: Tensor = self._network(maps.contiguous(memory_format=torch.channels_last))[0, 0]
            return values[self._cover].amax(1)[:, self._cover].amax(2)

    def run(self, xyz: npt.NDArray[np.float32], stamp_ns: int) -> Tensor:
        """Add a scan (N, 3) and return the network's values (H, W) on its device, row 0 farthest ahead.

        Args:
            xyz: (N, 3) float32, m, sensor frame.
            stamp_ns: its stamp; one that lies back in time or far ahead starts the history anew.
        """
        self._worker.pin()
        begin = time.perf_counter()
        bev: BevConfig = self.history.config
        gap = 0 if self._stamp_ns is None else stamp_ns - self._stamp_ns
        if gap < 0 or gap > bev.max_gap_s * 1e9:
            self.maps.reset()
        self.history.ground = Ground(offset_m=0.0 - bev.sensor_height_m)
        if bev.sensor_height_m:
            xyz = xyz[:, :3] + np.array([0, 0, bev.sensor_height_m], np.float32)
        maps = self.maps.push(xyz)
        self._stamp_ns = stamp_ns
        middle = time.perf_counter()
        values = self._forward(maps)
        if values.is_cuda:
            torch.cuda.synchronize(values.device)
        self.bev_ms, self.network_ms = (middle - begin) * 1e3, (time.perf_counter() - middle) * 1e3
        return values


class ReferenceSegmenter:
    """The published "segmentation" network as a `Segmenter`.

    Its one real-valued map knows no classes: a cell is `obstacle` from the threshold up, else `unknown`.

    Args:
        config: model, device, maps, threshold.
        progress: told what loading does, one line a step.

    Raises:
        PerceptionError: see `ReferenceInference`.
    """

    def __init__(self, config: SegmentationConfig, progress: Callable[[str], None] = lambda _: None) -> None:
        self.inference = ReferenceInference("segmentation", config, progress)
        self._threshold = config.reference.threshold

    def segment(self, xyz: npt.NDArray[np.float32], *, stamp_ns: int) -> Segments:
        """See `Segmenter.segment`."""
        found = self.inference.run(xyz, stamp_ns) >= self._threshold
        labels = (found.to(torch.uint8) * _OBSTACLE).to("cpu").numpy()
        return Segments(labels, self.inference.history.ground.offset_m)

    def configure(self, config: SegmentationConfig) -> None:
        """Take changed run-time parameters."""
        self.inference.history.config = config.bev
        self._threshold = config.reference.threshold


class ReferenceReconstructor:
    """The published reconstruction network as a `Reconstructor`: its values, clamped to 0..1.

    It looks not ahead: the forecast is the present map again.

    Args:
        config: model, device, maps.
        progress: told what loading does, one line a step.

    Raises:
        PerceptionError: see `ReferenceInference`.
    """

    def __init__(self, config: ReconstructionConfig, progress: Callable[[str], None] = lambda _: None) -> None:
        self.inference = ReferenceInference("reconstruction", config, progress)

    def reconstruct(self, xyz: npt.NDArray[np.float32], *, stamp_ns: int) -> Occupancy:
        """See `Reconstructor.reconstruct`."""
        now = self.inference.run(xyz, stamp_ns).clamp(0, 1).to("cpu").numpy()
        return Occupancy(now, now)

    def configure(self, config: ReconstructionConfig) -> None:
        """Take changed run-time parameters."""
        self.inference.history.config = config.bev


def _cover(bev: BevConfig, size: int) -> Tensor:
    """Return the published map's rows (or columns) that each of the node's overlaps, (cells, most) int64.

    The node's row 0 is farthest ahead, the published one's farthest behind; so for the columns.
    """
    high = (bev.cells / 2 - np.arange(bev.cells)) * bev.resolution_m
    # A border shared with the next cell is no overlap.
    first, last = (
        np.floor((edge + sign * 1e-4) / RESOLUTION_M + size / 2).astype(np.int64)
        for edge, sign in ((high - bev.resolution_m, 1), (high, -1))
    )
    index = first[:, None] + np.arange(int((last - first).max()) + 1)
    return torch.from_numpy(np.minimum(index, last[:, None]).clip(0, size - 1))
