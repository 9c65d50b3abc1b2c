# SPDX-License-Identifier: Apache-2.0
"""Sub-commands of `edge-nodes eval` and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_nodes.cli import dispatch
from edge_nodes.cli.options import Clouds, Device, Figures, Quick

app = typer.Typer(help="Compare the models with truth; the figures come as JSON.", no_args_is_help=True)


@app.command("segmentation")
def eval_segmentation(
    data: Clouds,
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name of a model, or its directory.")] = "perception/segmentation",
    device: Device = "cpu",
    sector_deg: Annotated[
        float, typer.Option(help="Sector ahead that boxes were labelled in; vehicles seen outside it do not count.")
    ] = 80.0,
) -> None:
    """Classes of cells: overlap with the truth; cars found, false vehicles."""
    dispatch.report(
        "eval.perception", "segmentation", as_json, data, model=model, device=device, sector_deg=sector_deg, quick=quick
    )


@app.command("reconstruction")
def eval_reconstruction(
    data: Clouds,
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name of a model, or its directory.")] = "perception/reconstruction",
    device: Device = "cpu",
) -> None:
    """Occupancy now and in half a second: overlap with the truth, beside what the scans alone say."""
    dispatch.report("eval.perception", "reconstruction", as_json, data, model=model, device=device, quick=quick)


@app.command("speech")
def eval_speech(
    data: Annotated[list[Path], typer.Option(help="Pack: STEM of STEM.flac and STEM.jsonl; once a pack.")],
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name of a model, or its directory.")] = "speech/splitformer",
    whisper: Annotated[str, typer.Option(help="Whisper model to compare with (extra peers).")] = "tiny.en",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Choose the exit thresholds on these data; store them by the weights.")
    ] = False,
) -> None:
    """Word error rate, operations and seconds of every exit and policy; false words in noise."""
    dispatch.report(
        "eval.speech", "speech", as_json, data, model=model, whisper=whisper, quick=quick, calibrate=calibrate
    )


@app.command("voting")
def eval_voting(
    data: Annotated[str, typer.Option(help="File of questions (GSM8K, ARC; JSON lines), or: robot.")] = "robot",
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or file of a model.")] = "smollm2-135m",
    limit: Annotated[int, typer.Option(help="Questions, the first of the file.")] = 25,
    tokens: Annotated[int, typer.Option(help="Longest attempt, tokens.")] = 48,
    attempts: Annotated[int, typer.Option(help="Most attempts at a question: 3, 6 or 9.")] = 9,
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0 for half of the processors.")] = 0,
) -> None:
    """Sequential against parallel attempts at equal tokens, by every voting rule."""
    dispatch.report(
        "eval.voting",
        "voting",
        as_json,
        data,
        model=model,
        limit=limit,
        tokens=tokens,
        attempts=attempts,
        threads=threads,
        quick=quick,
    )


@app.command("delta")
def eval_delta(
    data: Annotated[Path, typer.Option(help="Directory of the packed data.")],
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or file of a model.")] = "smollm2-135m",
    calibration: Annotated[
        Path | None, typer.Option(help="File of `models calibrate`; by itself the model's own.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Most samples of each task; 0 for all.", min=0)] = 0,
    task: Annotated[list[str] | None, typer.Option(help="One task only; may be given again.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0 for half of the processors.")] = 0,
) -> None:
    """Dense and delta attention side by side: perplexity, choices, extracted answers, sparsity."""
    dispatch.report(
        "eval.delta",
        "delta",
        as_json,
        data,
        model=model,
        calibration=calibration,
        limit=limit,
        tasks=task or (),
        threads=threads,
        quick=quick,
    )
