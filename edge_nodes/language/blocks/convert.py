# SPDX-License-Identifier: Apache-2.0
"""GGUF file to block directory, one block at a time: no more than a block and a tensor is in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edge_nodes import models
from edge_nodes.language.blocks import directory as blocks
from edge_nodes.language.blocks.shards import TILE, Shares, cut_block, cut_rows
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.gguf_file import GgufFile
from edge_nodes.paging.files import ARRAYS, Tensors, views, write_block, write_json

Progress = Callable[[str], None]
ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")
PIECE_BYTES = 16 << 20  # of a head; less if the blocks are smaller


def convert(
    source: str | Path,
    out: Path,
    *,
    shares: Sequence[float] = (),
    dense: bool = False,
    progress: Progress = lambda _: None,
) -> list[Path]:
    """Write the block directory of a model; nothing is left if that fails.

    Args:
        source: name of an installed model, path of a GGUF file, or a block directory (to cut it into shards).
        out: directory to write; must not exist.
        shares: share of the work of each board; then `out/rank-0`, `out/rank-1`, ... are written.
        dense: pack ternary weights of one scale at 1.60 bits instead of 2.00: fewer bytes to read, more to compute. Not
            for shards, nor of a block directory.
        progress: called with one line of text at each step.

    Returns:
        The directories written.

    Raises:
        ModelError: there is no such model.
        LanguageError: BAD_INPUT, `out` exists or the shares are not possible; MODEL_BAD, the model cannot be used.
    """
    if out.exists():
        raise LanguageError("the directory exists already", got=out, remedy="Name another one, or remove it.")
    opened = _Directory(source) if blocks.is_block_directory(source) else _Gguf(source, dense and not shares, progress)
    split = Shares.of(shares, opened.sizes) if shares else None
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        folders = [f"rank-{rank}" for rank in range(len(shares))] or ["."]
        writers = [_Writer(scratch / f, opened, split, rank) for rank, f in enumerate(folders)]
        for done, (name, tensors) in enumerate(opened.all_blocks()):
            if done % 16 == 0:
                progress(f"writing {name}")
            for writer in writers:
                writer.write(name, tensors)
        for writer in writers:
            writer.finish()
        scratch.chmod(0o755)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return [out / f for f in folders]


def weight_bytes(source: str | Path) -> tuple[int, int]:
    """Return the bytes of what boards share out of a model, and the groups of heads it can be shared out by.

    Raises:
        ModelError: there is no such model.
        LanguageError: MODEL_BAD, it cannot be used.
    """
    if blocks.is_block_directory(source):
        directory = blocks.BlockDirectory(Path(source))
        size = sum(file.bytes for name, file in directory.files.items() if name.startswith("blk."))
        return size, int(directory.sizes["kv_heads"])
    found = models.find(str(source), verify=False)
    file = GgufFile(found.path, found.manifest.get("metadata"))
    size = sum(int(t.data.nbytes) for t in file.tensors.values() if t.name.startswith("blk."))
    return size, int(file.sizes()["kv_heads"])


class _Gguf:
    """The blocks of a GGUF file."""

    def __init__(self, source: str | Path, dense: bool, progress: Progress) -> None:
        found = models.find(str(source), verify=False)
        self._dense = dense
        self._file = GgufFile(found.path, found.manifest.get("metadata"))
        self._file.check_types()
        self.sizes = self._file.sizes()
        self.metadata = self._file.metadata
        self.tied = "output.weight" not in self._file.tensors
        progress(f"hashing {found.path.name}")
        about = {"file": found.path.name, "bytes": found.path.stat().st_size, "sha256": models.sha256(found.path)}
        self.index = {
            "name": str(found.manifest.get("name", self._file.name)),
            "source": about,
            "licence": str(found.manifest.get("licence", "")),
            "tied": self.tied,
        }

    def all_blocks(self) -> Iterator[tuple[str, Tensors]]:
        """Yield name and contents of every block, made when it is asked for."""
        yield blocks.FIXED, self._fixed()
        largest = 0
        for layer in range(self.sizes["layers"]):
            for kind, names in (("attn", ATTENTION), ("ffn", FEED_FORWARD)):
                tensors = self._block(layer, kind, names)
                largest = max(largest, sum(_nbytes(t) for t in tensors.values()))
                yield f"blk.{layer}.{kind}", tensors
        head = self._matrix("token_embd" if self.tied else "output", self.sizes["vocabulary"], self.sizes["width"])
        for i, piece in enumerate(_pieces(head, min(PIECE_BYTES, largest))):
            yield f"head.{i}", {"output": piece}
        del head
        if not self.tied:
            embedding = self._matrix("token_embd", self.sizes["vocabulary"], self.sizes["width"])
            yield blocks.EMBEDDING, {"token_embd": embedding}

    def _fixed(self) -> Tensors:
        frequencies = self._file.rope_frequencies()
        return {"output_norm": self._vector("output_norm", self.sizes["width"]), "rope_frequencies": frequencies}

    def _block(self, layer: int, kind: str, names: Sequence[str]) -> dict[str, Any]:
        s = self.sizes
        query, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
        shapes = {
            "attn_q": (query, s["width"]),
            "attn_k": (kv, s["width"]),
            "attn_v": (kv, s["width"]),
            "attn_output": (s["width"], query),
            "ffn_gate": (s["hidden"], s["width"]),
            "ffn_up": (s["hidden"], s["width"]),
            "ffn_down": (s["width"], s["hidden"]),
        }
        found: dict[str, Any] = {"norm": self._vector(f"blk.{layer}.{kind}_norm", s["width"])}
        if s["bitnet"]:
            size = query if kind == "attn" else s["hidden"]
            found["sub_norm"] = self._vector(f"blk.{layer}.{kind}_sub_norm", size)
        return found | {name: self._matrix(f"blk.{layer}.{name}", *shapes[name]) for name in names}

    def _tensor(self, name: str) -> Any:
        if (tensor := self._file.tensors.get(f"{name}.weight")) is None:
            raise self._file.bad("missing tensors", name)
        return tensor

    def _vector(self, name: str, size: int) -> Any:
        data = self._tensor(name).data
        if data.shape != (size,):
            raise self._file.bad("tensor of the wrong shape", f"{name} {data.shape}", f"({size},)")
        return data

    def _matrix(self, name: str, rows: int, cols: int) -> dict[str, Any]:
        from edge_nodes.native import _kernels

        tensor = self._tensor(name)
        kind, data, got_cols, scale = self._file.rows_of(tensor)
        if (len(data), got_cols) != (rows, cols):
            raise self._file.bad("tensor of the wrong shape", f"{name} {len(data)} x {got_cols}", f"{rows} x {cols}")
        try:
            parts: dict[str, Any] = _kernels.Matrix(kind, data, cols, scale, self._dense).parts()
        except ValueError as error:
            raise self._file.bad("tensor of the wrong shape", f"{name}: {error}") from error
        if (factor := self._file.tensors.get(f"{name}.scale")) is not None:
            if parts["bits"] != 2 or parts["scales"].size:
                raise self._file.bad("scale of no ternary tensor", name)
            parts["scale"] = float(np.float32(parts["scale"]) * np.float32(factor.data[0]))
        return parts


class _Directory:
    """The blocks of a directory."""

    def __init__(self, source: str | Path) -> None:
        self._directory = blocks.BlockDirectory(Path(source))
        if self._directory.index.get("shard"):
            raise LanguageError("a shard cannot be cut again", got=source, expected="the directory of a whole model")
        self.sizes, self.metadata = self._directory.sizes, self._directory.metadata
        if "column_unit" not in self.sizes:
            raise self._directory.bad("blocks of an earlier version cannot be cut")
        self.index = {k: self._directory.index[k] for k in ("name", "source", "licence", "tied")}
        self.tied = bool(self.index["tied"])

    def all_blocks(self) -> Iterator[tuple[str, Tensors]]:
        """Yield name and contents of every block, after a look at its hash."""
        for name, file in self._directory.files.items():
            if models.sha256(file.path) != file.sha256:
                raise self._directory.bad(f"{file.path.name} has the wrong sha256")
            yield name, views(file.path)


class _Writer:
    """Writes one directory: of a whole model, or of a rank's shard."""

    def __init__(self, folder: Path, source: _Gguf | _Directory, shares: Shares | None, rank: int) -> None:
        self._folder, self._source, self._shares, self._rank = folder, source, shares, rank
        self._files: list[tuple[str, str, int, str]] = []
        folder.mkdir(exist_ok=True)
        if rank == 0:
            write_json(folder / blocks.METADATA, dict(source.metadata))

    def write(self, name: str, tensors: Tensors) -> None:
        if self._rank and (name.startswith("head.") or name == blocks.EMBEDDING):
            return
        if self._shares and name.startswith("blk."):
            tensors = cut_block(tensors, self._shares, self._rank, self._source.sizes)
        file = f"{name}.safetensors"
        self._files.append((name, file, *write_block(self._folder / file, tensors)))

    def finish(self) -> None:
        sizes, index = dict(self._source.sizes), dict(self._source.index)
        if self._shares:
            index["shard"] = self._shares.describe(self._rank, sizes)
            sizes = self._shares.sizes(self._rank, sizes)
        blocks.write_index(self._folder, {**index, "sizes": sizes}, self._files)


def _pieces(head: Mapping[str, Any], most_bytes: int) -> Iterator[dict[str, Any]]:
    tiles = -(-head["rows"] // TILE)
    count = min(tiles, max(1, round(_nbytes(head) / most_bytes)))
    cuts = [round(i * tiles / count) * TILE for i in range(count)] + [head["rows"]]
    for begin, end in pairwise(cuts):
        yield cut_rows(head, begin, end)


def _nbytes(value: Any) -> int:
    return sum(value[part].nbytes for part in ARRAYS) if isinstance(value, Mapping) else int(value.nbytes)
