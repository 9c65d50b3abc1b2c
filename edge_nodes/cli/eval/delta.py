# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes eval delta`: dense and delta attention side by side, on perplexity, choices and extracted answers.

Keys of short prompts are coded, too (`delta.dense_below` is 0 here): what that loses is the question. One setting
stands for all tasks: of the calibrated ones that reach 60 % that of least sparsity; reading is told at 57 %, too. The
mean over the samples says whether a target is met; the intervals say how much of it is chance.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes import models
from edge_nodes.cli import figures
from edge_nodes.cli.eval.delta_scene import rolling_scene
from edge_nodes.cli.eval.delta_settings import (
    CALIBRATED,
    DENSE,
    GLOBAL,
    WANTED,
    WANTED_BOTH,
    Setting,
    headline,
    settings,
)
from edge_nodes.cli.figures import DataError, target
from edge_nodes.language import attention, load
from edge_nodes.language.config import DeltaConfig
from edge_nodes.language.delta.trade import trade
from edge_nodes.language.engine import Engine
from edge_nodes.language.evaluation.likelihood import Evaluator, perplexity_of
from edge_nodes.language.evaluation.paired import paired_change
from edge_nodes.language.evaluation.reading import SLOTS
from edge_nodes.language.evaluation.tally import Tally
from edge_nodes.language.evaluation.tasks import ACCURACIES, READING, STRIDE, TEXT, read_readings, read_text, run_task

TASKS = (TEXT, *ACCURACIES, READING)
PIECES, QUICK_PIECES, QUICK_SAMPLES = 50, 2, 6


def delta(
    console: Console,
    data: Path,
    *,
    model: str,
    calibration: Path | None,
    limit: int,
    tasks: Sequence[str],
    threads: int,
    quick: bool,
) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        data: directory of the packed data.
        model: name or file of a model.
        calibration: file of `models calibrate`; None for the one kept for the model, if any.
        limit: most samples of each task, 0 for all.
        tasks: some of TASKS; none for all.
        threads: of the engine, 0 for its default.
        quick: few samples and settings; done in 30 s.

    Raises:
        EdgeNodesError: no such model or task, bad data or calibration.
    """
    if unknown := set(tasks) - set(TASKS):
        raise DataError("no such task", got=", ".join(sorted(unknown)), expected="of " + ", ".join(TASKS))
    wanted = [name for name in (tasks or TASKS) if not quick or name in (TEXT, *ACCURACIES[:2])]
    path = models.find(model, verify=False).path
    config = DeltaConfig(calibration=str(calibration) if calibration else "auto")
    found = attention.find_calibration(config, path)
    if found is not None:
        config = replace(config, window_scale=found.window_scale, sink=found.sink)
    engine = load(model, threads=threads, context_tokens=1024, slots=SLOTS)
    run = _Run(console, engine, config, data, limit=min(limit or QUICK_SAMPLES, QUICK_SAMPLES) if quick else limit)
    of = settings(found, quick)
    curve = run.curve(of, QUICK_PIECES if quick else PIECES) if TEXT in wanted or found is None else []
    shares = [row.get("prefill_sparsity", 0.0) for row in curve] or [s.sparsity for s in of]
    rows, scores = run.tasks([name for name in wanted if name != TEXT], of, shares)
    results = {"curve": curve, "tasks": rows, "change": changes(scores), "scene": rolling_scene(engine, config, found)}
    if not quick and TEXT in wanted:
        with console.status("other ways to leave out changes"):
            results["ways"] = _ways(engine, data)
    about = {
        "model": engine.name, "data": data.name, "limit": limit, "tasks": wanted, "quick": quick,
        "kernel": engine.kernel, "window_scale": config.window_scale, "sink": config.sink,
        "calibrated": found is not None,
    }  # fmt: skip
    return figures.result("delta", about, results, targets(curve, rows))


class _Run:
    """Runs tasks with several settings."""

    def __init__(self, console: Console, engine: Engine, config: DeltaConfig, data: Path, *, limit: int) -> None:
        self._console, self._engine, self._config, self._data = console, engine, config, data
        self._limit = limit or sys.maxsize

    def curve(self, of: Sequence[Setting], pieces: int) -> list[dict[str, Any]]:
        """Return sparsity and perplexity of all settings."""
        rows = [_row(setting, self._tally(setting, TEXT, pieces), TEXT) for setting in of]
        with_increase(rows)
        return rows

    def tasks(
        self, names: Sequence[str], of: Sequence[Setting], shares: Sequence[float]
    ) -> tuple[list[dict[str, Any]], dict[tuple[str, str], list[float]]]:
        """Return the rows of tasks, and the scores of each sample by label and task; see `changes`.

        Args:
            names: of the tasks.
            of: settings to choose from.
            shares: what each of them skips.
        """
        rows: list[dict[str, Any]] = []
        scores: dict[tuple[str, str], list[float]] = {}
        for name in names:
            chosen = {s.label: s for share in ((WANTED_BOTH, WANTED) if name == READING else (WANTED,))
                      if (s := headline(of, shares, share)) is not None}  # fmt: skip
            for setting in (of[0], *chosen.values()):
                tally = self._tally(setting, name, self._limit)
                rows.append(_row(setting, tally, name))
                scores[setting.label, name] = tally.scores
        if READING in names:
            with_parts(scores, [bool(sample.answers) for sample in read_readings(self._data)])
        return rows, scores

    def _tally(self, setting: Setting, name: str, limit: int) -> Tally:
        setting.apply(self._engine, self._config)
        with self._console.status("") as status:

            def show_progress(done: int, of: int) -> None:
                status.update(f"{setting.label} on {name}: {done} of {of}")

            return run_task(self._engine, name, self._data, limit, show_progress)


def with_parts(scores: dict[tuple[str, str], list[float]], answered: Sequence[bool]) -> None:
    """Add the scores of questions with and without an answer by themselves."""
    for (label, name), values in list(scores.items()):
        if name == READING:
            pairs = list(zip(values, answered, strict=False))
            scores[label, f"{name}, answerable"] = [value for value, has in pairs if has]
            scores[label, f"{name}, unanswerable"] = [value for value, has in pairs if not has]


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    for title, rows in result["results"].items():
        columns = list(dict.fromkeys(c for row in rows for c in row))
        figures.show_table(console, title, columns, ([row.get(c) for c in columns] for row in rows))
    figures.show_targets(console, result["targets"])


def targets(curve: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached, by the calibrated thresholds if there are any."""
    kinds = {row["kind"] for row in (*curve, *tasks)}
    best = CALIBRATED if CALIBRATED in kinds else GLOBAL
    reached = next((row for row in curve if row["kind"] == best and row["prefill_sparsity"] >= WANTED), None)
    dense = {row["task"]: row["score"] for row in tasks if row["kind"] == DENSE}
    rows = {row["task"]: row for row in tasks if row["kind"] == best}
    accuracies = [name for name in ACCURACIES if name in rows and name in dense]
    change = [100 * (rows[name]["score"] - dense[name]) for name in accuracies]
    shares = [rows[name]["prefill_sparsity"] for name in accuracies]
    running = [rows[name]["running_sparsity"] for name in accuracies]
    reading = rows.get(READING)
    return [
        target(f"{best}: perplexity, % more, at {TEXT} prefill sparsity >= 0.6",
               reached["increase_percent"] if reached else None, "<=", 2.0),
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


def _ways(engine: Engine, data: Path) -> list[dict[str, Any]]:
    tokens = engine.tokenizer.encode(read_text(data), special=False)[:STRIDE]
    engine.model.use_capture()
    Evaluator(engine).logits(tokens, last=True)
    return trade(*engine.model.captured(len(tokens)))


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
