# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes models`: list, info, check, install."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edge_nodes import models
from edge_nodes.errors import ModelError, State


def present() -> Iterator[tuple[str, Path]]:
    """Yield name and directory of each model that is shipped or installed."""
    for root in (models.SHIPPED, models.cache_dir()):
        for manifest in sorted(root.rglob("manifest.json")):
            yield str(manifest.parent.relative_to(root)), manifest.parent


def list_models(console: Console, *, as_json: bool) -> None:
    """Print all models."""
    entries = [
        {
            "name": name,
            "where": "shipped" if folder.is_relative_to(models.SHIPPED) else "installed",
            **json.loads((folder / "manifest.json").read_text()),
        }
        for name, folder in present()
    ]
    there = {entry["name"] for entry in entries}
    entries += [{"name": name, "where": "not installed"} for name in known() if name not in there]
    if as_json:
        print(json.dumps(entries, indent=1))
        return
    table = Table("model", "where", "MB", "licence")
    for entry in entries:
        size = f"{entry['bytes'] / 1e6:.1f}" if "bytes" in entry else ""
        table.add_row(entry["name"], entry["where"], size, str(entry.get("licence", "")))
    console.print(table)


def info(console: Console, name: str, *, as_json: bool) -> None:
    """Print a model's path and manifest.

    Raises:
        ModelError: there is no such model.
    """
    found = models.find(name, verify=False)
    entries = {"path": str(found.path), **found.manifest}
    if as_json:
        print(json.dumps(entries, indent=1))
        return
    for key, value in entries.items():
        console.print(f"{key:>20}  {value}", highlight=False, markup=False, soft_wrap=True)


def check(console: Console, name: str | None) -> int:
    """Check one model or all; return the exit code."""
    bad = 0
    for each in [name] if name else [n for n, _ in present()]:
        try:
            found = models.find(each)
            console.print(f"OK       {each}: {found.path}", highlight=False, soft_wrap=True)
        except ModelError as error:
            bad += 1
            console.print(f"{error.state.value}  {each}: {error}", style="bold red", highlight=False, soft_wrap=True)
    return 1 if bad else 0


def known() -> tuple[str, ...]:
    """Return the names that `install` knows."""
    return tuple(models.INSTALLABLE)


def install(console: Console, name: str) -> Path:
    """Install a model with a progress bar; return its file.

    Raises:
        ModelError: an unknown name, no network, or a wrong hash.
    """
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"installing {name}", total=None)

        path = models.install(name, lambda text: bar.update(task, description=text)).path
    console.print(f"installed: {path}", highlight=False, soft_wrap=True)
    return path


def ensure(console: Console, name: str) -> None:
    """Install a model unless it is there."""
    try:
        models.find(name, verify=False)
    except ModelError as error:
        if error.state is not State.MODEL_MISSING or name not in known():
            raise
        console.print(f"the language model {name} is not here yet; it is fetched once")
        install(console, name)
