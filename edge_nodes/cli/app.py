# SPDX-License-Identifier: Apache-2.0
"""The sub-commands and their options; what they do is in the modules beside this one, imported when needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from edge_nodes import __version__
from edge_nodes.cli.bench.app import app as bench_app
from edge_nodes.cli.eval.app import app as eval_app
from edge_nodes.cli.models_app import app as models_app
from edge_nodes.cli.options import PARTS, Config, Devices, Json, Parts, listed
from edge_nodes.errors import ParameterError

app = typer.Typer(
    name="edge-nodes",
    help="Perception, speech and language on a robot's own board. Errors are one line; --debug shows where from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_app, name="bench")
app.add_typer(eval_app, name="eval")
app.add_typer(models_app, name="models")


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
        command.demo(Console(), out, bag=bag, parts=listed(parts), config=config, devices=devices, report=report)
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
        Console(), bag, out, topics=topics, parts=listed(parts), config=config, duration_s=duration_s, report=report
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


def _topics(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        topic, separator, recorded = word.partition(":=")
        if not separator or not topic or not recorded:
            raise ParameterError("--topic must name two topics", got=word, expected="e.g. points:=/lidar/points")
        found[topic.lstrip("/")] = recorded
    return found
