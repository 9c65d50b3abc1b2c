# SPDX-License-Identifier: Apache-2.0
"""The early-exit Conformer (arXiv 2309.09546) and the Splitformer (arXiv 2506.18035) of the Splitformer's authors.

Modules bear the names of the authors' checkpoints. What looks odd is theirs, and part of the numbers: nothing between
the two subsampling convolutions, convolutions that see a batch's padding, and a parallel layer whose mask counts mel
frames. The Conformer layer is arXiv 2005.08100's with absolute positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_nodes.speech.errors import SpeechError

DROPOUT = 0.1
SHORTEST = 7
"""Mel frames that give one output frame."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network; the defaults are the published ones.

    Attributes:
        parallel: layers on every second frame beside the first and the last block; False is the early-exit Conformer.
        exits: blocks, each with an exit.
        layers_per_exit: Conformer layers of a block.
        positions: longest output, in frames of 40 ms.
        pieces: of the tokenizer, with the blank.
    """

    parallel: bool = True
    exits: int = 6
    layers_per_exit: int = 2
    width: int = 256
    heads: int = 8
    feed_forward: int = 2048
    kernel: int = 31
    mels: int = 80
    positions: int = 2000
    pieces: int = 256


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.sequential = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, inner),
            nn.SiLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(inner, width),
            nn.Dropout(DROPOUT),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.sequential(hidden)
        return output


class _Convolution(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.sequential = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(dim=1),
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Conv1d(width, width, 1),
            nn.Dropout(DROPOUT),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.sequential(self.layer_norm(hidden).transpose(1, 2))
        return output.transpose(1, 2)


class _ConformerLayer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.ffn1 = _FeedForward(width, sizes.feed_forward)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, sizes.heads, dropout=DROPOUT, batch_first=True)
        self.self_attn_dropout = nn.Dropout(DROPOUT)
        self.conv_module = _Convolution(width, sizes.kernel)
        self.ffn2 = _FeedForward(width, sizes.feed_forward)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, ignored: Tensor | None) -> Tensor:
        hidden = hidden + 0.5 * self.ffn1(hidden)
        x = self.self_attn_layer_norm(hidden)
        hidden = hidden + self.self_attn_dropout(self.self_attn(x, x, x, ignored, need_weights=False)[0])
        hidden = hidden + self.conv_module(hidden)
        output: Tensor = self.final_layer_norm(hidden + 0.5 * self.ffn2(hidden))
        return output


class _Block(nn.Module):
    def __init__(self, sizes: Sizes, layers: int) -> None:
        super().__init__()
        self.conformer_layers = nn.ModuleList(_ConformerLayer(sizes) for _ in range(layers))

    def forward(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, T, width); attention ignores frames from `lengths`, (B,) int64, on."""
        ignored = None
        if lengths is not None:
            ignored = torch.arange(hidden.shape[1], device=hidden.device) >= lengths[:, None]
        for layer in self.conformer_layers:
            hidden = layer(hidden, ignored)
        return hidden


class _Subsampling(nn.Module):
    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        self.sequential = nn.Sequential(nn.Conv1d(mels, width, 3, stride=2), nn.Conv1d(width, width, 3, stride=2))

    def forward(self, mel: Tensor) -> Tensor:
        output: Tensor = self.sequential(mel)
        return output.transpose(1, 2)


class _Positions(nn.Module):
    pe: Tensor

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(positions, width))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.dropout(hidden + self.pe[: hidden.shape[1], 0])
        return output


class Network(nn.Module):
    """Mel features to log-probabilities of pieces, one result per exit."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.conv_subsample = _Subsampling(sizes.mels, sizes.width)
        self.positional_encoder = _Positions(sizes.positions, sizes.width)
        self.linears = nn.ModuleList(nn.Linear(sizes.width, sizes.pieces) for _ in range(sizes.exits))
        self.conformer = nn.ModuleList(_Block(sizes, sizes.layers_per_exit) for _ in range(sizes.exits))
        self.conformer_parallel = nn.ModuleList(_Block(sizes, 1) for _ in range(2 if sizes.parallel else 0))

    def forward(self, mel: Tensor, lengths: Tensor | None = None, *, last_exit: int | None = None) -> Tensor:
        """Return the log-probabilities of every exit up to one.

        Args:
            mel: (B, 80, T) float, see `features`; items shorter than T are padded with zeros.
            lengths: (B,) int64, mel frames of each item; None if all are whole.
            last_exit: from 1; layers after it are not computed. None for all exits.

        Returns:
            (exits, B, (T - 3) // 4, pieces) float32.

        Raises:
            SpeechError: shapes or lengths that do not fit, an exit there is not.
        """
        last = self.sizes.exits if last_exit is None else last_exit
        if not 1 <= last <= self.sizes.exits:
            raise SpeechError("the network has no such exit", got=last, expected=f"1 to {self.sizes.exits}")
        return torch.stack(list(islice(self.exits(mel, lengths), last)))

    def exits(self, mel: Tensor, lengths: Tensor | None = None) -> Iterator[Tensor]:
        """Yield (B, T', pieces) of each exit in turn; a block is computed when its exit is asked for.

        See `forward` for the arguments and errors.
        """
        lengths = self._checked(mel, lengths)
        hidden = self.positional_encoder(self.conv_subsample(mel.to(self.positional_encoder.pe)))
        frames = None if lengths is None else (lengths // 4).clamp(max=hidden.shape[1])
        for index, (block, linear) in enumerate(zip(self.conformer, self.linears, strict=True)):
            output = block(hidden, frames)
            if self.sizes.parallel and index in (0, self.sizes.exits - 1):
                output = output + self._parallel(min(index, 1), hidden, lengths)
            hidden = output
            yield functional.log_softmax(linear(hidden), dim=-1)

    def _parallel(self, index: int, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """Return what a layer on every second frame makes of (B, T', width), repeated to full length."""
        frames, half = hidden.shape[1], hidden[:, ::2]
        if lengths is not None:
            # Mel frames halved, not the frames of this sequence: the authors' mask hardly ever masks.
            lengths = ((lengths + frames % 2) // 2).clamp(max=half.shape[1])
        output: Tensor = self.conformer_parallel[index](half, lengths)
        return output.repeat_interleave(2, dim=1)[:, :frames]

    def _checked(self, mel: Tensor, lengths: Tensor | None) -> Tensor | None:
        longest = 4 * self.sizes.positions + SHORTEST - 1
        shape_fits = mel.dim() == 3 and mel.shape[0] > 0 and mel.shape[1] == self.sizes.mels
        if not shape_fits or not mel.is_floating_point() or not SHORTEST <= mel.shape[2] <= longest:
            raise SpeechError(
                "the speech network cannot take these features",
                got=f"{str(mel.dtype).removeprefix('torch.')} of shape {tuple(mel.shape)}",
                expected=f"floats of shape (B, {self.sizes.mels}, T), T from {SHORTEST} to {longest}",
            )
        if lengths is None:
            return None
        lengths = torch.as_tensor(lengths, device=self.positional_encoder.pe.device)
        whole = not lengths.is_floating_point() and not lengths.is_complex() and lengths.dtype != torch.bool
        if not whole or lengths.shape != mel.shape[:1] or not 4 <= lengths.min() <= lengths.max() <= mel.shape[2]:
            raise SpeechError(
                "the lengths do not fit the features",
                got=str(lengths.tolist()),
                expected=f"{mel.shape[0]} integers from 4 to {mel.shape[2]}",
            )
        return lengths.long()


def sinusoids(positions: int, width: int) -> Tensor:
    """Return the table of positions, (positions, 1, width) float32: sine in even channels, cosine in odd ones."""
    rates = torch.exp(torch.arange(0, width, 2, device="cpu") * (-math.log(10000.0) / width))
    angles = torch.arange(positions, device="cpu")[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).reshape(positions, 1, width)
