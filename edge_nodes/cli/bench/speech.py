# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench speech`: real-time factor of each exit, partial and final latency, memory; others beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import soundfile
from rich.console import Console

from edge_nodes.cli import figures, session
from edge_nodes.cli.figures import DataError, target
from edge_nodes.cli.node_memory import memory
from edge_nodes.cli.peers import WHISPER
from edge_nodes.cli.processes import in_process, peak_gflop_s, seconds

if TYPE_CHECKING:
    from edge_nodes.speech.exits import Leave
    from edge_nodes.speech.recognizer import Recognizer

Audio = npt.NDArray[np.float32]
RATE_HZ = 16000
FLICKER_PERCENT = 5.0


def bench(console: Console, *, model: str, whisper: str, quick: bool) -> dict[str, Any]:
    """Return the figures, measured on the demo's spoken commands on one core.

    Args:
        console: for progress.
        model: see `models.find`.
        whisper: name or directory of the Whisper model to compare with, if faster-whisper is installed.
        quick: fewer repetitions, half the clips for the others; done in 30 s.

    Raises:
        EdgeNodesError: a model is missing, or a process ended early.
    """
    load = os.getloadavg()[0]
    core = min(os.sched_getaffinity(0))
    repeats = 2 if quick else 10
    paths = sorted(session.demo_bag().parent.glob("*.flac"))
    if not paths:
        raise DataError("the demo's spoken commands are missing", got=session.demo_bag().parent)
    with console.status("the node's memory"):
        held = in_process(memory, read_clips(paths), model)
    with console.status("the speech model"):
        found = in_process(_measure, core, paths, model, repeats)
    cores = sorted(os.sched_getaffinity(0))[:2]
    with console.status("the parallel layers"):
        parallel = in_process(_parallel_cost, cores, model, repeats)
    with console.status("the others"):
        others = in_process(_measure_others, core, paths[::2] if quick else paths, whisper, model)
    results = {"load_1min_before": round(load, 2), **found, **held, "parallel_layers": parallel, "others": others}
    about = {"clips": [p.stem for p in paths], "repeats": repeats, "core": core, "threads": 1, "quick": quick}
    return figures.result("speech", {**about, "model": model}, results, targets(results))


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached."""
    last, latency = list(results["exits"].values())[-1], results["latency_ms"]
    beside = results["parallel_layers"]["time_percent_beside"]
    found = [
        target("real-time factor of the last exit, one core", last["real_time_factor"], "<", 0.08),
        target(
            "end of speech to final text, p95 ms",
            latency["end of speech to final text"]["p95"],
            "<",
            300.0,
        ),
        target("time between partial texts, p95 ms", latency["between partial texts"]["p95"], "<=", 300.0),
        target("words of partial texts that change, %", results["streams"]["flicker_percent"], "<=", FLICKER_PERCENT),
        target("time the parallel layers add to the last exit on a second core, %", beside, "<", 5.0),
        target("resident memory, MB", results["memory_mb"], "<", 400.0),
    ]
    faster = results["others"].get(WHISPER, {}).get("times_faster")
    found.append(target("times faster than Whisper tiny.en from the end of speech to text", faster, ">=", 5.0))
    return found


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the figures."""
    found = result["results"]
    columns = ("real_time_factor", "gflop_per_s", "best_real_time_factor")
    rows = ([name, *(v[c] for c in columns)] for name, v in found["exits"].items())
    figures.show_table(console, "exits, one core, a second of audio", ("", *columns), rows)
    spread = ("p50", "p95", "max")
    rows = ([name, *(v[s] for s in spread)] for name, v in found["latency_ms"].items())
    figures.show_table(console, "latency, ms", ("", *spread), rows)
    figures.show_table(console, "streams of speech", ("", "value"), found["streams"].items())
    rows = ([k, v] for k, v in found["parallel_layers"].items())
    figures.show_table(console, "parallel layers", ("", "value"), rows)
    others = found["others"].items()
    rows = (
        [n, *(o.get(key) for key in ("real_time_factor", "times_faster", "memory_mb")), o.get("absent", "")]
        for n, o in others
    )
    figures.show_table(console, "others", ("", "real-time factor", "we are faster by", "MB with all", ""), rows)
    console.print(
        f"resident memory of {found['memory_of']} {found['memory_mb']} MB; "
        f"peak of the core {found['peak_gflop_s']} GFLOP/s; load of the machine before {found['load_1min_before']}",
        highlight=False,
    )
    figures.show_targets(console, result["targets"])


def read_clips(paths: list[Path]) -> list[Audio]:
    """Return the samples of 16 kHz files."""
    found = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        if rate != RATE_HZ or samples.ndim != 1:
            raise DataError(f"{path} cannot be used", got=f"{rate} Hz, {samples.ndim} channels", expected="16 kHz mono")
        found.append(np.asarray(samples, np.float32))
    return found


def _prepared(core: int, paths: list[Path], model: str) -> tuple[list[Audio], Recognizer, Leave]:
    """Keep this process on a core; return the clips, a recogniser, and its policy with the model's thresholds."""
    from edge_nodes.speech.config import SpeechConfig
    from edge_nodes.speech.exits import policy
    from edge_nodes.speech.recognizer import Recognizer

    os.sched_setaffinity(0, {core})
    recognizer = Recognizer(SpeechConfig(model=model))
    recognizer.load()
    loaded = recognizer.model
    return read_clips(paths), recognizer, policy(recognizer.config.exit, loaded.layers, loaded.calibration)


def _measure(core: int, paths: list[Path], model: str, repeats: int) -> dict[str, Any]:
    from edge_nodes.speech.config import ExitConfig
    from edge_nodes.speech.exits import policy
    from edge_nodes.speech.model import SpeechModel
    from edge_nodes.speech.operations import operations

    clips, recognizer, shipped = _prepared(core, paths, model)
    loaded = recognizer.model
    if not isinstance(loaded, SpeechModel):
        raise DataError("this model cannot be measured", got=loaded.name, expected="a model of this package's encoder")
    streamed = _streamed(recognizer, clips, repeats)
    whole = [1e3 * seconds(loaded.recognise, clip, shipped) for clip in clips * repeats]
    audio, peak, exits = sum(map(len, clips)) / RATE_HZ, peak_gflop_s(), {}
    for layer in range(1, loaded.layers + 1):
        leave = policy(ExitConfig(policy="fixed", layer=layer), loaded.layers)
        took = [sum(seconds(loaded.recognise, clip, leave) for clip in clips) for _ in range(repeats)]
        gflop = sum(operations(loaded.encoder.shape, len(c))[layer - 1] for c in clips) / 1e9
        exits[f"exit {layer}"] = {
            "real_time_factor": round(float(np.median(took)) / audio, 4),
            "gflop_per_s": round(gflop / audio, 3),
            "best_real_time_factor": round(gflop / peak / audio, 4),
        }
    return {
        "exits": exits,
        "latency_ms": {**streamed["latency_ms"], "work on a whole clip": figures.spread(whole)},
        "streams": streamed["streams"],
        "peak_gflop_s": round(peak, 1),
    }


def _streamed(recognizer: Any, clips: list[Audio], repeats: int) -> dict[str, Any]:
    """Return latencies of audio that comes at the speed it was spoken, and what partial texts do."""
    from edge_nodes.speech import streaming

    told = [streaming.live(recognizer, clip) for _ in range(repeats) for clip in clips]
    events = [each for stream in told for each in stream]
    ends = [delay for stream in told for delay in streaming.final_delays_ms(stream)]
    partials = [each for each in events if each.event.kind == "partial"]
    return {
        "latency_ms": {
            "end of speech to final text": figures.spread(ends),
            "audio to partial text": figures.spread([1e3 * p.at_s - p.event.end_ns / 1e6 for p in partials]),
            "between partial texts": figures.spread([gap for s in told for gap in streaming.partial_gaps_ms(s)]),
            "work on a partial text": figures.spread(
                [p.event.cost["features_ms"] + p.event.cost["encoder_ms"] for p in partials]
            ),
        },
        "streams": streaming.figures(told),
    }


def _parallel_cost(cores: list[int], model: str, repeats: int) -> dict[str, Any]:
    """Return what the parallel layers add to the last exit on 3 s of audio: after their blocks, and beside them."""
    import torch

    from edge_nodes.speech.encoder import Encoder
    from edge_nodes.speech.model import SpeechModel
    from edge_nodes.speech.operations import operations

    os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    encoder = SpeechModel(model).encoder
    ways, mel = {"without": Encoder(encoder.shape), "after": encoder}, torch.zeros(1, encoder.shape.mels, 300)
    ways["without"].load_state_dict(encoder.state_dict())
    ways["without"].parallel = torch.nn.ModuleDict()
    beside = encoder.beside
    if beside is not None:
        ways["beside"] = encoder

    def run(way: str) -> None:
        encoder.beside = beside if way == "beside" else None
        with torch.inference_mode():
            for _ in ways[way](mel):
                pass

    # In turns, so that all see the same machine; the best, as what else the machine does only ever adds.
    rounds = [{way: seconds(run, way) for way in ways} for _ in range(15 * repeats)]
    best = {way: min(each[way] for each in rounds) for way in ways}
    shape = encoder.shape
    half, width = 75, shape.width
    extra = 2 * (half * (8.0 * width**2 + 4.0 * width * shape.parallel_feed_forward) + 4.0 * half**2 * width)
    return {
        "time_percent_after": _more(best, "after"),
        "time_percent_beside": _more(best, "beside") if "beside" in ways else None,
        "operations_percent": round(100 * extra / (operations(shape, 3 * RATE_HZ)[-1] - extra), 2),
    }


def _more(best: dict[str, float], way: str) -> float:
    return round(100 * (best[way] / best["without"] - 1), 2)


def _measure_others(core: int, paths: list[Path], whisper: str, model: str) -> dict[str, Any]:
    import psutil

    from edge_nodes.cli.peers import peers

    clips, recognizer, leave = _prepared(core, paths, model)
    ours = recognizer.model
    found: dict[str, Any] = {}
    for name, transcribe in peers(whisper):
        if isinstance(transcribe, str):
            found[name] = {"absent": transcribe}
            continue
        transcribe(clips[0])
        # In turns, so that both see the same machine.
        pairs = [(seconds(transcribe, clip), seconds(ours.recognise, clip, leave)) for clip in clips]
        theirs, own = ([1e3 * each for each in times] for times in zip(*pairs, strict=True))
        found[name] = {
            "real_time_factor": round(sum(theirs) / 1e3 * RATE_HZ / sum(map(len, clips)), 4),
            "ms_a_clip": figures.spread(theirs),
            "ours_ms_a_clip": figures.spread(own),
            "times_faster": round(float(np.median([a / b for a, b in pairs])), 2),
            "memory_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
        }
    return found
