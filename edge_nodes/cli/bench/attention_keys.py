# SPDX-License-Identifier: Apache-2.0
"""What `edge-nodes bench attention` attends over: random keys with a known share of zeros, or a model's of a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_nodes import models
from edge_nodes.cli.figures import DataError
from edge_nodes.language import attention, load
from edge_nodes.language.config import DeltaConfig
from edge_nodes.language.evaluation.likelihood import Evaluator
from edge_nodes.language.evaluation.tasks import read_whole

Floats = npt.NDArray[np.float32]

RHO, THETA = 0.9, 0.404  # 60 % zeros
UNCALIBRATED = 1.0  # a threshold with 60 % zeros in a model's keys


@dataclass(frozen=True)
class Shape:
    """Heads of a model, and how many layers are walked of how many."""

    name: str
    kv_heads: int
    group: int
    dim: int
    layers: int
    walked: int


class Rows(NamedTuple):
    """Rotated keys and values, float32 (layers, n, kv_heads, dim)."""

    keys: Floats
    values: Floats


class Keys(Protocol):
    """Where keys come from.

    Attributes:
        shape: of the heads.
        options: of the cache: thresholds, window and sink.
        about: what they are, in words.
    """

    shape: Shape
    options: dict[str, Any]
    about: str

    def rows(self, first: int, count: int) -> Rows:
        """Return the rows of positions first ...; every call goes on where the last one ended."""

    def queries(self, first: int, count: int) -> Floats:
        """Return scaled queries of positions first ..., float32 (layers, count, heads, dim)."""


@dataclass
class SmoothKeys:
    """Keys whose elements are AR(1) sequences of unit deviation; values and queries are random."""

    shape: Shape
    options: dict[str, Any] = field(default_factory=lambda: {"theta": THETA})
    about: str = f"AR(1), rho {RHO}, theta {THETA}"

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._key = np.zeros((self.shape.walked, self.shape.kv_heads, self.shape.dim), np.float32)

    def rows(self, first: int, count: int) -> Rows:
        """Return the next rows."""
        shape = (count, *self._key.shape)
        keys = np.empty(shape, np.float32)
        for j, noise in enumerate(self._random.standard_normal(shape, np.float32)):
            self._key = np.float32(RHO) * self._key + np.float32(np.sqrt(1 - RHO**2)) * noise
            keys[j] = self._key
        keys = np.ascontiguousarray(keys.swapaxes(0, 1))
        return Rows(keys, self._random.standard_normal(keys.shape, np.float32))

    def queries(self, first: int, count: int) -> Floats:
        """Return random queries."""
        s = self.shape
        q = self._random.standard_normal((s.walked, count, s.kv_heads * s.group, s.dim), np.float32)
        q /= np.sqrt(s.dim, dtype=np.float32)
        return q


class ModelKeys:
    """What a model's attention works on while it reads a text, with the model's calibration if it has one.

    Args:
        model: name or file.
        text: UTF-8, or gzip of it.
        tokens: of the text, from its beginning.

    Raises:
        EdgeNodesError: no such model, or a text that is too short or cannot be read.
    """

    def __init__(self, model: str, text: Path, tokens: int) -> None:
        engine = load(model, context_tokens=tokens + 1)
        read = engine.tokenizer.encode(read_whole(text), special=False)[:tokens]
        if len(read) < tokens or engine.context_tokens <= tokens:
            raise DataError(
                "the text or the model's context is too short",
                got=f"{len(read)} tokens, context {engine.context_tokens}",
                expected=f"more than {tokens} of both",
            )
        engine.model.use_capture()
        Evaluator(engine).logits(read, last=True)
        self._queries, self._keys, self._values = engine.model.captured(tokens)
        layers, _, kv_heads, dim = self._keys.shape
        found = attention.find_calibration(DeltaConfig(), engine.path)
        self.options: dict[str, Any] = {"theta": UNCALIBRATED}
        if found is not None:
            self.options = {"theta": found.theta(), "window_scale": found.window_scale, "sink": found.sink}
        thresholds = f"theta {UNCALIBRATED}" if found is None else "calibrated"
        self.about = f"of {models.find(model, verify=False).path.name} on {text.name}, {thresholds}"
        group = self._queries.shape[2] // kv_heads
        self.shape = Shape(f"{engine.name}, its own keys", kv_heads, group, dim, layers, layers)

    def rows(self, first: int, count: int) -> Rows:
        """Return rows of the text."""
        part = slice(first, first + count)
        return Rows(np.ascontiguousarray(self._keys[:, part]), np.ascontiguousarray(self._values[:, part]))

    def queries(self, first: int, count: int) -> Floats:
        """Return queries of the text."""
        return np.ascontiguousarray(self._queries[:, first : first + count])
