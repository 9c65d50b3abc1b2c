# SPDX-License-Identifier: Apache-2.0
"""Sub-commands of `edge-nodes bench` and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from edge_nodes.cli.options import Config, Devices, Figures, Quick

app = typer.Typer(help="Measure; the numbers come as JSON.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    pass


@app.command("graph")
def bench_graph(
    as_json: Figures = None,
    quick: Annotated[bool, typer.Option(help="Part of the bag only; done in 30 s.")] = False,
    bag: Annotated[Optional[Path], typer.Option(help="Another bag than the demo's.")] = None,  # noqa: UP045
    config: Config = "",
    devices: Devices = "auto",
    minutes: Annotated[float, typer.Option(min=0.0, help="Again and again for so long: does memory grow?")] = 0.0,
) -> None:
    """Play the demo's bag at 1x through the running graph: rates, drops, latencies, CPU, memory."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import graph as bench

    console = Console()
    result = bench.graph_bench(console, bag=bag, quick=quick, config=config, devices=devices, minutes=minutes)
    figures.report(console, bench.show, as_json, result)


@app.command("perception")
def bench_perception(as_json: Figures = None, quick: Quick = False) -> None:
    """Maps, both networks alone and at once, message to outputs: milliseconds, and what this machine could do."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import perception as command

    console = Console()
    result = command.bench(console, quick=quick)
    figures.report(console, command.show, as_json, result)


@app.command("speech")
def bench_speech(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name of a model, or its directory.")] = "speech/splitformer",
    whisper: Annotated[str, typer.Option(help="Whisper model to compare with (extra peers).")] = "tiny.en",
) -> None:
    """Real-time factor of each exit on one core, partial and final latency, memory."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import speech as command

    console = Console()
    result = command.bench(console, model=model, whisper=whisper, quick=quick)
    figures.report(console, command.show, as_json, result)


@app.command("language")
def bench_language(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or GGUF file of the real model.")] = "smollm2-135m",
) -> None:
    """Prompt and answer speed beside llama.cpp's (extra peers), start, memory, and what Python costs."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import language as command

    console = Console()
    result = command.bench(console, model=model, quick=quick)
    figures.report(console, command.show, as_json, result)


@app.command("fusion")
def bench_fusion(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or file of a model; random ternary weights without it.")] = "",
) -> None:
    """Many requests at once: one after another, static batches, fused, llama.cpp's server; random arrivals, lengths."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import fusion as command

    console = Console()
    result = command.bench(console, model=model, quick=quick)
    figures.report(console, command.show, as_json, result)


@app.command("attention")
def bench_attention(
    as_json: Figures = None,
    quick: Quick = False,
    threads: Annotated[int, typer.Option(help="Threads that share the heads.")] = 1,
    kernel: Annotated[str, typer.Option(help="Instruction set: auto, avx512vnni, avx2, portable.")] = "auto",
) -> None:
    """Dense and delta attention: time of a token, of a prompt, bytes of the keys, and what memory allows."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import attention as command

    console = Console()
    result = command.bench(console, quick=quick, threads=threads, kernel=kernel)
    figures.report(console, command.show, as_json, result)


@app.command("lut")
def bench_lut(
    as_json: Figures = None,
    quick: Annotated[bool, typer.Option(help="Fewer shapes and token counts; done in 20 s.")] = False,
) -> None:
    """Time the products of ternary weights, and what bounds them on this machine."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import lut as command

    console = Console()
    result = command.lut_bench(console, quick=quick)
    figures.report(console, command.show, as_json, result)


@app.command("pager")
def bench_pager(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or GGUF file of the real model.")] = "smollm2-135m",
) -> None:
    """Weights streamed within memory budgets: time, stall, memory; llama.cpp with mmap beside (extra peers)."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import pager as command

    console = Console()
    result = command.bench(console, model=model, quick=quick)
    figures.report(console, command.show, as_json, result)


@app.command("boards")
def bench_boards(as_json: Figures = None, quick: Quick = False) -> None:
    """One model over 1, 2 and 4 boards of an emulated network: tokens, bytes, memory, ways to add up (as root)."""
    from edge_nodes.cli import figures
    from edge_nodes.cli.bench import boards as command

    console = Console()
    result = command.bench(console, quick=quick)
    figures.report(console, command.show, as_json, result)
