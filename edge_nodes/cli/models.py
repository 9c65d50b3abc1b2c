# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes models`: list, info, check, install, synth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_nodes import models
from edge_nodes.errors import EdgeNodesError, ModelError, State
from edge_nodes.language.blocks.directory import FORMAT, BlockDirectory


def list_models(console: Console, *, as_json: bool) -> None:
    """Print all models."""
    found = models.list_models()
    if as_json:
        print(json.dumps([_plain(model) for model in found], indent=1))
        return
    made = [model for model in found if model.status == "made"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "where", "MB", "licence", "what"):
        table.add_column(column, no_wrap=column != "what", justify="right" if column == "MB" else "left")
    for model in found:
        if model not in made:
            table.add_row(model.name, model.status, f"{model.megabytes:.1f}", model.licence, model.doc)
    console.print(table)
    if made:
        console.print(f"\nmade of models, below {models.cache_dir()} (made again where they are missing):")
    for model in made:
        console.print(f"{model.megabytes:8.1f} MB  {model.name}", highlight=False, soft_wrap=True)


def info(console: Console, name: str, *, as_json: bool) -> None:
    """Print what is known of a model.

    Raises:
        ModelError: there is no such model.
    """
    entries = _plain(models.info(name))
    if as_json:
        print(json.dumps(entries, indent=1))
        return
    for key, value in {**entries.pop("manifest"), **entries}.items():
        console.print(f"{key:>18}  {value}", highlight=False, markup=False, soft_wrap=True)


def check(console: Console, name: str | None) -> int:
    """Check one model or all that are there; return the exit code."""
    names = [name] if name else [m.name for m in models.list_models() if m.path is not None]
    bad = 0
    for each in names:
        try:
            found = models.check(each)
            if found.manifest.get("format") == FORMAT:
                BlockDirectory(found.path.parent).verify()
            console.print(f"OK  {each}: {found.path}", highlight=False, soft_wrap=True)
        except EdgeNodesError as error:
            bad += 1
            console.print(f"{error.state.value}  {error}", style="bold red", highlight=False, soft_wrap=True)
    return 1 if bad else 0


def install(console: Console, name: str, source: Path | None = None) -> None:
    """Install a model and say how it goes.

    Raises:
        ModelError: an unknown name, no network, or a wrong hash.
    """
    with console.status(f"installing {name}"):
        found = models.install(
            name, lambda text: console.print(text, style="dim", markup=False, highlight=False), source=source
        )
    console.print(f"installed: {found.path}", highlight=False, soft_wrap=True)


def synth(console: Console, out: Path, shape: str, *, kind: str, head: str, seed: int) -> None:
    """Write a model of random weights and say how it goes.

    Raises:
        LanguageError: an unknown shape or type, or no place to write.
    """
    from edge_nodes.language.synthetic import read_shape, write_model

    with console.status("random weights") as status:
        write_model(out, read_shape(shape), kind=kind, head=head, seed=seed, progress=status.update)
    console.print(
        f"random weights, to time only: {out} ({out.stat().st_size / 1e6:.1f} MB)", highlight=False, soft_wrap=True
    )


def ensure(console: Console, name: str) -> None:
    """Install a model unless it is there."""
    try:
        models.find(name, verify=False)
    except ModelError as error:
        if error.state is not State.MODEL_MISSING or name not in models.INSTALLABLE:
            raise
        console.print(f"the language model {name} is not here yet: it is fetched once")
        install(console, name)


def _plain(model: models.ModelInfo) -> dict[str, Any]:
    path: Path | None = model.path
    return {**asdict(model), "path": str(path) if path else None, "manifest": dict(model.manifest)}
