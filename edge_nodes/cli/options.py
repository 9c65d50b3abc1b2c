# SPDX-License-Identifier: Apache-2.0
"""Options that several sub-commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

PARTS = "perception,speech,language"
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Parts = Annotated[str, typer.Option(help="Parts of the graph, separated by commas.")]
Config = Annotated[str, typer.Option(help="YAML file, or directory of <node>.yaml, read after the shipped ones.")]
Figures = Annotated[Optional[Path], typer.Option("--json", help="Write the figures to this file.")]  # noqa: UP045
Quick = Annotated[bool, typer.Option(help="Part of the data only; done in 30 s.")]
Clouds = Annotated[
    Path, typer.Option(help="Pack of real clouds (.npz), directory of simulated sequences, or: simulated (make them).")
]
Device = Annotated[str, typer.Option(help="Device of the network: auto, cpu, cpu:0, cuda:0.")]
Devices = Annotated[str, typer.Option(help="Devices of the two networks: auto, or e.g. cuda:0,cuda:1.")]


def listed(words: str) -> tuple[str, ...]:
    """Return the values of an option that names several, separated by commas."""
    return tuple(word.strip() for word in words.split(",") if word.strip())
