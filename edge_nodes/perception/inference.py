# SPDX-License-Identifier: Apache-2.0
"""A trained network on its device: loading, warm-up and running."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from edge_nodes import models
from edge_nodes.errors import ModelError, State
from edge_nodes.perception import device as devices
from edge_nodes.perception.config import BevConfig, NetworkConfig
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.history import BevHistory
from edge_nodes.perception.networks import KINDS, MULTIPLE, details_of, fused, looked_at_twice

FORMAT = 1


class Inference:
    """Keeps the history of maps and runs one network on it.

    Args:
        model: name or directory of a model, see `edge_nodes.models`.
        bev: the maps; cells must be a multiple of 32 and history what the model learned.
        device: see `edge_nodes.perception.device.parse`.
        threads: CPU threads.
        precision: see `edge_nodes.perception.device.Device.dtype`.
        progress: told what is done, one line a step.

    Raises:
        ModelError: MODEL_MISSING, MODEL_BAD.
        PerceptionError: NO_DEVICE, OUT_OF_MEMORY, or maps the model cannot take.

    Attributes:
        model_name: of the manifest.
        device: where it runs.
        dtype: numbers it runs in.
        mirrored: whether maps are looked at twice, see `edge_nodes.perception.networks.looked_at_twice`.
        bev_ms, network_ms: what the last scan took.
    """

    def __init__(
        self,
        model: str,
        bev: BevConfig,
        *,
        device: str,
        threads: int,
        precision: str = "auto",
        progress: Callable[[str], None],
    ) -> None:
        self.device = devices.parse(device)
        self.mirrored, self.bev_ms, self.network_ms = False, 0.0, 0.0
        self._worker = devices.Worker(self.device, threads)
        self._worker.pin()
        progress(f"loading {model}")
        found = models.find(model)
        self.model_name = str(found.manifest.get("name", model))
        self.hyper = dict(found.manifest.get("hyper_parameters", {}))
        self._details = details_of(self.hyper)
        self.history = BevHistory(bev, details=self._details)
        _check(found, self.hyper, bev, self.history.channels)
        self.dtype = self.device.dtype(precision)
        self._network = _build(found, self.hyper, self.device.torch).to(self.dtype)
        self._copy = _Copy(self.device.torch)
        progress(f"warming up {model} on {self.device}")
        self._warm_up()

    def _warm_up(self) -> None:
        n = self.history.config.cells
        with self.device.memory_for(self.model_name):
            for _ in range(3):
                self.forward(np.zeros((n, n, self.history.channels), np.uint8))

    def forward(self, maps: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Return the network's output on its device.

        Args:
            maps: (H, W, channels) uint8 as `BevHistory.push` returns them; channels that the network does not know,
                the last ones, are left out.

        Returns:
            (channels, H, W).

        Raises:
            PerceptionError: there are fewer channels than the network knows.
        """
        channels = self.history.channels
        if maps.shape[2] != channels:
            maps = _first(maps, channels, self.model_name)
        with torch.inference_mode():
            # Channels are last in memory and stay so: no transposed copy.
            x = self._copy(torch.from_numpy(maps)).permute(2, 0, 1)[None]
            x = x.to(self.dtype).mul_(1 / 255)
            look = partial(looked_at_twice, self._network, details=self._details) if self.mirrored else self._network
            scores: torch.Tensor = look(x)
            return scores[0].float()

    def run(self, xyz: npt.NDArray[np.float32], stamp_ns: int) -> torch.Tensor:
        """Add a scan (N, 3) to the history and return the network's output (channels, H, W) on its device."""
        self._worker.pin()
        begin = time.perf_counter()
        maps = self.history.push(xyz, stamp_ns)
        middle = time.perf_counter()
        scores = self.forward(maps)
        if scores.is_cuda:
            torch.cuda.synchronize(scores.device)
        self.bev_ms, self.network_ms = (middle - begin) * 1e3, (time.perf_counter() - middle) * 1e3
        return scores


class Estimator:
    """A network with its history of maps, as a node's parameters say.

    Args:
        config: model, device, maps.
        progress: told what loading does, one line a step.

    Raises:
        ModelError, PerceptionError: see `Inference`.
    """

    def __init__(self, config: NetworkConfig, progress: Callable[[str], None] = lambda _: None) -> None:
        self.inference = Inference(
            config.model,
            config.bev,
            device=config.device,
            threads=config.threads,
            precision=config.precision,
            progress=progress,
        )

    def configure(self, config: NetworkConfig) -> None:
        """Take changed run-time parameters."""
        self.inference.history.configure(config.bev)


class _Copy:
    """Brings maps to a device; to a GPU through pinned memory, which its copy engine reads by itself."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._pinned: torch.Tensor | None = None

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        if not self._device.startswith("cuda"):
            return maps
        if self._pinned is None:
            self._pinned = torch.empty_like(maps, pin_memory=True)
        # The copy before has ended: `run` waits for its scores.
        self._pinned.copy_(maps)
        return self._pinned.to(self._device, non_blocking=True)


def _first(maps: npt.NDArray[np.uint8], channels: int, model: str) -> npt.NDArray[np.uint8]:
    if maps.shape[2] < channels:
        raise PerceptionError(
            f"the maps lack channels that {model} knows",
            got=f"{maps.shape[2]} channels",
            expected=str(channels),
            remedy="Simulated sequences of an earlier version are made anew by: python -m train.perception.dataset",
        )
    return np.ascontiguousarray(maps[..., :channels])


def _check(found: models.ModelFile, hyper: dict[str, Any], bev: BevConfig, channels: int) -> None:
    if found.manifest and found.manifest.get("format") != FORMAT:
        raise ModelError(
            f"{found.path} has an unknown format",
            got=found.manifest.get("format"),
            expected=str(FORMAT),
            remedy="Install the model that belongs to this version.",
            state=State.MODEL_BAD,
        )
    wanted = hyper.get("inputs", 36)
    if channels != wanted:
        raise PerceptionError(
            f"{found.path} does not fit the maps",
            got=f"{channels} channels of bev.history {bev.history} and bev.intensity_full {bev.intensity_full:g}",
            expected=f"{wanted}: 6, 2 for each older map, 2 with intensity, 6 or 8 for a network with detail",
        )
    if bev.cells % MULTIPLE:
        raise PerceptionError(
            "the map's side does not fit the network",
            got=f"{bev.cells} cells (2 x {bev.range_m:g} m / {bev.resolution_m:g} m)",
            expected=f"a multiple of {MULTIPLE}",
        )


def _build(found: models.ModelFile, hyper: dict[str, Any], device: str) -> torch.nn.Module:
    kind = str(found.manifest.get("architecture", "pyramid"))
    try:
        state = load_file(found.path)
        network: torch.nn.Module = KINDS[kind](**hyper)
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{found.path} is not a model of architecture {kind!r}",
            got=" ".join(str(error).split())[:300],
            expected="one of " + ", ".join(KINDS),
            remedy="Install it again.",
            state=State.MODEL_BAD,
        ) from None
    return fused(network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
