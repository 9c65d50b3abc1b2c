# SPDX-License-Identifier: Apache-2.0
"""Which attention a model uses: dense, or delta attention with the thresholds of a calibration file or of a number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_nodes import models
from edge_nodes.language.config import DeltaConfig
from edge_nodes.language.delta.sparsity import Sparsity, layer_figure, running_figure
from edge_nodes.language.errors import LanguageError

SCHEMA = "edge_nodes/delta_calibration/1"
Theta = npt.NDArray[np.float32]
_HASHED_BYTES = 1 << 20  # of each end of a model file: gigabytes would take seconds


@dataclass(frozen=True)
class Calibration:
    """Thresholds that `edge-nodes models calibrate` found.

    Attributes:
        model: `model_hash` of the model they are for.
        window_scale, sink: what they were found with.
        levels: {sparsity, increase, theta} of each trade, by sparsity; `increase` of perplexity on the text, a share.
        chosen: index of the level within the budget.
    """

    model: str
    window_scale: float
    sink: int
    levels: tuple[Mapping[str, Any], ...]
    chosen: int

    def theta(self, level: int | None = None) -> Theta:
        """Return the thresholds (layers, kv_heads, head_dim) of a level, or of the chosen one."""
        return np.asarray(self.levels[self.chosen if level is None else level]["theta"], np.float32)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {"schema": SCHEMA, **{k: getattr(self, k) for k in ("model", "window_scale", "sink", "chosen")}}
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**plain, "levels": list(self.levels)}))
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read a file.

        Raises:
            LanguageError: BAD_INPUT, there is none or it is not a calibration.
        """
        try:
            found = json.loads(path.read_text())
            if found["schema"] != SCHEMA:
                raise ValueError(f"schema {found['schema']!r}")
            out = cls(
                found["model"], found["window_scale"], found["sink"], tuple(found["levels"]), int(found["chosen"])
            )
            out.theta()
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise LanguageError(
                f"{path} is not a calibration",
                got=error,
                expected=f"JSON of schema {SCHEMA}",
                remedy="Run: edge-nodes models calibrate MODEL --text FILE",
            ) from error
        return out


def model_hash(path: Path) -> str:
    """Return what tells a model file from others: sha256 of its size, its first and its last MiB."""
    digest, size = hashlib.sha256(), path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(0, size - _HASHED_BYTES))
        digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()


def calibration_path(path: Path) -> Path:
    """Return where the calibration of a model file is kept: in the model cache, by its hash."""
    return models.cache_dir() / "calibration" / f"{model_hash(path)[:24]}.json"


def use(model: Any, kind: str, config: DeltaConfig, *, path: Path | None = None, kv_cache: str = "f16") -> str:
    """Make a model use dense or delta attention; it forgets what it has cached. Return what is used, in words.

    Args:
        model: the native model.
        kind: "dense" or "delta".
        config: thresholds, window and sink.
        path: the model's file, for `calibration: auto`.
        kv_cache: type of the dense cache; "i8" keeps the values of delta attention in 8 bits, too.

    Raises:
        LanguageError: BAD_INPUT, a calibration that cannot be used.
    """
    if kind == "dense":
        if getattr(model, "uses_delta", False):
            model.use_cache(kv_cache)
        return "dense"
    if not hasattr(model, "use_delta"):
        raise LanguageError(
            "this model has no delta attention", got=type(model).__name__, remedy="Set attention to dense."
        )
    calibration = find_calibration(config, path)
    reason = "theta 0" if calibration is None and config.theta == 0.0 else _loses(model)
    if reason:
        if model.uses_delta:
            model.use_cache(kv_cache)
        return f"dense ({reason})"
    theta = np.full(1, config.theta, np.float32) if calibration is None else calibration.theta()
    # Thresholds hold for the window and the sink they were found with.
    exact = config if calibration is None else calibration
    try:
        model.use_delta(
            theta,
            window_scale=exact.window_scale,
            sink=exact.sink,
            byte_values=kv_cache == "i8",
            dense_below=config.dense_below,
        )
    except ValueError as error:
        raise LanguageError("the calibration is not for this model", got=error) from error
    thresholds = f"theta {config.theta:g}" if calibration is None else "calibrated"
    short = f"; dense below {config.dense_below} tokens" if config.dense_below else ""
    return f"delta ({thresholds}{short})"


def _loses(model: Any) -> str:
    """Return why delta attention would be slower than dense on this processor, or nothing."""
    return "no vector instructions to spread packed keys with" if model.delta_kernel == "portable" else ""


def find_calibration(config: DeltaConfig, path: Path | None) -> Calibration | None:
    """Return the calibration that `config` names; None for `config.theta`.

    Raises:
        LanguageError: BAD_INPUT, it cannot be read, or is another model's.
    """
    if config.calibration == "none":
        return None
    if config.calibration != "auto":
        found = Calibration.read(Path(config.calibration).expanduser())
        if path is not None and found.model != model_hash(path):
            raise LanguageError(
                "the calibration is another model's",
                got=config.calibration,
                expected=f"one of {path.name}",
                remedy="Run: edge-nodes models calibrate MODEL --text FILE",
            )
        return found
    if path is None or not path.is_file() or not (kept := calibration_path(path)).is_file():
        return None
    return Calibration.read(kept)


def begin(model: Any, slot: int, tokens: int) -> None:
    """Tell the model that what comes next in a slot is a prompt of `tokens` in all, and its answer."""
    if start := getattr(model, "begin_delta", None):
        start(slot, tokens)


@dataclass(frozen=True)
class Skipped:
    """What a request skipped.

    Attributes:
        prefill, decode: score multiply-adds.
        running: the paper's running figure over the layers.
        key_bytes: what its keys take.
    """

    prefill: Sparsity
    decode: Sparsity
    running: float
    key_bytes: int

    def plain(self) -> dict[str, float | int]:
        """Return shares for events and figures."""
        both = self.prefill + self.decode
        return {
            "prefill_sparsity": round(self.prefill.share, 4),
            "decode_sparsity": round(self.decode.share, 4),
            "sparsity": round(both.share, 4),
            "running_sparsity": round(self.running, 4),
            "key_bytes": self.key_bytes,
        }


def skipped(model: Any, slot: int, *, tokens: int, before: float = 0.0) -> Skipped | None:
    """Return what the request in a slot has skipped so far; None with dense attention.

    Args:
        model: the native model, or another: then None.
        slot: its place in the cache.
        tokens: length of its prompt.
        before: the running figure so far; see `sparsity.running_figure`.
    """
    if not getattr(model, "uses_delta", False):
        return None
    c = model.delta_counts(slot)
    window = min(int(c["window"]), tokens)
    figures = [layer_figure(float(z), window, max(tokens, 1)) for z in c["zero_share"]]
    return Skipped(
        Sparsity(c["prefill_skipped"].astype(np.int64), c["prefill_total"].astype(np.int64)),
        Sparsity(c["decode_skipped"].astype(np.int64), c["decode_total"].astype(np.int64)),
        running_figure(figures, before),
        int(c["key_bytes"]),
    )


def total(found: Sequence[Skipped]) -> Skipped:
    """Return the sum over the attempts at one answer (at least one); the running figure is the last one's."""
    prefill, decode = found[0].prefill, found[0].decode
    for one in found[1:]:
        prefill, decode = prefill + one.prefill, decode + one.decode
    return Skipped(prefill, decode, found[-1].running, sum(one.key_bytes for one in found))
