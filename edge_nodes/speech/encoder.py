# SPDX-License-Identifier: Apache-2.0
"""An early-exit encoder with Splitformer's parallel layers (arXiv 2506.18035) on Whisper's encoder (arXiv 2212.04356).

After every block a CTC head reads characters (early-exit training, arXiv 2309.09546). Beside the first and the last
block a narrower layer runs on every second frame; what it adds is repeated to full length and summed before the exit.
Whisper's 30 s window is shortened to the utterance: positions only as long as the audio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_nodes.speech.beside import Beside

FRAME_MS = 20
"""Time between two output frames."""

_FRAMES = 128


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder; kept in the model's manifest."""

    blocks: int = 4
    width: int = 384
    heads: int = 6
    feed_forward: int = 1536
    parallel_feed_forward: int = 384
    mels: int = 80
    positions: int = 1500
    symbols: int = 29

    def to_dict(self) -> dict[str, int]:
        """Return the sizes as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, sizes: Mapping[str, int]) -> Shape:
        """Return the shape that `to_dict` gave."""
        return cls(**sizes)


class Layer(nn.Module):
    """A pre-norm Transformer layer; `forward` returns what it adds to its input."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward_in = nn.Linear(width, feed_forward)
        self.feed_forward_out = nn.Linear(feed_forward, width)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the layer's update.

        Args:
            hidden: (B, T, width) float32.
            mask: (B, 1, 1, T) bool, True where a key may be attended to; None for all.
        """
        added = self._attention(self.attention_norm(hidden), mask)
        inner = _gelu(self.feed_forward_in(self.feed_forward_norm(hidden + added)))
        output: Tensor = added + self.feed_forward_out(inner)
        return output

    def _attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.attention_in(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        output: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        return output


class Exit(nn.Module):
    """A CTC head: log-probabilities of the symbols for each frame."""

    def __init__(self, width: int, symbols: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.symbols = nn.Linear(width, symbols)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return (B, T, symbols) log-probabilities of (B, T, width)."""
        log_probs: Tensor = self.symbols(self.norm(hidden)).log_softmax(-1)
        return log_probs


class Encoder(nn.Module):
    """Mel features to character log-probabilities, one result per exit.

    Attributes:
        beside: runs the parallel layers beside their blocks; None runs them after.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.beside: Beside | None = None
        width = shape.width
        self.conv1 = nn.Conv1d(shape.mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(shape.positions, width), requires_grad=False)
        self.blocks = nn.ModuleList(Layer(width, shape.heads, shape.feed_forward) for _ in range(shape.blocks))
        self.parallel = nn.ModuleDict(
            {str(i): Layer(width, shape.heads, shape.parallel_feed_forward) for i in sorted({0, shape.blocks - 1})}
        )
        self.exits = nn.ModuleList(Exit(width, shape.symbols) for _ in range(shape.blocks))

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the log-probabilities of each exit in turn; a block is computed when its exit is asked for.

        Args:
            mel: (B, 80, T) float32, T <= 2 * positions; frames from `lengths` on are ignored.
            lengths: (B,) int64, mel frames of each item; None if all are whole.

        Yields:
            (B, ceil(T / 2), symbols) float32, `blocks` times.
        """
        hidden, mask = self.stem(mel, lengths)
        for index in range(self.shape.blocks):
            hidden = self.block(index, hidden, mask)
            yield self.exits[index](hidden)

    def stem(self, mel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the input of the first block, (B, T', width), and the mask of its frames, (B, T') bool or None."""
        x, mask = mel.transpose(1, 2), None
        if lengths is None:
            x = _gelu(_convolved(self.conv2, _gelu(_convolved(self.conv1, x))))
        else:
            # Zeroed after each step as a convolution's own padding is, so that a batch gives what single items give.
            whole = _mask(lengths, mel.shape[2])[..., None]
            x = _gelu(_convolved(self.conv1, x * whole)) * whole
            x = _gelu(_convolved(self.conv2, x))
            mask = _mask((lengths + 1) // 2, x.shape[1])
        return x + self.positions[: x.shape[1]], mask

    def block(self, index: int, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the output of block `index` with its parallel layer, (B, T', width)."""
        if str(index) not in self.parallel:
            return self._main(index, hidden, mask)

        def narrow() -> Tensor:
            half: Tensor = self.parallel[str(index)](hidden[:, ::2], _keys(None if mask is None else mask[:, ::2]))
            return half

        added = narrow if self.beside is None else self.beside.start(narrow)
        output = self._main(index, hidden, mask)
        return output + added().repeat_interleave(2, dim=1)[:, : hidden.shape[1]]

    def _main(self, index: int, hidden: Tensor, mask: Tensor | None) -> Tensor:
        output: Tensor = hidden + self.blocks[index](hidden, _keys(mask))
        return output


def _gelu(x: Tensor) -> Tensor:
    """Return the activation of (B, T, channels).

    Of few lengths where nothing is learnt: oneDNN keeps a program for each shape, and what lies between these in the
    heap is lost to larger shapes. Utterances of 300 lengths took half a gigabyte.
    """
    if torch.is_grad_enabled():
        return functional.gelu(x)
    frames = x.shape[1]
    return functional.gelu(functional.pad(x, (0, 0, 0, -frames % _FRAMES)))[:, :frames]


def _convolved(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """Return what a convolution of three frames makes of (B, T, channels), (B, T', channels).

    As one matrix product, since oneDNN keeps a program for each shape that it convolves.
    """
    windows = functional.pad(x, (0, 0, 1, 1)).unfold(1, 3, convolution.stride[0])
    return functional.linear(windows.flatten(2), convolution.weight.flatten(1), convolution.bias)


def _mask(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size) < lengths[:, None]


def _keys(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None]
