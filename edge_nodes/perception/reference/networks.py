# SPDX-License-Identifier: Apache-2.0
"""The two published networks, wired as their checkpoints were made (arXiv 2412.18165 and its notebook).

Six levels halve the map; the decoders bring it back to full size. Every convolution is followed by batch norm and a
leaky ReLU, the last one too: the output is a real-valued map, not a probability.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, leaky_relu_, max_pool2d

from edge_nodes.perception.errors import PerceptionError

# Channels of the input and of the six levels.
_WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
_LEVELS = len(_WIDTHS) - 1
_STEP, _REST = 64, 40


class Layer(NamedTuple):
    """A convolution of a checkpoint and the norm after it.

    Attributes:
        name: of the convolution.
        inputs, outputs: channels.
        kernel, stride, padding: of the convolution.
        transposed: whether it is a transposed one; all of the decoder's are.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    transposed: bool = False

    @property
    def norm(self) -> str:
        """Name of the batch norm."""
        return self.name.replace("conv", "bn")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the convolution's weight."""
        channels = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        return (*channels, self.kernel, self.kernel)

    def module(self) -> nn.Module:
        """Return the convolution."""
        kind = nn.ConvTranspose2d if self.transposed else nn.Conv2d
        return kind(self.inputs, self.outputs, self.kernel, self.stride, self.padding)


def _layers(*, skips: bool, levels: int = _LEVELS) -> Iterator[Layer]:
    """Yield the layers in the checkpoint's order.

    Args:
        skips: whether the encoder's maps also go to the decoder, through `poolconv` and `upconv`.
        levels: how many levels.
    """
    for i in range(1, levels + 1):
        below, width = _WIDTHS[i - 1], _WIDTHS[i]
        yield Layer(f"conv{i}", below, width, 1) if i == 1 else Layer(f"conv{i}", below, width, 3, padding=1)
        yield Layer(f"conv{i}_1", width, width, 3, padding=1)
        if skips:
            yield Layer(f"poolconv{i}", width, width, 3, padding=1)
    for i in range(levels, 0, -1):
        below, width = _WIDTHS[i - 1], _WIDTHS[i]
        # Kernel 3 undoes the halving of an odd side.
        yield Layer(f"tranconv{i}", width, below, 3 if i in (4, 6) else 2, stride=2, transposed=True)
        if skips:
            kernel = 1 if i == 1 else 3
            yield Layer(f"upconv{i}", 2 * below, below, kernel, padding=kernel // 2, transposed=True)
        yield Layer(f"upconv{i}_1", below, 1 if i == 1 else below, 3, padding=1, transposed=True)


class ReferenceNetwork(nn.Module, ABC):
    """Maps (B, 16, H, W), oldest first, to one real-valued map (B, 1, H, W); H and W are `legal_size`s.

    Its state_dict has the checkpoint's names, order and shapes.

    Args:
        prune: leave out the layers whose results never reach the output.
        train_statistics: norm with each input's own mean and variance, as the notebook did in every run, instead of
            the checkpoint's. `train()` and `eval()` do not change it.
    """

    skips: ClassVar[bool]
    live_levels: ClassVar[int]

    def __init__(self, *, prune: bool = True, train_statistics: bool = False) -> None:
        super().__init__()
        self.levels = self.live_levels if prune else _LEVELS
        self.train_statistics = train_statistics
        for layer in _layers(skips=self.skips, levels=self.levels):
            self.add_module(layer.name, layer.module())
            self.add_module(layer.norm, nn.BatchNorm2d(layer.outputs))

    def forward(self, maps: Tensor, *, train_statistics: bool | None = None) -> Tensor:
        """Return the output map.

        Args:
            maps: (B, 16, H, W) of any number type, 0 or 1.
            train_statistics: overrules the network's own for this call.

        Raises:
            PerceptionError: no such maps.
        """
        batch_statistics = self.train_statistics if train_statistics is None else train_statistics
        self._check(maps, batch_statistics)
        with _full_precision(maps):
            return self._wire(maps.to(next(self.parameters()).dtype), batch_statistics)

    @abstractmethod
    def _wire(self, maps: Tensor, batch_statistics: bool) -> Tensor:
        """Return the output map (B, 1, H, W) of maps that were checked."""

    def _unit(self, name: str, x: Tensor, batch_statistics: bool) -> Tensor:
        """Return the result of one convolution, its norm and the leaky ReLU."""
        norm = cast(nn.BatchNorm2d, self.get_submodule(name.replace("conv", "bn")))
        statistics = (None, None) if batch_statistics else (norm.running_mean, norm.running_var)
        x = self.get_submodule(name)(x)
        x = batch_norm(x, *statistics, norm.weight, norm.bias, training=batch_statistics, eps=norm.eps)
        return leaky_relu_(x, 0.01)

    def _encode(self, level: int, x: Tensor, batch_statistics: bool) -> Tensor:
        """Return the next level's map, half as large."""
        x = self._unit(f"conv{level}", x, batch_statistics)
        return max_pool2d(self._unit(f"conv{level}_1", x, batch_statistics), 2)

    def _check(self, maps: Tensor, batch_statistics: bool) -> None:
        got = f"{tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[1] != _WIDTHS[0] or not maps.shape[0]:
            raise PerceptionError("not the maps of 16 scans", got=got, expected="a tensor (B, 16, H, W)")
        if any(side < legal_size(1) or side != legal_size(side) for side in maps.shape[2:]):
            raise PerceptionError("maps of a size the network cannot take", got=got, expected=_SIDES)
        if batch_statistics and self.skips and maps[:, 0].numel() == legal_size(1) ** 2:
            # Level 6 has one cell then, and one value has no variance.
            raise PerceptionError("a map too small for statistics of its own", got=got, expected=f"{legal_size(105)}")


class SegmentationNetwork(ReferenceNetwork):
    """The pyramid.

    As published, each level of its decoder starts from the encoder's own map and not from the level below: only
    level 1 reaches the output, 22,035 of 46,482,099 parameters.
    """

    skips = True
    live_levels = 1

    def _wire(self, maps: Tensor, batch_statistics: bool) -> Tensor:
        kept, x = [maps], maps
        for i in range(1, self.levels + 1):
            x = self._encode(i, x, batch_statistics)
            kept.append(self._unit(f"poolconv{i}", x, batch_statistics))
        for i in range(self.levels, 0, -1):
            x = self._unit(f"tranconv{i}", kept[i], batch_statistics)
            x = self._unit(f"upconv{i}", torch.cat([x, kept[i - 1]], 1), batch_statistics)
            x = self._unit(f"upconv{i}_1", x, batch_statistics)
        return x


class ReconstructionNetwork(ReferenceNetwork):
    """The autoencoder, properly chained; all of it is live."""

    skips = False
    live_levels = _LEVELS

    def _wire(self, maps: Tensor, batch_statistics: bool) -> Tensor:
        x = maps
        for i in range(1, self.levels + 1):
            x = self._encode(i, x, batch_statistics)
        for i in range(self.levels, 0, -1):
            x = self._unit(f"tranconv{i}", x, batch_statistics)
            x = self._unit(f"upconv{i}_1", x, batch_statistics)
        return x


KINDS: dict[str, type[ReferenceNetwork]] = {
    "segmentation": SegmentationNetwork,
    "reconstruction": ReconstructionNetwork,
}
"""Networks by the kind of their checkpoint."""


def entries(kind: str) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of every tensor of a checkpoint, in its order.

    Args:
        kind: a key of `KINDS`.
    """
    out: dict[str, tuple[int, ...]] = {}
    for layer in _layers(skips=KINDS[kind].skips):
        out |= {f"{layer.name}.weight": layer.weight_shape, f"{layer.name}.bias": (layer.outputs,)}
        out |= {f"{layer.norm}.{part}": (layer.outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
        out[f"{layer.norm}.num_batches_tracked"] = ()
    return out


def legal_size(cells: int) -> int:
    """Return the smallest side of a map that the networks take and that has at least so many cells.

    The odd kernels of the decoder fit sides of 64 k + 40 cells only, from 104: 168, ..., 1000.
    """
    return _STEP * max(1, -((_REST - cells) // _STEP)) + _REST


_SIDES = f"sides of {_STEP} k + {_REST} cells: {legal_size(1)}, {legal_size(105)}, ..., 1000"


@contextlib.contextmanager
def _full_precision(maps: Tensor) -> Iterator[None]:
    """Keep a GPU from shortening float32: TF32 would change the third digit."""
    if not maps.is_cuda:
        yield
        return
    cudnn = torch.backends.cudnn
    kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    with cudnn.flags(**kept, allow_tf32=False):
        yield
