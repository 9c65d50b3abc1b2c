# SPDX-License-Identifier: Apache-2.0
"""A model as a directory of blocks: one safetensors file an attention or feed-forward block, kernel-ready.

`manifest.json` names and hashes `blocks.json`, which lists every file with its size and hash. The head is cut into
pieces of about the size of a block, so that a large vocabulary can be streamed as well; a tied embedding has no file of
its own, its rows are read from the pieces of the head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_nodes import models
from edge_nodes.errors import State
from edge_nodes.language.errors import LanguageError
from edge_nodes.paging.files import BlockFile, write_json

FORMAT, VERSION = "blocks", 1
INDEX, METADATA, FIXED, EMBEDDING = "blocks.json", "metadata.json", "fixed", "embedding"


class BlockDirectory:
    """An open block directory; reads nothing but its index.

    Args:
        folder: the directory.

    Attributes:
        index: what `blocks.json` says: {version, packing, name, source, sizes, tied, shard, files}.

    Raises:
        ModelError: there is no such directory, or its index differs from the manifest.
        LanguageError: MODEL_BAD, another version, or a file has the wrong size.
    """

    def __init__(self, folder: Path) -> None:
        found = models.find(str(folder), verify=True)
        self.folder = found.path.parent
        self.index: Mapping[str, Any] = json.loads(found.path.read_text())
        if (version := self.index.get("version")) != VERSION:
            raise self.bad("blocks of another version", version, str(VERSION))
        if (packing := self.index["packing"]) != (known := _packing()):
            raise self.bad("blocks packed for another version of the kernels", packing, str(known))
        if "unit" not in (self.index.get("shard") or {"unit": 0}):
            raise self.bad("a shard of an earlier version")
        self.files = {
            f["name"]: BlockFile(f["name"], self.folder / f["file"], int(f["bytes"]), str(f["sha256"]))
            for f in self.index["files"]
        }
        for file in self.files.values():
            self._check_size(file)

    @property
    def name(self) -> str:
        """Return the model's name."""
        return str(self.index["name"])

    @property
    def sizes(self) -> dict[str, Any]:
        """Return the native model's sizes; those of this shard."""
        return dict(self.index["sizes"])

    @property
    def layers(self) -> int:
        """Return the number of layers."""
        return int(self.index["sizes"]["layers"])

    @property
    def metadata(self) -> dict[str, Any]:
        """Return what the model file said of its tokenizer and architecture."""
        loaded: dict[str, Any] = json.loads((self.folder / METADATA).read_text())
        return loaded

    def order(self) -> list[BlockFile]:
        """Return the blocks in the order of their use: layers, then the pieces of the head."""
        layers = [self.files[f"blk.{i}.{kind}"] for i in range(self.layers) for kind in ("attn", "ffn")]
        return layers + self.head()

    def head(self) -> list[BlockFile]:
        """Return the pieces of the head; none on a board that has no head."""
        return [f for name, f in self.files.items() if name.startswith("head.")]

    def embedding(self) -> list[BlockFile]:
        """Return the files that hold rows of the embedding, in order; none on a board that has none."""
        return [self.files[EMBEDDING]] if EMBEDDING in self.files else self.head()

    def verify(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Compare every file with its hash.

        Raises:
            LanguageError: MODEL_BAD, one differs.
        """
        for done, file in enumerate(self.files.values()):
            if done % 16 == 0:
                progress(f"checking blocks: {done} of {len(self.files)} files")
            if (got := models.sha256(file.path)) != file.sha256:
                raise self.bad(f"{file.path.name} has the wrong sha256", got, file.sha256)

    def bad(self, what: str, got: object = None, expected: str = "") -> LanguageError:
        """Return the error that this directory is not usable."""
        remedy = "Convert the model again: edge-nodes models convert."
        text = f"{self.folder}: {what}"
        return LanguageError(text, got=got, expected=expected, remedy=remedy, state=State.MODEL_BAD)

    def _check_size(self, file: BlockFile) -> None:
        size = file.path.stat().st_size if file.path.is_file() else None
        if size != file.bytes:
            raise self.bad(f"{file.path.name} is truncated or missing", f"{size} bytes", f"{file.bytes} bytes")


def is_block_directory(path: str | Path) -> bool:
    """Return whether `path` is the directory, or the name, of a model in blocks."""
    folder = next((f for f in (models.cache_dir() / str(path), Path(path)) if (f / INDEX).is_file()), None)
    return folder is not None


def write_index(folder: Path, index: Mapping[str, Any], files: Sequence[tuple[str, str, int, str]]) -> None:
    """Write `blocks.json` and `manifest.json`.

    Args:
        folder: the directory.
        index: what `BlockDirectory.index` shall say but for its files.
        files: name, file name, bytes and sha256 of each block.
    """
    rows: list[dict[str, Any]] = [dict(zip(("name", "file", "bytes", "sha256"), row, strict=True)) for row in files]
    full = {"version": VERSION, "packing": _packing(), **index, "files": rows}
    write_json(folder / INDEX, full)
    about = {"name": index["name"], "format": FORMAT, "source": index["source"]}
    models.write_manifest(folder, INDEX, **about, total_bytes=sum(row["bytes"] for row in rows))


def _packing() -> int:
    from edge_nodes.native import _kernels

    return int(_kernels.PACKING)
