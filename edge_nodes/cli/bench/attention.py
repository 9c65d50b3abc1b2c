# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench attention`: dense and delta attention over their caches, without the rest of the model.

The machine may be shared: all kinds are timed in turn, many rounds, and the best of each counts. Keys are AR(1) rows
whose share of zeros is stated, and those of a model on a text if one is named; enough layers are walked that no cache
of the processor holds them at 4,096 tokens.
Delta attention falls back to exact keys in short contexts, as in the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes.cli import figures
from edge_nodes.cli.bench.attention_keys import Keys, ModelKeys, Shape, SmoothKeys
from edge_nodes.cli.figures import target
from edge_nodes.language.config import DeltaConfig

CONTEXTS = (128, 512, 1024, 2048, 4096, 8192)
DELTA = ("delta", "delta, i8 values")
KINDS = ("f16", "i8", *DELTA)
DENSE_BELOW = DeltaConfig().dense_below
CHUNK = 64  # tokens of a step of a prompt
ROUNDS = 25


SHAPES = (Shape("SmolLM2-135M", 3, 3, 64, 30, 30), Shape("BitNet-2B", 5, 4, 128, 30, 5))


def bench(
    console: Console,
    *,
    quick: bool,
    threads: int = 1,
    kernel: str = "auto",
    text: Path | None = None,
    model: str = "smollm2-135m",
) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        quick: three contexts, and one shape of random keys.
        threads: that share the heads.
        kernel: instruction set.
        text: the model's keys on it are attended over as well.
        model: name or file; see `text`.

    Raises:
        EdgeNodesError: no such model, or a text that is too short or cannot be read.
    """
    shapes, contexts = (SHAPES[:1], (128, 512, 4096)) if quick else (SHAPES, CONTEXTS)
    rounds = 6 if quick else ROUNDS
    rows: list[dict[str, Any]] = []
    walked: list[Keys] = [SmoothKeys(shape) for shape in shapes]
    if text is not None:
        with console.status(f"{model} reads {text.name}"):
            walked.append(ModelKeys(model, text, max(contexts) + CHUNK))
    for keys in walked:
        with console.status(f"heads of {keys.shape.name}"):
            rows += _Walk(keys, contexts, threads, kernel).rows(rounds)
    config = {
        "quick": quick,
        "threads": threads,
        "kernel": kernel,
        "rounds": rounds,
        "keys": {keys.shape.name: keys.about for keys in walked},
        "dense_below": DENSE_BELOW,
        "layers": {keys.shape.name: [keys.shape.walked, keys.shape.layers] for keys in walked},
    }
    return figures.result("attention", config, {"attention": rows}, targets(rows))


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    columns = ("context", "decode_ms", "bound_ms", "speedup", "prefill_ms", "key_ratio", "value_ratio", "zeros")
    for name in dict.fromkeys(row["shape"] for row in result["results"]["attention"]):
        rows = [row for row in result["results"]["attention"] if row["shape"] == name]
        figures.show_table(console, name, ("", *columns), ([row["kind"], *(row[c] for c in columns)] for row in rows))
    figures.show_targets(console, result["targets"])


def targets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached."""
    out = []
    for name, kind in dict.fromkeys((row["shape"], row["kind"]) for row in rows if row["kind"] in DELTA):
        of_shape = [row for row in rows if (row["shape"], row["kind"]) == (name, kind)]
        at_4k = [row for row in of_shape if row["context"] == 4096]
        ratio = max((row["key_ratio"] for row in at_4k), default=None)
        out += [
            target(f"{name}, {kind}: bytes of keys at 4k / half precision, 60 % zeros", ratio, "<=", 0.5),
            target(f"{name}, {kind}: decode at 4k, times as fast as dense f16", _least(at_4k), ">=", 1.3),
            target(f"{name}, {kind}: decode at any context, times as fast as dense f16", _least(of_shape), ">=", 0.95),
        ]
    return out


def _least(rows: Sequence[Mapping[str, Any]]) -> float | None:
    return min((row["speedup"] for row in rows), default=None)


class _Walk:
    """The caches of one shape, filled alike."""

    def __init__(self, keys: Keys, contexts: Sequence[int], threads: int, kernel: str) -> None:
        from edge_nodes.native import _kernels as native

        shape = self._shape = keys.shape
        self._native, self._keys, self._contexts, self._threads, self._kernel = native, keys, contexts, threads, kernel
        options = {
            "layers": shape.walked, "kv_heads": shape.kv_heads, "head_dim": shape.dim, "heads_per_kv": shape.group,
            "context": max(contexts) + CHUNK, "kernel": kernel, "threads": threads, "dense_below": DENSE_BELOW,
        }  # fmt: skip
        self._caches = {
            kind: native.Attention(kind.partition(",")[0], byte_values=kind == DELTA[1], **options, **keys.options)
            for kind in KINDS
        }
        self._filled = 0

    def rows(self, rounds: int) -> list[dict[str, Any]]:
        """Return the figures of every context and kind."""
        out = []
        for context in self._contexts:
            self._begin(context)
            self._fill(context)
            counts = self._caches["delta"].counts()
            decode, prefill = self._best(context, 1, rounds), self._best(context, CHUNK, max(2, rounds // 3))
            first = self._best(CHUNK, CHUNK, 2)
            for kind in KINDS:
                sizes = self._sizes(kind, context, int(counts["key_bytes"]))
                out.append(
                    {
                        "shape": self._shape.name,
                        "kind": kind,
                        "context": context,
                        "decode_ms": decode[kind] * 1e3,
                        "bound_ms": sum(sizes) * self._scale / self._bandwidth() * 1e3,
                        "speedup": decode["f16"] / decode[kind],
                        # Attention to n keys takes time linear in n: the mean of the first and the last chunk.
                        "prefill_ms": (first[kind] + prefill[kind]) / 2 * context / CHUNK * 1e3,
                        "prefill_speedup": (first["f16"] + prefill["f16"]) / (first[kind] + prefill[kind]),
                        "key_bytes_per_token": sizes[0] * self._scale / context,
                        "key_ratio": sizes[0] / self._half(context),
                        "value_ratio": sizes[1] / self._half(context),
                        "zeros": float(np.mean(counts["zero_share"])) if kind in DELTA else None,
                    }
                )
        return out

    @property
    def _scale(self) -> float:
        return self._shape.layers / self._shape.walked

    def _half(self, context: int) -> int:
        """Bytes of keys in half precision."""
        return 2 * context * self._shape.walked * self._shape.kv_heads * self._shape.dim

    def _sizes(self, kind: str, context: int, coded: int) -> tuple[float, float]:
        """Bytes of keys and of values that a token reads."""
        half = self._half(context)
        scales = 4 * context * self._shape.walked * self._shape.kv_heads
        byte = half / 2 + scales
        by_kind = {"f16": (half, half), "i8": (byte, byte), DELTA[0]: (coded, half), DELTA[1]: (coded, byte)}
        return by_kind[kind]

    def _bandwidth(self) -> float:
        if not hasattr(self, "_bytes_per_s"):
            self._bytes_per_s = float(self._native.memory_bandwidth(self._kernel, self._threads, 3))
        return self._bytes_per_s

    def _fill(self, length: int) -> None:
        while self._filled < length:
            keys, values = self._keys.rows(self._filled, CHUNK)
            for cache in self._caches.values():
                cache.write(self._filled, keys, values)
            self._filled += CHUNK

    def _begin(self, tokens: int) -> None:
        for kind in DELTA:
            self._caches[kind].begin(tokens)

    def _best(self, context: int, tokens: int, rounds: int) -> dict[str, float]:
        """Return least seconds of all layers for the newest `tokens` of a context, all kinds in turn."""
        q = self._keys.queries(context - tokens, tokens)
        self._begin(0 if tokens == 1 else context)
        best = dict.fromkeys(KINDS, float("inf"))
        for _ in range(rounds):
            for kind, cache in self._caches.items():
                best[kind] = min(best[kind], cache.attend(context - tokens, q, 1)[1])
        return {kind: seconds * self._scale for kind, seconds in best.items()}
