# SPDX-License-Identifier: Apache-2.0
"""Sub-commands of `edge-nodes bench` and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from edge_nodes.cli import dispatch
from edge_nodes.cli.options import Config, Devices, Figures, Quick

app = typer.Typer(help="Measure; the numbers come as JSON.", no_args_is_help=True)


def _run(name: str, as_json: Path | None, **options: Any) -> None:
    dispatch.report(f"bench.{name}", "bench", as_json, **options)


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
    _run("graph", as_json, bag=bag, quick=quick, config=config, devices=devices, minutes=minutes)


@app.command("perception")
def bench_perception(as_json: Figures = None, quick: Quick = False) -> None:
    """Maps, both networks alone and at once, message to outputs: milliseconds, and what this machine could do."""
    _run("perception", as_json, quick=quick)


@app.command("speech")
def bench_speech(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name of a model, or its directory.")] = "speech/splitformer",
    whisper: Annotated[str, typer.Option(help="Whisper model to compare with (extra peers).")] = "tiny.en",
) -> None:
    """Real-time factor of each exit on one core, partial and final latency, memory."""
    _run("speech", as_json, model=model, whisper=whisper, quick=quick)


@app.command("language")
def bench_language(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or GGUF file of the real model.")] = "smollm2-135m",
) -> None:
    """Prompt and answer speed beside llama.cpp's (extra peers), start, memory, and what Python costs."""
    _run("language", as_json, model=model, quick=quick)


@app.command("fusion")
def bench_fusion(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or file of a model; random ternary weights without it.")] = "",
) -> None:
    """Many requests at once: one after another, static batches, fused, llama.cpp's server; random arrivals, lengths."""
    _run("fusion", as_json, model=model, quick=quick)


@app.command("attention")
def bench_attention(
    as_json: Figures = None,
    quick: Quick = False,
    threads: Annotated[int, typer.Option(help="Threads that share the heads.")] = 1,
    kernel: Annotated[str, typer.Option(help="Instruction set: auto, avx512vnni, avx2, portable.")] = "auto",
    text: Annotated[
        Path | None, typer.Option(help="Text whose keys in the model are attended over as well; may be gzip.")
    ] = None,
    model: Annotated[str, typer.Option(help="Name or file of the model that reads the text.")] = "smollm2-135m",
) -> None:
    """Dense and delta attention: time of a token, of a prompt, bytes of the keys, and what memory allows."""
    _run("attention", as_json, quick=quick, threads=threads, kernel=kernel, text=text, model=model)


@app.command("lut")
def bench_lut(
    as_json: Figures = None,
    quick: Annotated[bool, typer.Option(help="Fewer shapes and token counts; done in 20 s.")] = False,
) -> None:
    """Time the products of ternary weights, and what bounds them on this machine."""
    _run("lut", as_json, quick=quick)


@app.command("pager")
def bench_pager(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or GGUF file of the real model.")] = "smollm2-135m",
) -> None:
    """Weights streamed within memory budgets: time, stall, memory; llama.cpp with mmap beside (extra peers)."""
    _run("pager", as_json, model=model, quick=quick)


@app.command("boards")
def bench_boards(as_json: Figures = None, quick: Quick = False) -> None:
    """One model over 1, 2 and 4 boards of an emulated network: tokens, bytes, memory, ways to add up (as root)."""
    _run("boards", as_json, quick=quick)
