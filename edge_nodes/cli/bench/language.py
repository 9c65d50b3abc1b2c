# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench language`: prompt and answer speed beside llama.cpp's, start, memory, and what Python costs.

Both engines hold the same file in one process and work in turn; the best of all rounds counts, as other work on the
machine only ever makes a rate smaller.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes import models
from edge_nodes.cli import figures, llama_cpp
from edge_nodes.cli.bench.machine_bounds import token_bounds
from edge_nodes.cli.figures import target
from edge_nodes.cli.processes import BenchError, in_process, seconds

THREADS = (1, 2)
START_S, IMPORT_S, SPARE_MB, PYTHON_PERCENT = 1.5, 0.3, 80.0, 5.0
START = """
import time
from edge_nodes.language import load
engine = load({model!r})
next(engine.generate(engine.tokenizer.chat([{{"role": "user", "content": "What do you see?"}}])))
print(time.monotonic())
"""
MEMORY = """
import random, time
from pathlib import Path
from edge_nodes.language import SamplingConfig, load
begin = time.perf_counter()
engine = load({model!r}, threads=1, context_tokens={context})
load_s = time.perf_counter() - begin
draw = random.Random(0)
prompt = [draw.randrange(engine.tokenizer.size) for _ in range({prompt})]
engine.tokenizer.chat([{{"role": "user", "content": "What do you see?"}}])
answer = list(engine.generate(prompt, SamplingConfig(temperature=0.8), max_new_tokens=4))
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(load_s, *(1024e-6 * int(status[key].split()[0]) for key in ("VmRSS", "VmHWM")), engine.model.cache_bytes / 1e6)
"""
IMPORT = "import time; t = time.perf_counter(); from edge_nodes.language import load; print(time.perf_counter() - t)"


@dataclass(frozen=True)
class Case:
    """One model and what is asked of it.

    Attributes:
        name: for the tables.
        path: GGUF file.
        prompt, decode: tokens.
        rounds: of each engine, in turn.
        prefill_ratio, decode_ratio: wanted of llama.cpp's rate; None for no target.
    """

    name: str
    path: str
    prompt: int
    decode: int
    rounds: int
    prefill_ratio: float | None
    decode_ratio: float | None


def bench(console: Console, *, model: str, quick: bool) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        model: name or file of the real model.
        quick: one round, a shorter prompt and answer, and two layers and fewer words of the large shape; done in 30 s.

    Raises:
        EdgeNodesError: the model is missing, or a process ended early.
    """
    found = models.find(model, verify=False).path
    rounds, prompt, decode = (1, 256, 24) if quick else (5, 512, 128)
    cases = [Case(Path(model).stem, str(found), prompt, decode, rounds, 1.0, 1.0), _large(console, quick)]
    rows, memory = [], []
    for case in cases:
        for threads in THREADS:
            with console.status(f"{case.name}: prompt and answer, {threads} thread{'s' * (threads > 1)}"):
                rows.append(in_process(_rates, case, threads))
        with console.status(f"{case.name}: memory"):
            memory.append({"model": case.name, **_memory(case)})
    with console.status("start of a fresh process"):
        start = _start(str(found), 1 if quick else 5)
    with console.status("what Python costs"):
        python = in_process(_python_cost, str(found), 32 if quick else 128, rounds)
    results = {"rates": rows, "memory": memory, "start": start, "python": python}
    about = {"quick": quick, "cases": [asdict(case) for case in cases], "peer": llama_cpp.ABSENT}
    if llama_cpp.available():
        about["peer"] = "llama.cpp by xllamacpp"
    return figures.result("language", about, results, targets(cases, results))


def targets(cases: Sequence[Case], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached."""
    wanted = {case.name: case for case in cases}
    found = []
    for row in results["rates"]:
        case, threads = wanted[row["model"]], f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
        for stage, tokens, ratio in (
            ("prefill", case.prompt, case.prefill_ratio),
            ("decode", case.decode, case.decode_ratio),
        ):
            if ratio is not None:
                name = f"{case.name}: {stage} of {tokens}, {threads}, x llama.cpp"
                found.append(target(name, row[f"{stage}_ratio"], ">=", ratio))
    found += [
        target(f"{m['model']}: resident memory beyond file and cache, MB", m["beyond_mb"], "<=", SPARE_MB)
        for m in results["memory"]
    ]
    start, python = results["start"], results["python"]
    return [
        *found,
        target("start of a process to the first token, s", start["first_token_s"], "<", START_S),
        target("import of edge_nodes.language with all that load needs, s", start["import_s"], "<", IMPORT_S),
        target("time of a greedy token outside the model's step, %", python["greedy_percent"], "<", PYTHON_PERCENT),
        target("time of a drawn token outside the model's step, %", python["drawn_percent"], "<", PYTHON_PERCENT),
    ]


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    found = result["results"]
    columns: tuple[str, ...] = ("model", "threads", "", "tokens/s", "llama.cpp", "ratio", "bound")
    rows = [
        [r["model"], r["threads"], stage, r[stage], r[f"llama_{stage}"], r[f"{stage}_ratio"], r[f"{stage}_bound"]]
        for r in found["rates"]
        for stage in ("prefill", "decode")
    ]
    figures.show_table(console, "tokens a second; bound: product peak or memory bandwidth", columns, rows)
    columns = ("model", "file", "cache", "resident", "beyond", "peak", "load s")
    keys = ("model", "file_mb", "cache_mb", "resident_mb", "beyond_mb", "peak_mb", "load_s")
    figures.show_table(console, "memory, MB", columns, [[m[k] for k in keys] for m in found["memory"]])
    rows = [[name, value] for part in ("start", "python") for name, value in found[part].items()]
    figures.show_table(console, "start and Python", ("", ""), rows)
    figures.show_targets(console, result["targets"])


def _large(console: Console, quick: bool) -> Case:
    """Return the case of the BitNet-2B shape; its file is made once and kept."""
    from edge_nodes.cli.random_models import random_model
    from edge_nodes.language.synthetic import SHAPES

    shape, name = SHAPES["bitnet-2b"], "BitNet-2B shape"
    if quick:
        # As small a part of the head as of the layers.
        layers, words = 2, round(shape.vocabulary * 2 / shape.layers / 64) * 64
        name = f"{name}, {layers} of {shape.layers} layers, {words:,} words"
        shape = replace(shape, layers=layers, vocabulary=words)
    path = random_model(console, shape)
    return Case(name, str(path), 128, 16 if quick else 32, 1 if quick else 3, 5.0, 2.0)


def _prompt(vocabulary: int, count: int) -> list[int]:
    found: list[int] = np.random.default_rng(0).integers(vocabulary // 50, vocabulary, count).tolist()
    return found


def _rates(case: Case, threads: int) -> dict[str, Any]:
    """Return the best rates of both engines, and what bounds them."""
    from edge_nodes.language import load

    context = case.prompt + case.decode + 8
    ours, peer = load(case.path, threads=threads, context_tokens=context), None
    prompt = _prompt(ours.model.vocabulary, case.prompt)
    if llama_cpp.available():
        peer = llama_cpp.LlamaCpp(Path(case.path), threads=threads, context=context)
    best: dict[str, tuple[float, float]] = {}
    for _ in range(case.rounds):
        product_s, read_s = token_bounds(ours, Path(case.path), threads, part="blk.")
        _note(best, "bound", (1 / product_s, 1 / read_s))
        _note(best, "ours", _own_rates(ours, prompt, case.decode))
        if peer is not None:
            _note(best, "llama", peer.rates(prompt, case.decode))
    row = {"model": case.name, "threads": threads, "kernel": ours.kernel}
    row["llama_instructions"] = peer.instructions if peer else llama_cpp.ABSENT
    for i, stage in enumerate(("prefill", "decode")):
        llama = best["llama"][i] if peer else None
        row |= {stage: round(best["ours"][i], 1), f"llama_{stage}": llama and round(llama, 1)}
        row |= {f"{stage}_ratio": llama and round(best["ours"][i] / llama, 2)}
        row |= {f"{stage}_bound": round(best["bound"][i], 1)}
    return row


def _note(best: dict[str, tuple[float, float]], name: str, found: tuple[float, float]) -> None:
    before = best.get(name, (0.0, 0.0))
    best[name] = (max(before[0], found[0]), max(before[1], found[1]))


def _own_rates(engine: Any, prompt: list[int], decode: int) -> tuple[float, float]:
    engine.reset()
    begin = time.perf_counter()
    logits, _ = engine.prefill(prompt)
    prefill_s = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in range(decode):
        logits = engine.step(int(logits.argmax()))
    return len(prompt) / prefill_s, decode / (time.perf_counter() - begin)


def _memory(case: Case) -> dict[str, Any]:
    """Return what a process holds after an answer that fills its cache, in MB of 10^6 bytes.

    The process is a fresh one, which has none of what a benchmark needs besides.
    """
    code = MEMORY.format(model=case.path, context=case.prompt + 4, prompt=case.prompt)
    load_s, resident, peak, cache = _say(code)
    file = Path(case.path).stat().st_size / 1e6
    return {
        "file_mb": round(file, 1),
        "cache_mb": round(cache, 1),
        "resident_mb": round(resident, 1),
        "peak_mb": round(peak, 1),
        "beyond_mb": round(resident - file - cache, 1),
        "load_s": round(load_s, 2),
    }


def _start(model: str, rounds: int) -> dict[str, float]:
    """Return the shortest start to the first token, and import, of fresh processes; the files are cached."""
    first, imports = [], []
    for _ in range(rounds):
        begin = time.monotonic()
        first.append(_say(START.format(model=model))[0] - begin)
        imports += _say(IMPORT)
    return {"first_token_s": round(min(first), 3), "import_s": round(min(imports), 3)}


def _say(code: str) -> list[float]:
    """Return the numbers that a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise BenchError("a fresh process failed", got=done.stderr.strip()[-300:])
    return [float(number) for number in done.stdout.split()]


class _Timed:
    """A model that adds up the time of its steps."""

    def __init__(self, model: Any) -> None:
        self._model, self.spent_s = model, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, *args: Any) -> Any:
        begin = time.perf_counter()
        out = self._model.forward(*args)
        self.spent_s += time.perf_counter() - begin
        return out


def _python_cost(model: str, tokens: int, rounds: int) -> dict[str, float]:
    """Return the share of an answer's time outside the native step: logarithms, sampling, text, bookkeeping."""
    from edge_nodes.language import SamplingConfig, load

    engine = load(model, threads=1, context_tokens=tokens + 128)
    engine.model = _Timed(engine.model)
    ends = ", ".join(f"[{end}, false]" for end in sorted(engine.tokenizer.end_tokens))
    kinds = {
        "greedy": SamplingConfig(),
        "drawn": SamplingConfig(temperature=0.8, min_p=0.05, repetition_penalty=1.1, logit_bias=f"[{ends}]"),
    }
    prompt = engine.tokenizer.chat([{"role": "user", "content": "Tell me a long story of a robot."}])
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, sampling in kinds.items():
            engine.prefill(prompt)
            spent = engine.model.spent_s
            took = seconds(list, engine.generate(prompt, sampling, max_new_tokens=tokens))
            found[name].append(100 * (1 - (engine.model.spent_s - spent) / took))
    return {f"{name}_percent": round(float(np.median(shares)), 2) for name, shares in found.items()}
