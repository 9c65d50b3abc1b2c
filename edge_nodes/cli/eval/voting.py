# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes eval voting`: sequential against parallel attempts at equal cost, by every voting rule.

The first attempts of a long run are those of a shorter one, so one run of each kind serves all counts. Equal cost is
taken twice: the same number of attempts of the same budget (generated tokens), and as many parallel attempts as the
prompt and generated tokens of the sequential ones pay for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes.cli import figures
from edge_nodes.cli.figures import target
from edge_nodes.errors import ParameterError
from edge_nodes.language.config import FusionConfig, ReasoningConfig, SamplingConfig
from edge_nodes.language.evaluation.question_sets import ROBOT, Question, read_questions, robot_questions
from edge_nodes.language.fusion.loop import FusionEngine
from edge_nodes.language.reasoning.deliberation import Deliberation, Record
from edge_nodes.language.reasoning.voting import RULES, Attempt, decided, vote

COUNTS = (3, 6, 9)
SEEDS = (0, 1, 2)
PARALLEL_SHARE = 8 / 3  # parallel attempts for each sequential one: what equal prompt and generated tokens may pay for
SLOTS, CONTEXT = 24, 2048
TEMPERATURE, TOP_P = 0.7, 0.95
RESAMPLES = 2000
SEED_STEP = 1000
SINGLE, PARALLEL, SEQUENTIAL = "single", "parallel", "sequential"
MODES = (SEQUENTIAL, PARALLEL)  # as they stand in a pair of trials
EQUAL = ("generated", "all")


@dataclass(frozen=True)
class Trial:
    """What one question came to in one way with one seed."""

    question: Question
    seed: int
    mode: str
    records: Sequence[Record]


def voting(
    console: Console, data: str, *, model: str, limit: int, tokens: int, attempts: int, threads: int, quick: bool
) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        data: file of questions (see `read_questions`), or "robot" for questions about random scenes.
        model: name or file of a model.
        limit: questions; the first of the file.
        tokens: longest attempt.
        attempts: most sequential attempts at a question; those of `COUNTS` up to it are compared.
        threads: of the engine, 0 for its default.
        quick: two questions, one seed, short attempts; done in 30 s.

    Raises:
        EdgeNodesError: no such model, bad data, too few attempts to compare.
    """
    from edge_nodes.language import load

    counts = tuple(n for n in COUNTS if n <= attempts)
    if not counts:
        raise ParameterError("too few attempts", got=attempts, expected=f"at least {COUNTS[0]}")
    limit, tokens, seeds = (2, 12, SEEDS[:1]) if quick else (limit, tokens, SEEDS)
    questions = robot_questions(limit) if data == ROBOT else read_questions(Path(data))[:limit]
    engine = load(model, threads=threads, context_tokens=CONTEXT, slots=SLOTS)
    begin = time.perf_counter()
    loop = FusionEngine(engine.model, engine.tokenizer, FusionConfig(queue=10000, prefill_tokens=64))
    with console.status(f"{engine.name}: {len(questions)} questions") as status:
        trials = []
        for trial in _run(loop, questions, seeds, counts[-1], tokens):
            trials.append(trial)
            status.update(f"{engine.name}: {len(trials)} of {len(questions) * (2 * len(seeds) + 1)} runs")
    about = {
        "data": data if data == ROBOT else Path(data).name,
        "model": engine.name,
        "questions": len(questions),
        "seeds": len(seeds),
        "attempts": list(counts),
        "tokens_an_attempt": tokens,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "quick": quick,
    }
    found = _results(trials, counts, time.perf_counter() - begin)
    return figures.result("voting", about, found, targets(found))


def targets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return by how much sequential attempts beat parallel ones, elected by inverse entropy; 0 is a draw."""
    return [
        target(f"sequential - parallel, {row['attempts']} attempts, equal {row['equal']} tokens", row["gain"], ">", 0.0)
        for row in found["accuracy"]
        if row["rule"] == "inverse_entropy"
    ]


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    found = result["results"]
    for equal in EQUAL:
        rows = {(r["rule"], r["attempts"]): r for r in found["accuracy"] if r["equal"] == equal}
        counts = sorted({n for _, n in rows})
        columns = [f"{n} {what}" for n in counts for what in ("seq/par", "gain")]
        table = [[rule, *(v for n in counts for v in _cells(rows[rule, n]))] for rule in RULES]
        figures.show_table(console, f"share right at equal {equal} tokens", ["rule", *columns], table)
    for name in ("against_single", "cost", "entropy", "early_stop"):
        figures.show_table(console, name, list(found[name][0]), [list(row.values()) for row in found[name]])
    console.print(f"one greedy attempt: {found['single_accuracy']:.3f}", highlight=False)
    figures.show_targets(console, result["targets"])


def _cells(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['sequential']:.2f}/{row['parallel']:.2f}", f"{row['gain']:+.2f}"


def _run(
    loop: FusionEngine, questions: Sequence[Question], seeds: Sequence[int], attempts: int, tokens: int
) -> Iterator[Trial]:
    """Yield all trials; a few are under way at once, as rows of the same iterations."""
    work = [(q, s, mode) for q in questions for s in seeds for mode in MODES]
    work += [(q, 0, SINGLE) for q in questions]
    running: list[tuple[tuple[Question, int, str], Deliberation]] = []
    while work or running:
        while work and len(running) < SLOTS // 2 and len(loop.requests()) < 2 * SLOTS:
            running.append((work[0], _ask(loop, *work.pop(0), attempts, tokens)))
        loop.step()
        for job, asked in [entry for entry in running if entry[1].advance()]:
            running.remove((job, asked))
            assert asked.outcome is not None
            yield Trial(*job, asked.outcome.records)


def _ask(loop: FusionEngine, question: Question, seed: int, mode: str, attempts: int, tokens: int) -> Deliberation:
    config = ReasoningConfig(
        mode=PARALLEL if mode == SINGLE else mode,
        attempts={SINGLE: 1, PARALLEL: round(PARALLEL_SHARE * attempts), SEQUENTIAL: attempts}[mode],
        max_new_tokens=tokens,
        earlier_tokens=tokens,
        temperature=0.0 if mode == SINGLE else TEMPERATURE,
        answer=question.form,
        early_stop=False,
    )
    sampling = SamplingConfig(top_k=0, top_p=TOP_P, seed=seed * SEED_STEP)
    return Deliberation(loop, [{"role": "user", "content": question.text}], config, sampling)


def _results(trials: Sequence[Trial], counts: Sequence[int], seconds: float) -> dict[str, Any]:
    pairs = _pairs(trials)
    single = {t.question.text: t.question.right(t.records[0].answer) for t in trials if t.mode == SINGLE}
    rows = [_compared(pairs, count, rule, equal) for equal in EQUAL for count in counts for rule in RULES]
    return {
        "single_accuracy": float(np.mean(list(single.values()))),
        "accuracy": rows,
        "against_single": [_gain(pairs, count, mode, single) for mode in MODES for count in counts],
        "cost": [_cost(pairs, count) for count in counts],
        "entropy": [_entropy(trials, mode) for mode in MODES],
        "early_stop": [_early(trials, count, mode) for mode in MODES for count in counts],
        "seconds": round(seconds, 1),
    }


def _pairs(trials: Sequence[Trial]) -> list[list[tuple[Trial, Trial]]]:
    """Return, for each question, the (sequential, parallel) trials of its seeds."""
    found: dict[str, dict[int, dict[str, Trial]]] = {}
    for t in trials:
        if t.mode != SINGLE:
            found.setdefault(t.question.text, {}).setdefault(t.seed, {})[t.mode] = t
    return [[(s[SEQUENTIAL], s[PARALLEL]) for s in seeds.values()] for seeds in found.values()]


def _compared(pairs: Sequence[Sequence[tuple[Trial, Trial]]], count: int, rule: str, equal: str) -> dict[str, Any]:
    right = []
    for question in pairs:
        chains = [count if equal == "generated" else _affordable(s, p, count) for s, p in question]
        sequential = [_right(s, count, rule) for s, _ in question]
        parallel = [_right(p, n, rule) for (_, p), n in zip(question, chains, strict=True)]
        right.append((float(np.mean(sequential)), float(np.mean(parallel))))
    scores = np.array(right)
    gains = scores[:, 0] - scores[:, 1]
    low, high = _interval(gains)
    return {
        "equal": equal,
        "attempts": count,
        "rule": rule,
        "sequential": round(float(scores[:, 0].mean()), 4),
        "parallel": round(float(scores[:, 1].mean()), 4),
        "gain": round(float(gains.mean()), 4),
        "low": low,
        "high": high,
    }


def _gain(
    pairs: Sequence[Sequence[tuple[Trial, Trial]]], count: int, mode: str, single: Mapping[str, bool]
) -> dict[str, Any]:
    """Return by how much attempts that vote by inverse entropy beat one greedy attempt, which costs a fraction."""
    which = MODES.index(mode)
    gains = np.array(
        [
            np.mean([_right(pair[which], count, "inverse_entropy") for pair in question])
            - single[question[0][which].question.text]
            for question in pairs
        ]
    )
    low, high = _interval(gains)
    return {"mode": mode, "attempts": count, "gain": round(float(gains.mean()), 4), "low": low, "high": high}


def _right(trial: Trial, count: int, rule: str) -> bool:
    return trial.question.right(vote(_ballots(trial.records[:count]), rule).answer)


def _ballots(records: Sequence[Record]) -> list[Attempt]:
    return [Attempt(r.answer, r.entropy_bits) for r in records]


def _tokens(records: Sequence[Record]) -> int:
    return sum(r.prompt_tokens + r.generated_tokens for r in records)


def _affordable(sequential: Trial, parallel: Trial, count: int) -> int:
    """Return how many parallel attempts cost at most what the first `count` sequential ones do; at least one."""
    budget, paid = _tokens(sequential.records[:count]), 0
    for number, record in enumerate(parallel.records):
        paid += _tokens([record])
        if paid > budget:
            return max(1, number)
    return len(parallel.records)


def _interval(gains: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over questions, by the bootstrap."""
    from scipy.stats import bootstrap

    if len(gains) < 2 or np.ptp(gains) == 0.0:
        return float(gains.mean()), float(gains.mean())
    found = bootstrap((gains,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=0)
    return round(float(found.confidence_interval.low), 4), round(float(found.confidence_interval.high), 4)


def _cost(pairs: Sequence[Sequence[tuple[Trial, Trial]]], count: int) -> dict[str, Any]:
    flat = [pair for question in pairs for pair in question]
    row: dict[str, Any] = {"attempts": count}
    for i, mode in enumerate(MODES):
        records = [r for pair in flat for r in pair[i].records[:count]]
        row[f"{mode}_prompt_tokens"] = round(sum(r.prompt_tokens for r in records) / len(flat), 1)
        row[f"{mode}_generated_tokens"] = round(sum(r.generated_tokens for r in records) / len(flat), 1)
    row["affordable_parallel"] = round(float(np.mean([_affordable(s, p, count) for s, p in flat])), 1)
    return row


def _entropy(trials: Sequence[Trial], mode: str) -> dict[str, Any]:
    """Return how right and wrong attempts differ in entropy, and how many have an answer."""
    chosen = [(t, r) for t in trials if t.mode == mode for r in t.records]
    bits = {kind: [r.entropy_bits for t, r in chosen if t.question.right(r.answer) == kind] for kind in (True, False)}
    return {
        "mode": mode,
        "attempts": len(chosen),
        "with_answer": round(float(np.mean([r.answer is not None for _, r in chosen])), 3),
        "right": round(len(bits[True]) / len(chosen), 3),
        "bits_of_right": round(float(np.mean(bits[True])), 3) if bits[True] else None,
        "bits_of_wrong": round(float(np.mean(bits[False])), 3) if bits[False] else None,
        "top20_full_rank_agreement": _agreement([r for _, r in chosen]),
    }


def _agreement(records: Sequence[Record]) -> float | None:
    """Return Spearman's rank correlation of the entropies over 20 tokens and over the whole vocabulary."""
    from scipy.stats import spearmanr

    if len(records) < 3:
        return None
    found = spearmanr([r.entropy_bits for r in records], [r.full_entropy_bits for r in records])
    return round(float(found.statistic), 4)


def _early(trials: Sequence[Trial], count: int, mode: str) -> dict[str, Any]:
    """Return what ending at a decided vote would have spared, and how often it would have changed the answer."""
    spared, changed, chosen = 0, 0, [t for t in trials if t.mode == mode]
    for trial in chosen:
        ballots = _ballots(trial.records[:count])
        made = next((n for n in range(1, len(ballots)) if decided(ballots[:n], len(ballots) - n)), len(ballots))
        spared += len(ballots) - made
        changed += vote(ballots[:made]).answer != vote(ballots).answer
    share = spared / (count * len(chosen))
    return {"mode": mode, "attempts": count, "spared": round(share, 3), "changed": round(changed / len(chosen), 3)}
