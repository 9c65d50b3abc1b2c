# SPDX-License-Identifier: Apache-2.0
"""The two networks: a pyramid for segmentation, an autoencoder for reconstruction and forecast.

Both have the shape of the Parallel Perception Network (arXiv 2412.18165): 16 past maps as channels in, an encoder
that halves the map level by level, a decoder that doubles it again. Unlike the published notebook's, the pyramid's
decoder is chained: each level starts from the level below and joins the encoder's map of its own size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edge_nodes.perception.bev import MOMENTS, SLICES

MULTIPLE = 32
"""Sides of input maps are multiples of this."""
NEWEST = 8
"""Channels of the newest scan and of the one before it."""
EARLIER = (10, 14, 24)
"""Channels that hold the obstacles of 0.3, 0.5 and 1 s ago."""


class Unit(nn.Module):
    """Convolution 3x3 or 1x1, batch norm, ReLU.

    Args:
        inputs, outputs: channels.
        kernel: 1 or 3.
        stride: 1 or 2.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride)."""
        return torch.relu(self.norm(self.conv(x)))


class Encoder(nn.Module):
    """Halves the map once per level; two units a level, the second with a short cut.

    Args:
        inputs: channels of the maps, all in one.
        widths: channels of each level.
        deep: how many units more, with short cuts as well, levels have: 1 leaves out the first level.
    """

    def __init__(self, inputs: int, widths: Sequence[int], *, deep: int = 0) -> None:
        super().__init__()
        before = [inputs, *widths[:-1]]
        self.range = nn.Conv2d(1, widths[0], 1)
        self.down = nn.ModuleList(Unit(a, b, stride=2) for a, b in zip(before, widths, strict=True))
        self.same = nn.ModuleList(Unit(b, b) for b in widths)
        self.more, self.again = _added(widths[1:] if deep else ()), _added(widths if deep > 1 else ())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the map of each level, (B, widths[i], H / 2^(i+1), W / 2^(i+1))."""
        levels = []
        for level, (down, same) in enumerate(zip(self.down, self.same, strict=True)):
            x = down(x)
            if level == 0:
                # How many points a thing returns depends on how far it is.
                # For each map on its own: the sum over maps that a shared one's gradient needs is slow.
                x = x + self.range(distance(x).expand(len(x), -1, -1, -1))
            x = x + same(x)
            if self.more and level > 0:
                x = x + self.more[level - 1](x)
            if self.again:
                x = x + self.again[level](x)
            levels.append(x)
        return levels


def _added(widths: Sequence[int]) -> nn.ModuleList:
    """Return units for networks that have learned without them: what they add begins small."""
    units = nn.ModuleList(Unit(width, width) for width in widths)
    for name, values in units.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.constant_(values, 0.1)
    return units


def _decoder(widths: Sequence[int]) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return what leads each level, from the deepest up, to the width of the one above, and what works there."""
    above, below = list(widths[:-1])[::-1], list(widths[1:])[::-1]
    squeeze = nn.ModuleList(Unit(b, a, kernel=1) for a, b in zip(above, below, strict=True))
    return squeeze, nn.ModuleList(Unit(a, a) for a in above)


class PyramidNetwork(nn.Module):
    """Maps (B, inputs, H, W), values 0..1, to class scores (B, classes, H, W).

    The levels begin at half resolution. With `detail` a branch of three layers works on single cells, on what the
    newest scan says of each: persons have few cells, and most that is wrong is wrong by one.

    Args:
        inputs: input channels.
        classes: output classes.
        widths: channels of the levels.
        detail: channels of the branch at full resolution; 0 for none.
        details: how many of the inputs, the last ones, say more of the newest scan, for that branch.
        layers: of the branch, between its first and its last one.
        deep: how many units more levels have, on the way down and up: 1 leaves out the first level.
        coarse: whether the branch sees the scores it is to change.
    """

    def __init__(
        self,
        inputs: int = 36,
        classes: int = 6,
        widths: Sequence[int] = (32, 48, 64, 96, 128),
        detail: int = 0,
        details: int = MOMENTS,
        layers: int = 1,
        deep: int = 0,
        coarse: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(inputs, widths, deep=deep)
        self.squeeze, self.merge = _decoder(widths)
        self.more = _added(widths[-2:0:-1] if deep else ())
        self.again = _added(widths[-2::-1] if deep > 1 else ())
        self.head = nn.Conv2d(widths[0], 4 * classes, 3, padding=1)
        self.fine = nn.Conv2d(classes + SLICES, classes, 3, padding=1)
        self.branch = _Branch(widths[0], classes, detail, details, layers, coarse=coarse) if detail else None

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores; H and W are multiples of `MULTIPLE`."""
        levels = self.encoder(x)
        y = levels.pop()
        for squeeze, merge, *added in zip_longest(self.squeeze, self.merge, self.more, self.again):
            y = merge(interpolate(squeeze(y), scale_factor=2.0, mode="nearest") + levels.pop())
            for unit in filter(None, added):
                y = y + unit(y)
        scores: Tensor = torch.pixel_shuffle(self.head(y), 2)
        # The newest scan at full resolution sharpens the borders.
        sharp: Tensor = self.fine(torch.cat([scores, x[:, :SLICES]], 1))
        return scores + sharp if self.branch is None else scores + sharp + self.branch(x, y, scores)


class _Branch(nn.Module):
    """What the newest scan's cells change in the scores; nothing before it has learned.

    Args:
        inputs: channels of the decoder's map.
        classes: output classes.
        width: channels.
        details: channels of the maps that only it has at full resolution, the last ones.
        layers: between its first and its last one.
        coarse: whether it sees the scores it is to change.
    """

    def __init__(self, inputs: int, classes: int, width: int, details: int, layers: int, *, coarse: bool) -> None:
        super().__init__()
        self._details = details
        self.cells, self.context = Unit(SLICES + details, width), Unit(inputs, width, kernel=1)
        self.coarse = nn.Conv2d(classes, width, 3, padding=1, bias=False) if coarse else None
        self.same = Unit(width, width)
        self.more = _added([width] * (layers - 1))
        self.change = nn.Conv2d(width, classes, 3, padding=1)
        for layer in filter(None, (self.coarse, self.change)):
            for values in layer.parameters():
                nn.init.zeros_(values)

    def forward(self, x: Tensor, y: Tensor, scores: Tensor) -> Tensor:
        """Return (B, classes, H, W).

        Args:
            x: maps (B, C, H, W).
            y: the decoder's map (B, inputs, H / 2, W / 2).
            scores: to be changed (B, classes, H, W).
        """
        newest = torch.cat([x[:, :SLICES], x[:, -self._details :]], 1)
        z = self.cells(newest) + interpolate(self.context(y), scale_factor=2.0, mode="nearest")
        if self.coarse is not None:
            z = z + self.coarse(scores)
        for layer in (self.same, *self.more):
            z = z + layer(z)
        change: Tensor = self.change(z)
        return change


class AutoencoderNetwork(nn.Module):
    """Maps (B, inputs, H, W), values 0..1, to logits (B, 2, H, W): occupied now, and occupied ahead of time.

    An autoencoder proper: everything passes the middle; its levels are less deep and wider than the pyramid's. Only
    what the newest scan itself measured goes to the last layers directly: it needs no reconstruction.

    Args:
        inputs: input channels.
        outputs: maps to give.
        widths: channels of the levels.
    """

    def __init__(self, inputs: int = 36, outputs: int = 2, widths: Sequence[int] = (32, 64, 96, 128)) -> None:
        super().__init__()
        self.encoder = Encoder(inputs, widths)
        self.middle = nn.Sequential(Unit(widths[-1], widths[-1]), Unit(widths[-1], widths[-1]))
        self.squeeze, self.merge = _decoder(widths)
        # Two by two cells of the newest scan and some before it, as channels of the decoder's map.
        self.join = Unit(widths[0] + 4 * (NEWEST + len(EARLIER)), widths[0])
        self.head = nn.Conv2d(widths[0], 4 * outputs, 3, padding=1)
        self.flow = nn.Conv2d(widths[0], 2, 3, padding=1)
        for values in self.flow.parameters():
            nn.init.zeros_(values)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits; H and W are multiples of `MULTIPLE`."""
        y = self.middle(self.encoder(x)[-1])
        for squeeze, merge in zip(self.squeeze, self.merge, strict=True):
            y = merge(interpolate(squeeze(y), scale_factor=2.0, mode="nearest"))
        measured = torch.cat([x[:, :NEWEST], *(x[:, c : c + 1] for c in EARLIER)], 1)
        y = self.join(torch.cat([y, torch.pixel_unshuffle(measured, 2)], 1))
        logits = torch.pixel_shuffle(self.head(y), 2).float()
        # What is there now goes where its cells' flow carries it; the rest of the forecast is learned freely.
        now = logits[:, :1]
        way = interpolate(self.flow(y).float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.cat([now, logits[:, 1:] + moved_along(now, way) - now], 1)


def looked_at_twice(network: Callable[[Tensor], Tensor], x: Tensor, *, details: int = 0) -> Tensor:
    """Return the mean of a network's outputs for maps (B, C, H, W) and for them with left and right exchanged.

    A street has no preferred side, and two looks err less than one, at twice the operations.

    Args:
        network: maps to outputs.
        x: values 0..1.
        details: how many of the channels, the last ones, begin with `BevMap.detail`, some of which speak of left and
            right.
    """
    # One after the other: together they would need twice the memory, and caches hold one.
    return (network(x).float() + network(_exchanged(x, details)).flip(-1).float()) / 2


def _exchanged(x: Tensor, details: int) -> Tensor:
    x = x.flip(-1)
    if details:
        # The offset along columns and the covariance: code c becomes 256 - c.
        first = x.shape[1] - details + 1
        x[:, first : first + 2] = 256 / 255 - x[:, first : first + 2]
    return x


def moved_along(x: Tensor, way: Tensor) -> Tensor:
    """Return maps (B, C, H, W) after all has moved along `way` (B, 2, H, W): tens of cells to the right, down."""
    height, width = x.shape[-2:]
    rows, columns = (torch.arange(n, device=x.device, dtype=way.dtype) for n in (height, width))
    u = (columns[None, None] - 10 * way[:, 0] + 0.5) * (2 / width) - 1
    v = (rows[None, :, None] - 10 * way[:, 1] + 0.5) * (2 / height) - 1
    grid = torch.stack([u, v], -1)
    return grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def distance(x: Tensor) -> Tensor:
    """Return each cell's distance from the middle of a map (B, C, H, W) as (1, 1, H, W), 1 after 64 cells."""
    rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) - (n - 1) / 2 for n in x.shape[-2:])
    return torch.sqrt(rows[:, None] ** 2 + columns[None] ** 2)[None, None] / 64


def fused(network: nn.Module) -> nn.Module:
    """Fold each unit's batch norm into its convolution, in place, for inference; return the network."""
    network.eval()
    for module in network.modules():
        if isinstance(module, Unit):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)  # type: ignore[type-var,arg-type]
            module.norm = nn.Identity()
    return network


def details_of(hyper: Mapping[str, Any]) -> int:
    """Return how many of a network's inputs, the last ones, are details of the newest scan (`BevHistory`)."""
    return int(hyper.get("details", MOMENTS)) if hyper.get("detail", 0) else 0


KINDS: dict[str, Any] = {"pyramid": PyramidNetwork, "autoencoder": AutoencoderNetwork}
"""Architectures by the name a manifest gives them."""
