# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench fusion`: many requests one after another, in static batches, fused, and by llama.cpp's server.

All answer the same requests, which arrive by the clock, on the same weights with the same threads. The ways take
turns, and the best of all rounds counts, as other work on the machine only ever makes a run longer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from edge_nodes import models
from edge_nodes.cli import figures, llama_cpp
from edge_nodes.cli.bench import fusion_loads as loads
from edge_nodes.cli.bench.fusion_loads import PROMPT, STATIC, Endless, Load, Run
from edge_nodes.cli.bench.machine_bounds import token_bounds
from edge_nodes.cli.figures import target
from edge_nodes.language.config import FusionConfig
from edge_nodes.language.fusion.pace import StepCosts
from edge_nodes.language.fusion.plan import ARRANGEMENTS
from edge_nodes.language.fusion.request import Priority
from edge_nodes.language.fusion.simulation import PUBLISHED, Machine, length_table, poisson_arrivals, poisson_table

THREADS = 2
ROUNDS = 2  # of each load; first requests are watched in more
FEW_SLOTS = 8  # for the arrangements: slots are used again and again
SHARED = 128  # tokens of a prefix
SLACK = FusionConfig().latency_slack
SMALL, LARGE = "20x768x2048x12x4", "16x2048x8192x32x8x49152"
EngineT = TypeVar("EngineT")
SMALL_GAP, WIDE_GAP, LENGTHS = "gaps of 1/64 run", "gaps of 1/8 run", "random lengths"
RANDOM = "random gaps, mean 1/{} run"
COMPARED = (SMALL_GAP, RANDOM.format(4), LENGTHS)  # with the peer, which takes long
SHOWN = ("load", "way", "total_s", "tokens_per_s", "inflation", "first_inflation", "occupancy", "token_p50_ms")
SERIAL, BATCHES, LLAMA = "one after another", f"static batches of {STATIC}", "llama.cpp"
AT_ONCE = "fused, all at once"
FUSED = {"fused": loads.REQUESTS, f"fused, {STATIC} slots": STATIC, AT_ONCE: loads.REQUESTS}  # slots
FIRSTS = (SMALL_GAP, WIDE_GAP)  # loads whose first request is watched


def bench(console: Console, *, model: str, quick: bool) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        model: name or file of a model; empty for random ternary weights of two sizes (one if `quick`).
        quick: shorter answers, one round, fewer loads.

    Raises:
        EdgeNodesError: the model is missing or cannot be run.
    """
    paths = [models.find(model, verify=False).path] if model else [_random(console, SMALL)]
    if not model and not quick:
        paths.append(_random(console, LARGE))
    found = [_bench_model(console, path, quick, first=path is paths[0]) for path in paths]
    with console.status("simulation of random arrivals"):
        table = poisson_table(10 if quick else 200)
    simulated = [
        {"gap_ms": gap, "iterations": round(table[gap][0]), "overlap_percent": round(table[gap][1], 1)}
        | {"published_iterations": PUBLISHED[gap][0], "published_overlap_percent": PUBLISHED[gap][1]}
        for gap in PUBLISHED
    ]
    bound = found[0]["bound"]
    row_ms = (bound[f"iteration_{loads.REQUESTS}_rows_ms"] - bound["iteration_1_rows_ms"]) / (loads.REQUESTS - 1)
    lengths = length_table(Machine(max(0.0, bound["iteration_1_rows_ms"] - row_ms), row_ms), 5 if quick else 20)
    results = {"models": found, "simulation": simulated, "simulated_lengths": lengths}
    about: dict[str, Any] = {"quick": quick, "requests": loads.REQUESTS, "prompt_tokens": PROMPT, "threads": THREADS}
    about["peer"] = "llama.cpp by xllamacpp" if llama_cpp.available() else llama_cpp.ABSENT
    return figures.result("fusion", about, results, targets(found))


def targets(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached, for each model."""
    out = []
    for about in found:
        name, rows = about["model"], {(r["load"], r["way"]): r for r in about["runs"]}
        for way in FUSED:
            ratio = rows[SMALL_GAP, SERIAL]["total_s"] / rows[SMALL_GAP, way]["total_s"]
            out.append(target(f"{name}: {loads.REQUESTS} requests, {SERIAL} / {way}", round(ratio, 2), ">=", 4.0))
            for row in about["firsts"]:
                if row["way"] == way:
                    what = f"{name}: mean latency of {row['firsts']} first requests, {row['load']}, {way} / alone"
                    out.append(target(what, row["inflation"], "<", 1.3))
        paused = about["alarm"][1]
        value = round(paused["inflation"], 2)
        out.append(target(f"{name}: latency of an alarm beside {paused['answers']} answers / alone", value, "<", 1.3))
        for way in FUSED:
            compared = [
                rows[load, way]["tokens_per_s"] / rows[load, LLAMA]["tokens_per_s"]
                for load in COMPARED
                if (load, LLAMA) in rows
            ]
            value = round(min(compared), 2) if compared else None
            out.append(target(f"{name}: tokens/s, {way} / llama.cpp, least of all loads", value, ">=", 1.0))
    return out


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    for about in result["results"]["models"]:
        figures.show_table(console, about["model"], SHOWN, [[r.get(k) for k in SHOWN] for r in about["runs"]])
        figures.show_table(console, "bound", ("", ""), list(about["bound"].items()))
        for name in ("firsts", "alarm", "arrangements", "prefix", "streamed"):
            if about[name]:
                columns = list(about[name][0])
                figures.show_table(console, name, columns, [[r[c] for c in columns] for r in about[name]])
    rows = result["results"]["simulation"]
    figures.show_table(console, "simulated random arrivals", list(rows[0]), [list(r.values()) for r in rows])
    rows = result["results"]["simulated_lengths"]
    title = "simulated random lengths on this machine: sooner than with holes left"
    figures.show_table(console, title, list(rows[0]), [list(r.values()) for r in rows])
    figures.show_targets(console, result["targets"])


def _bench_model(console: Console, path: Path, quick: bool, *, first: bool) -> dict[str, Any]:
    from edge_nodes.language import load

    length, rounds = (16, 2) if quick else (32, 5) if first else (16, 3)
    context = SHARED + 4 * max(length, PROMPT) + 16
    sizes = {"context_tokens": context, "slots": loads.REQUESTS}
    engine, threads = _fastest(
        lambda n: load(path, threads=n, **sizes),
        lambda e, few: loads.fused(e.model, Endless(e.tokenizer), few, loads.REQUESTS),
    )
    model, tokenizer = engine.model, Endless(engine.tokenizer)
    solo_s = min(loads.fused(model, tokenizer, loads.make("alone", [0.0], length), 1).total_s for _ in range(3))
    offered = list(_loads(length, solo_s, quick, first))
    best: dict[tuple[str, str], Run] = {}
    firsts: dict[tuple[str, str], list[float]] = {}
    peer_threads = None
    ways = _ways(model, tokenizer, solo_s)
    if llama_cpp.available():
        peer, peer_threads = _fastest(
            lambda n: llama_cpp.LlamaCpp(path, threads=n, context=loads.REQUESTS * context, slots=loads.REQUESTS),
            loads.ask_peer,
        )
        ways[LLAMA] = lambda load: loads.ask_peer(peer, load)
    for number in range(rounds):
        for load_ in offered:
            for way, run in ways.items():
                if not _wanted(way, load_.name, number, 1 if quick else ROUNDS):
                    continue
                with console.status(f"{engine.name}: {load_.name}, {way}"):
                    done = run(load_)
                _keep(best, (load_.name, way), done)
                firsts.setdefault((load_.name, way), []).append(done.latency_s[0])
    alone = [run.latency_s[0] for (name, way), run in best.items() if way == SERIAL and name != LENGTHS]
    solo_s = min(solo_s, *alone)  # nobody is there yet when the first one is answered
    tokens = {load_.name: load_.tokens for load_ in offered}
    with console.status(f"{engine.name}: arrangements, prefixes"):
        arrangements = _arrangements(model, tokenizer, length, solo_s, 1 if quick else 3) if first else []
        prefix = [_prefix(model, tokenizer)] if first else []
    return {
        "model": re.sub("-[0-9]+-words.*", "", engine.name),
        "threads": threads,
        "llama_threads": peer_threads,
        "solo_s": round(solo_s, 4),
        "runs": [_row(load_, way, run, tokens[load_], solo_s) for (load_, way), run in best.items()],
        "firsts": _firsts(firsts),
        "bound": _bound(engine, path),
        "alarm": [_alarm(model, tokenizer, length, alone) for alone in (False, True)],
        "streamed": _streamed(engine, path, context) if first and not quick else [],
        "arrangements": arrangements,
        "prefix": prefix,
    }


def _wanted(way: str, load: str, number: int, rounds: int) -> bool:
    """Return whether a way takes part in a round: the peer takes long, and later rounds are for first requests only."""
    if number < rounds:
        return way != LLAMA or load in COMPARED
    return load in FIRSTS and way in (SERIAL, *FUSED)


def _firsts(latencies_s: Mapping[tuple[str, str], Sequence[float]]) -> list[dict[str, Any]]:
    """Return the mean latency of first requests over that of those that were served alone in the same rounds."""
    rows = []
    for (load, way), found in latencies_s.items():
        if load not in FIRSTS or way not in FUSED:
            continue
        alone = latencies_s[load, SERIAL]
        rows.append(
            {
                "load": load,
                "way": way,
                "firsts": len(found),
                "mean_ms": round(float(np.mean(found)) * 1e3, 2),
                "alone_ms": round(float(np.mean(alone)) * 1e3, 2),
                "inflation": round(float(np.mean(found) / np.mean(alone)), 3),
            }
        )
    return rows


def _random(console: Console, shape: str) -> Path:
    from edge_nodes.cli.random_models import random_model
    from edge_nodes.language.synthetic import read_shape

    return random_model(console, read_shape(shape), head="Q8_0")


def _fastest(make: Callable[[int], EngineT], run: Callable[[EngineT, Load], Run]) -> tuple[EngineT, int]:
    """Return what was made with the number of threads that is fastest now: others may hold the processors."""
    few = loads.make("few", [0.0] * 8, 4)
    made = {n: make(n) for n in range(1, THREADS + 1)}
    times = {n: min(run(engine, few).total_s for _ in range(2)) for n, engine in made.items()}
    best = min(times, key=lambda n: times[n])
    return made[best], best


def _loads(length: int, solo_s: float, quick: bool, first: bool) -> Iterator[Load]:
    n, same = loads.REQUESTS, [length] * loads.REQUESTS
    yield loads.make(SMALL_GAP, [i * solo_s / 64 for i in range(n)], length)
    if quick or not first:
        return
    yield loads.make(WIDE_GAP, [i * solo_s / 8 for i in range(n)], length)
    yield loads.make("gaps of 2 runs", [i * solo_s * 2 for i in range(8)], length)
    for share in (32, 4):
        yield loads.make(RANDOM.format(share), poisson_arrivals(n, solo_s / share, 1), length)
    lengths = np.random.default_rng(0).integers(length // 4, 2 * length, len(same)).tolist()
    yield loads.make(LENGTHS, [i * solo_s / 64 for i in range(n)], length, lengths)


def _ways(model: Any, tokenizer: Any, solo_s: float) -> dict[str, Callable[[Load], Run]]:
    """Return how a load may be run. All loops know what iterations cost, as one that has run for a while does."""
    costs = StepCosts(model.batch)
    fused = partial(loads.fused, model, tokenizer, costs=costs)
    fused(loads.make("warm", [0.0] * loads.REQUESTS, 8), slots=loads.REQUESTS)
    return {
        SERIAL: partial(fused, slots=1),
        BATCHES: lambda load: loads.static(model, tokenizer, load, solo_s / 2),
        **{way: partial(fused, slots=slots, slack=0.0 if way == AT_ONCE else SLACK) for way, slots in FUSED.items()},
    }


def _keep(best: dict[tuple[str, str], Run], key: tuple[str, str], run: Run) -> None:
    if key not in best or run.total_s < best[key].total_s:
        best[key] = run


def _row(load: str, way: str, run: Run, tokens: int, solo_s: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "load": load,
        "way": way,
        "total_s": round(run.total_s, 4),
        "tokens_per_s": round(tokens / run.total_s, 1),
        "inflation": round(float(np.mean(run.latency_s)) / solo_s, 2),
        "first_inflation": round(run.latency_s[0] / solo_s, 2),
    }
    if run.first_s:
        row |= {f"first_p{q}_ms": round(float(np.percentile(run.first_s, q)) * 1e3, 1) for q in (50, 95)}
        row |= {f"token_p{q}_ms": run.metrics.get(f"token_ms_p{q}") for q in (50, 95)}
        row |= {name: run.metrics[name] for name in ("iterations", "occupancy", "hole_rows", "moved_bytes")}
    return row


def _bound(engine: Any, path: Path) -> dict[str, float]:
    """Return what the machine's memory and int8 products allow an iteration of 1 and of all rows, beside it."""
    product_s, read_s = token_bounds(engine, path, THREADS)
    found = {"weights_read_ms": read_s * 1e3, "products_a_row_ms": product_s * 1e3}
    for rows in (1, loads.REQUESTS):
        found[f"iteration_{rows}_rows_bound_ms"] = max(read_s, rows * product_s) * 1e3
        found[f"iteration_{rows}_rows_ms"] = _step_s(engine.model, rows) * 1e3
    found["rows_per_step_gain"] = (
        loads.REQUESTS * found["iteration_1_rows_ms"] / found[f"iteration_{loads.REQUESTS}_rows_ms"]
    )
    return {name: round(value, 3) for name, value in found.items()}


def _streamed(engine: Any, path: Path, context: int) -> list[dict[str, float]]:
    """Return the steps of a model half of whose weights fit the memory: one pass over the disk serves all rows."""
    from edge_nodes.language import load

    model = engine.model
    budget_mb = int(model.cache_bytes + model.work_bytes + model.weight_bytes / 2) >> 20
    streamed = load(path, threads=THREADS, context_tokens=context, slots=loads.REQUESTS, memory_budget_mb=budget_mb)
    rows = []
    for count in (1, 2, 4, 8, 16, loads.REQUESTS):
        seconds = _step_s(streamed.model, count)
        rows.append({"rows": count, "step_ms": round(seconds * 1e3, 2), "tokens_per_s": round(count / seconds, 1)})
    streamed.close()
    return rows


def _step_s(model: Any, rows: int) -> float:
    best, segments = float("inf"), [(slot, PROMPT, 1) for slot in range(rows)]
    for _ in range(5):
        begin = time.perf_counter()
        model.forward(np.full(rows, loads.TOKENS[0], np.int32), segments=segments, rows=range(rows))
        best = min(best, time.perf_counter() - begin)
    return best


def _arrangements(model: Any, tokenizer: Any, length: int, solo_s: float, rounds: int) -> list[dict[str, Any]]:
    """Random lengths through a few slots, by each arrangement."""
    lengths = np.random.default_rng(1).integers(max(1, length // 4), 2 * length, loads.REQUESTS).tolist()
    load = loads.make("arrangements", [i * solo_s / 64 for i in range(loads.REQUESTS)], length, lengths)
    best: dict[tuple[str, str], Run] = {}
    for _ in range(rounds):
        for name in ARRANGEMENTS:
            _keep(best, (load.name, name), loads.fused(model, tokenizer, load, FEW_SLOTS, arrangement=name))
    return [
        {"arrangement": name, "total_s": round(run.total_s, 4)}
        | {key: run.metrics[key] for key in ("iterations", "hole_rows", "moves", "moved_bytes")}
        for (_, name), run in best.items()
    ]


def _alarm(model: Any, tokenizer: Any, length: int, alone: bool) -> dict[str, Any]:
    """Return how long an alarm takes while others are answered, beside them or with them paused."""
    took = {}
    for others in (0, STATIC - 1):
        samples = []
        for _ in range(3):
            engine = loads.loop(model, tokenizer, STATIC, alarm_alone=alone, latency_slack=0.0)
            load = loads.make("alarm", [0.0] * (others + 1), 4 * length)
            loads.submit(engine, load, [], 0.0, others)
            for _ in range(others):
                engine.step()
            begin_s = time.perf_counter()
            engine.submit(load.prompts[-1], max_new_tokens=length, priority=Priority.ALARM).wait()
            samples.append(time.perf_counter() - begin_s)
        took[others] = min(samples)
    ratio = took[STATIC - 1] / took[0]
    return {"others_pause": str(alone), "answers": STATIC - 1, "ms": took[STATIC - 1] * 1e3, "inflation": ratio}


def _prefix(model: Any, tokenizer: Any) -> dict[str, float]:
    """Return what requests that begin alike take: time and memory, against one that begins otherwise."""
    common = np.random.default_rng(2).choice(loads.TOKENS[:-1], SHARED).tolist()
    engine = loads.loop(model, tokenizer, STATIC, latency_slack=0.0)
    first = engine.submit([*common, 5], max_new_tokens=3 * STATIC)
    next(first)
    times = {}
    for name, prompt in (("computed", [t + 1 for t in common]), ("shared", common)):
        begin_s = time.perf_counter()
        next(engine.submit([*prompt, 7], max_new_tokens=1))
        times[f"{name}_ms"] = round((time.perf_counter() - begin_s) * 1e3, 2)
    for number in range(STATIC - 2):
        engine.submit([*common, 9 + number], max_new_tokens=2)
    engine.step()
    memory = {f"{what}_mb": round(getattr(model, f"cache_{what}_bytes") / 2**20, 2) for what in ("used", "shared")}
    return {"tokens": SHARED, **times, "copied_bytes": engine.metrics.copied_bytes, **memory}
