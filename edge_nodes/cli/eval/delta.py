# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes eval delta`: dense and delta attention side by side, on perplexity, choices and extracted answers.

Keys of short prompts are coded, too (`delta.dense_below` is 0 here): what that loses is the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes import models
from edge_nodes.cli import figures
from edge_nodes.cli.figures import target
from edge_nodes.language import attention, load
from edge_nodes.language.config import DeltaConfig
from edge_nodes.language.delta.trade import trade
from edge_nodes.language.engine import Engine
from edge_nodes.language.evaluation.likelihood import ACCURACIES, STRIDE, Evaluator, perplexity_of, read_text, run_task
from edge_nodes.language.evaluation.paired import paired_change

THETAS = (0.4, 0.7, 1.0, 1.4)
TEXT, READING = "wikitext2", "squad_v2"
WANTED = 0.60  # share of skipped multiply-adds of prompts at which the accuracy counts
WANTED_BOTH = 0.57  # of prompts and answers, at which reading counts
DENSE, GLOBAL, CALIBRATED = "dense", "global", "calibrated"


@dataclass(frozen=True)
class Setting:
    """One kind of attention to evaluate.

    Attributes:
        kind: DENSE, GLOBAL or CALIBRATED.
        theta: thresholds; None if dense.
        label: what it is called in the figures.
    """

    kind: str
    theta: attention.Theta | None
    label: str


def delta(
    console: Console, data: Path, *, model: str, calibration: Path | None, limit: int, threads: int, quick: bool
) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        data: directory of the packed data.
        model: name or file of a model.
        calibration: file of `models calibrate`; None for the one kept for the model, if any.
        limit: samples of each task.
        threads: of the engine, 0 for its default.
        quick: few samples and settings; done in 30 s.

    Raises:
        EdgeNodesError: no such model, bad data or calibration.
    """
    limit = min(limit, 6) if quick else limit
    path = models.find(model, verify=False).path
    config = DeltaConfig(calibration=str(calibration) if calibration else "auto")
    found = attention.find_calibration(config, path)
    if found is not None:
        config = replace(config, window_scale=found.window_scale, sink=found.sink)
    engine = load(model, threads=threads, context_tokens=1024)
    settings = _settings(found, quick)
    curve, tasks = [], []
    scores: dict[tuple[str, str], list[float]] = {}
    for setting in settings:
        with console.status(f"{setting.label} on {TEXT}"):
            _apply(engine, setting, config)
            curve.append(_row(setting, run_task(Evaluator(engine), TEXT, data, max(2, limit // 8)), TEXT))
    with_increase(curve)
    wanted = (
        dict.fromkeys(ACCURACIES[:2], WANTED) if quick else {**dict.fromkeys(ACCURACIES, WANTED), READING: WANTED_BOTH}
    )
    for name, share in wanted.items():
        for setting in [s for s in settings if s.kind == DENSE] + _headlines(settings, curve, share):
            _apply(engine, setting, config)
            with console.status(f"{setting.label} on {name}"):
                tally = run_task(Evaluator(engine), name, data, limit)
            scores[setting.label, name] = tally.scores
            tasks.append(_row(setting, tally, name))
    results = {"curve": curve, "tasks": tasks, "change": changes(scores), "scene": rolling_scene(engine, config, found)}
    if not quick:
        with console.status("other ways to leave out changes"):
            results["ways"] = _ways(engine, data)
    about = {
        "model": engine.name, "data": data.name, "limit": limit, "quick": quick, "kernel": engine.kernel,
        "window_scale": config.window_scale, "sink": config.sink, "calibrated": found is not None,
    }  # fmt: skip
    return figures.result("delta", about, results, targets(curve, tasks))


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    for title, rows in result["results"].items():
        columns = list(dict.fromkeys(c for row in rows for c in row))
        figures.show_table(console, title, columns, ([row.get(c) for c in columns] for row in rows))
    figures.show_targets(console, result["targets"])


def targets(curve: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached, by the calibrated thresholds if there are any."""
    kinds = {row["kind"] for row in curve}
    best = CALIBRATED if CALIBRATED in kinds else GLOBAL
    headline = next((row for row in curve if row["kind"] == best and row["prefill_sparsity"] >= WANTED), None)
    dense = {row["task"]: row["score"] for row in tasks if row["kind"] == DENSE}
    rows = {row["task"]: row for row in tasks if row["kind"] == best}
    accuracies = [name for name in ACCURACIES if name in rows and name in dense]
    change = [100 * (rows[name]["score"] - dense[name]) for name in accuracies]
    shares = [rows[name]["prefill_sparsity"] for name in accuracies]
    running = [rows[name]["running_sparsity"] for name in accuracies]
    reading = rows.get(READING)
    return [
        target(f"{best}: perplexity, % more, at {TEXT} prefill sparsity >= 0.6",
               headline["increase_percent"] if headline else None, "<=", 2.0),
        target(f"{best}: mean accuracy, points more", _mean(change), ">=", -0.5),
        target("prefill sparsity of these tasks", _mean(shares), ">=", WANTED),
        target("the paper's running figure of them", _mean(running), ">=", WANTED),
        target(f"{best}: F1 on {READING}, points more",
               100 * (reading["score"] - dense[READING]) if reading and READING in dense else None, ">=", 0.0),
        target("sparsity there, both stages", reading["sparsity"] if reading else None, ">=", WANTED_BOTH),
        target("perplexity by global theta less that by calibrated, % at equal sparsity", _above(curve), ">", 0.0),
    ]  # fmt: skip


def changes(scores: Mapping[tuple[str, str], Sequence[float]]) -> list[dict[str, Any]]:
    """Return how scores differ from the dense ones, in points, with intervals of 95 % by the paired bootstrap.

    Args:
        scores: of each sample, by label of the setting and task.
    """
    out = []
    for label in dict.fromkeys(label for label, _ in scores if label != DENSE):
        names = [name for of, name in scores if of == label and (DENSE, name) in scores]
        groups = {name: [name] for name in names}
        groups["mean accuracy"] = [name for name in names if name in ACCURACIES]
        for title, group in ((title, group) for title, group in groups.items() if group):
            found = paired_change([scores[DENSE, name] for name in group], [scores[label, name] for name in group])
            out.append(
                {
                    "attention": label,
                    "task": title,
                    "points": 100 * found.mean,
                    "low": 100 * found.low,
                    "high": 100 * found.high,
                }
            )
    return out


def rolling_scene(engine: Engine, config: DeltaConfig, found: attention.Calibration | None) -> list[dict[str, Any]]:
    """Return what prefix reuse and delta attention save while the scene in the prompt changes every second."""
    prompts = [engine.tokenizer.chat(messages) for messages in _scene_prompts()]
    theta = found.theta() if found else np.full(1, config.theta, np.float32)
    out = []
    for reuse in (False, True):
        for setting in (Setting(DENSE, None, DENSE), Setting(CALIBRATED if found else GLOBAL, theta, "delta")):
            _apply(engine, setting, config)
            engine.reset()
            computed, seconds, sparsity = 0, 0.0, []
            for prompt in prompts:
                if not reuse:
                    engine.reset()
                run = engine.generate(prompt, max_new_tokens=8)
                for _ in run:
                    pass
                computed += run.prompt_tokens - run.cached_tokens
                seconds += run.prefill_s
                skipped = attention.skipped(engine.model, 0, tokens=len(prompt))
                sparsity.append((skipped.prefill + skipped.decode).share if skipped else 0.0)
            out.append(
                {
                    "attention": setting.label,
                    "prefix_reuse": reuse,
                    "prompt_tokens": sum(map(len, prompts)),
                    "computed_tokens": computed,
                    "prefill_ms": 1e3 * seconds / len(prompts),
                    "sparsity": float(np.mean(sparsity)),
                }
            )
    return out


def _scene_prompts() -> list[list[dict[str, str]]]:
    """Return prompts of a robot that watches a person come nearer: one figure changes each second."""
    rules = "You are the voice of a mobile robot. Answer in one short sentence from what the robot sees."
    return [
        [
            {"role": "system", "content": rules},
            {"role": "user", "content": f"{_scene(second)} What do you see?"},
        ]
        for second in range(8)
    ]


def _scene(second: int) -> str:
    return (
        "The robot sees a wall 2.1 m to the left, a car 14.0 m ahead that stands still, a shelf 3.5 m to the right, "
        f"and a person {9.0 - second:.1f} m ahead who walks towards it at 1.0 m/s."
    )


def _ways(engine: Engine, data: Path) -> list[dict[str, Any]]:
    tokens = engine.tokenizer.encode(read_text(data), special=False)[:STRIDE]
    engine.model.use_capture()
    Evaluator(engine).logits(tokens, last=True)
    return trade(*engine.model.captured(len(tokens)))


def _settings(found: attention.Calibration | None, quick: bool) -> list[Setting]:
    out = [Setting(DENSE, None, DENSE)]
    thetas = THETAS[2:3] if quick else THETAS
    out += [Setting(GLOBAL, np.full(1, theta, np.float32), f"theta {theta:g}") for theta in thetas]
    if found is not None:
        levels = range(len(found.levels))
        near = [i for i in levels if found.levels[i]["sparsity"] >= WANTED][:1] if quick else levels
        out += [Setting(CALIBRATED, found.theta(i), f"calibrated {found.levels[i]['sparsity']:.2f}") for i in near]
    return out


def _headlines(settings: Sequence[Setting], curve: Sequence[Mapping[str, Any]], wanted: float) -> list[Setting]:
    """Return of each kind the setting of least sparsity that reaches the wanted one, else its sparsest."""
    out = []
    for kind in (GLOBAL, CALIBRATED):
        rows = [(row["prefill_sparsity"], s) for s, row in zip(settings, curve, strict=True) if s.kind == kind]
        rows.sort(key=lambda pair: pair[0])
        if rows:
            out.append(next((s for share, s in rows if share >= wanted), rows[-1][1]))
    return out


def _apply(engine: Engine, setting: Setting, config: DeltaConfig) -> None:
    if setting.theta is None:
        engine.model.use_cache("f16")
    else:
        engine.model.use_delta(setting.theta, window_scale=config.window_scale, sink=config.sink)
    engine.reset()


def _row(setting: Setting, tally: Any, task: str) -> dict[str, Any]:
    row = {"task": task, "kind": setting.kind, "attention": setting.label, **tally.plain()}
    if task == TEXT:
        row["perplexity"] = perplexity_of(tally)
    return row


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def with_increase(curve: Sequence[dict[str, Any]]) -> None:
    """Add to each row by how many percent its perplexity is above the dense one."""
    dense = next(row["perplexity"] for row in curve if row["kind"] == DENSE)
    for row in curve:
        row["increase_percent"] = 100 * (row["perplexity"] / dense - 1)


def _above(curve: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how much more perplexity global thresholds cost than calibrated ones, at worst over equal sparsities."""
    points = {
        kind: sorted((r["prefill_sparsity"], r["increase_percent"]) for r in curve if r["kind"] == kind)
        for kind in (GLOBAL, CALIBRATED)
    }
    if len(points[CALIBRATED]) < 2:
        return None
    x, y = zip(*points[CALIBRATED], strict=True)
    inside = [(share, more) for share, more in points[GLOBAL] if x[0] <= share <= x[-1]]
    return min((more - float(np.interp(share, x, y)) for share, more in inside), default=None)
