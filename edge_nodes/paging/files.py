# SPDX-License-Identifier: Apache-2.0
"""Block files: safetensors whose arrays are where the kernels want them once a file is read to whole pages."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_nodes.errors import ModelError, State

ALIGNMENT = 64  # of every array within a file: the kernels load whole cache lines
PAGE = 4096
ARRAYS = ("codes", "scales", "mins")
TYPES = {"U8": np.uint8, "U16": np.uint16, "F32": np.float32, "I64": np.int64}
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}

Parts = Mapping[str, Any]  # of a packed matrix: its arrays, and numbers
Tensors = Mapping[str, Any]  # of a block: packed matrices as `Parts`, and plain arrays


@dataclass(frozen=True)
class BlockFile:
    """One block on disk.

    Attributes:
        name: of the block.
        path: where it is.
        bytes: its size.
        sha256: its hash.
    """

    name: str
    path: Path
    bytes: int
    sha256: str


def layout(path: Path) -> tuple[dict[str, Any], int]:
    """Return a file's safetensors header and the offset of its data.

    Raises:
        ModelError: MODEL_BAD, it is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length)) if length < 1 << 24 else {}
        if not header:
            raise ValueError("no header")
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(f"{path} is not a block", got=error, state=State.MODEL_BAD) from error
    return header, 8 + length


def views(path: Path, data: Any = None) -> dict[str, Any]:
    """Return the tensors of a block: packed matrices as `Parts`, vectors as float32 arrays, all without a copy.

    Args:
        path: the block's file, whose header is read.
        data: the bytes of the whole file; by default the file is mapped into memory.
    """
    header, start = layout(path)
    raw = np.memmap(path, np.uint8, "r") if data is None else np.frombuffer(data, np.uint8)
    scalars = {name: json.loads(text) for name, text in header.pop("__metadata__", {}).items() if name != "format"}
    found: dict[str, Any] = {name: dict(values) for name, values in scalars.items()}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = raw[start + begin : start + end].view(TYPES[entry["dtype"]]).reshape(entry["shape"])
        matrix, _, part = name.rpartition(".")
        if matrix in scalars:
            found[matrix][part] = array
        else:
            found[name] = array
    return found


def write_block(path: Path, tensors: Tensors) -> tuple[int, str]:
    """Write a block; return its size and sha256.

    Args:
        path: file to write.
        tensors: packed matrices and arrays; an array of one dimension is padded with zeros to whole cache lines.
    """
    arrays = dict(_arrays(tensors))
    scalars = {n: {k: v for k, v in p.items() if k not in ARRAYS} for n, p in tensors.items() if isinstance(p, Mapping)}
    header: dict[str, Any] = {"__metadata__": {n: json.dumps(s) for n, s in scalars.items()}}
    at = 0
    for name, array in arrays.items():
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": (at, at + array.nbytes)}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    chunks: list[Any] = [struct.pack("<Q", len(text)), text, *(a.reshape(-1).view(np.uint8) for a in arrays.values())]
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
    return path.stat().st_size, digest.hexdigest()


def _arrays(tensors: Tensors) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name, value in tensors.items():
        if isinstance(value, Mapping):
            for part in ARRAYS:
                if part in value and value[part].size:
                    yield f"{name}.{part}", _aligned(f"{name}.{part}", np.ascontiguousarray(value[part]))
        else:
            array = np.ascontiguousarray(value)
            yield name, np.pad(array, (0, -array.nbytes % ALIGNMENT // array.itemsize)) if array.ndim == 1 else array


def _aligned(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.nbytes % ALIGNMENT:
        raise ValueError(f"{name} has {array.nbytes} bytes, not a multiple of {ALIGNMENT}")
    return array


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file; any sequence becomes a list."""
    path.write_text(json.dumps(values, indent=1, default=list) + "\n")
