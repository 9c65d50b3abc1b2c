# SPDX-License-Identifier: Apache-2.0
"""Where models live and whether they are what their manifest says.

A model is a directory with `manifest.json`: {name, file, sha256, bytes, licence, ...}. Shipped ones lie in
`edge_nodes/weights/<name>`, installed ones in the model cache (`EDGE_NODES_MODELS`, else the user's cache directory).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_nodes.errors import ModelError, State

SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class ModelFile:
    """A model on disk: its main file and its manifest (empty for a user's bare file)."""

    path: Path
    manifest: Mapping[str, Any]


def cache_dir() -> Path:
    """Return the directory that installed models live in; it need not exist."""
    if path := os.environ.get("EDGE_NODES_MODELS"):
        return Path(path)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edge_nodes" / "models"


def find(name_or_path: str, *, verify: bool = True) -> ModelFile:
    """Return the model called `name_or_path`: a shipped or installed name, a directory with a manifest, or a file.

    Args:
        name_or_path: "perception/segmentation", "smollm2-135m", "/data/model.gguf", ...
        verify: compare size and sha256 with the manifest.

    Raises:
        ModelError: MODEL_MISSING if there is none, MODEL_BAD if it differs from its manifest.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return ModelFile(path, {})
    for folder in (SHIPPED / name_or_path, cache_dir() / name_or_path, path):
        if (folder / "manifest.json").is_file():
            return _open(folder, verify)
    raise ModelError(
        f"no model {name_or_path!r}",
        expected=f"a file, a name under {SHIPPED}, or one installed in {cache_dir()}",
        remedy=f"Run: edge-nodes models install {name_or_path}",
        state=State.MODEL_MISSING,
    )


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, file: str, **entries: object) -> Path:
    """Write `folder`/manifest.json for `file` with its size and hash; return its path."""
    path = folder / file
    manifest = {"file": file, "bytes": path.stat().st_size, "sha256": sha256(path), **entries}
    target = folder / "manifest.json"
    target.write_text(json.dumps(manifest, indent=1) + "\n")
    return target


def _open(folder: Path, verify: bool) -> ModelFile:
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / manifest["file"]
    if not path.is_file():
        raise ModelError("a model's file is missing", got=path, remedy="Install it again.", state=State.MODEL_MISSING)
    size = path.stat().st_size
    if size != manifest["bytes"]:
        raise ModelError(
            f"{path} is truncated or not the file of its manifest",
            got=f"{size} bytes",
            expected=f"{manifest['bytes']} bytes",
            remedy="Install it again.",
            state=State.MODEL_BAD,
        )
    if verify and (got := sha256(path)) != manifest["sha256"]:
        raise ModelError(
            f"{path} has the wrong sha256",
            got=got,
            expected=manifest["sha256"],
            remedy="Install it again.",
            state=State.MODEL_BAD,
        )
    return ModelFile(path, manifest)
