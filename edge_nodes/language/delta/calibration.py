# SPDX-License-Identifier: Apache-2.0
"""Thresholds of delta attention from a text: where a change matters little, more of them are left out.

The error of a score is the query times what the key's code is off. To first order it moves a query's output by the
weight of that key times the distance of its value from the output (through the output projection). A capture
gives that cost for every layer, KV head and channel as a function of theta, beside the share of multiply-adds that it
skips; a pass for each KV head (its change of the next token's distribution) puts them in one unit. Prompts of
several lengths count alike: in short ones the first keys weigh more, and fewer changes can be left out. A Lagrange
multiplier then shares a wanted sparsity out, so that all thresholds have the same marginal cost. Levels of sparsity are
checked on text that was not captured; the largest within the budget is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_nodes.language.delta import reference as delta
from edge_nodes.language.engine import Engine
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.evaluation.likelihood import Evaluator
from edge_nodes.language.evaluation.tally import Tally

Floats = npt.NDArray[np.float64]

LENGTHS = ((512, 1, 0), (128, 4, 2), (40, 10, 6))  # tokens, captured prompts, and how many in each head's pass
CHECKED = 512  # tokens of each piece that a level is checked on
LEVELS = (0.4, 0.5, 0.56, 0.6, 0.65, 0.7, 0.75, 0.8)
GRID = np.geomspace(0.12, 12.0, 36)  # thresholds tried; the least keeps codes in range
_TRIED, _NEGLIGIBLE = 0.7, 0.1  # sparsity of the head that is measured, theta of the others
_LEAST, _LAYERS_SHARE = 0.05, 0.5  # of the median; of its layer in what is taken for a head


@dataclass(frozen=True)
class Curves:
    """What each threshold of the grid gives.

    Attributes:
        zeros: share of the score multiply-adds that are skipped (grid, layers, kv_heads, channels).
        cost: expected change of the outputs, the same shape.
    """

    zeros: Floats
    cost: Floats


def calibrate(
    engine: Engine,
    tokens: Sequence[int],
    output_weights: Callable[[int], npt.NDArray[np.float32]],
    *,
    budget: float = 0.02,
    window_scale: float = 0.1,
    sink: int = 0,
    shared: bool = False,
    checked: int = 6,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[dict[str, Any]], int]:
    """Return levels {sparsity, increase, theta} by sparsity, and the index of the largest within the budget.

    Args:
        engine: the model; what it has cached is forgotten.
        tokens: the text: prompts of LENGTHS and `checked` pieces of CHECKED.
        output_weights: of a layer, the output projection float32 (width, heads * head_dim).
        budget: largest increase of perplexity, a share.
        window_scale: as it will be used.
        sink: as it will be used.
        shared: one threshold for all channels of a KV head.
        checked: pieces that each level is checked on.
        progress: called with one line of text at each step.

    Raises:
        LanguageError: BAD_INPUT, the text is too short.
    """
    captured = sum(length * count for length, count, _ in LENGTHS)
    need = captured + checked * CHECKED
    if len(tokens) < need:
        raise LanguageError(
            "the text is too short to calibrate with", got=f"{len(tokens)} tokens", expected=f"at least {need}"
        )
    runner = _Runner(engine, window_scale, sink)
    progress("capturing queries, keys and values")
    prompts = _prompts(tokens)
    of_length = [
        _mean([_curves(*runner.capture(p), output_weights=output_weights, exact=runner.exact(len(p))) for p in group])
        for group in prompts
    ]
    curves = _mean(of_length)
    measured = [p for group, (_, _, count) in zip(prompts, LENGTHS, strict=True) for p in group[:count]]
    weights = runner.sensitivities(measured, curves, lambda layer: progress(f"measuring layer {layer}"))
    curves = Curves(curves.zeros, curves.cost * weights[:, :, None])
    pieces = [tokens[captured + i * CHECKED :][:CHECKED] for i in range(checked)]
    engine.model.use_cache("f16")
    before = runner.nats(pieces)[0]
    levels = []
    for sparsity in LEVELS:
        theta = solve(curves, sparsity, shared=shared)
        engine.model.use_delta(theta.astype(np.float32), window_scale=window_scale, sink=sink)
        nats, share = runner.nats(pieces)
        increase = float(np.expm1(nats - before))
        progress(f"sparsity {share:.3f}: perplexity {increase:+.2%}")
        levels.append({"sparsity": share, "increase": increase, "theta": np.round(theta, 4).tolist()})
    within = [i for i, level in enumerate(levels) if level["increase"] <= budget]
    return levels, max(within, default=0)


def solve(curves: Curves, sparsity: float, *, shared: bool = False) -> Floats:
    """Return thresholds (layers, kv_heads, channels) of the least cost that skip this share in the mean.

    Args:
        curves: see `Curves`, on GRID.
        sparsity: wanted mean share of skipped multiply-adds.
        shared: one threshold for all channels of a KV head.
    """
    zeros, cost = curves.zeros, curves.cost
    if shared:
        zeros, cost = (np.broadcast_to(x.mean(axis=3, keepdims=True), x.shape) for x in (zeros, cost))
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        chosen = (cost - np.exp(middle) * zeros).argmin(axis=0)
        if np.take_along_axis(zeros, chosen[None], axis=0).mean() < sparsity:
            low = middle
        else:
            high = middle
    theta: Floats = GRID[(cost - np.exp(high) * zeros).argmin(axis=0)]
    return theta


def _prompts(tokens: Sequence[int]) -> list[list[Sequence[int]]]:
    """Return the beginning of the text cut into prompts, by length."""
    out, at = [], 0
    for length, count, _ in LENGTHS:
        out.append([tokens[at + i * length :][:length] for i in range(count)])
        at += length * count
    return out


def _mean(curves: Sequence[Curves]) -> Curves:
    return Curves(np.mean([c.zeros for c in curves], axis=0), np.mean([c.cost for c in curves], axis=0))


def _curves(
    queries: npt.NDArray[np.float32],
    keys: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    *,
    output_weights: Callable[[int], npt.NDArray[np.float32]],
    exact: npt.NDArray[np.bool_],
) -> Curves:
    """Return the curves of captured (layers, n, heads, d) rows; `exact` (n, n) scores cost and skip nothing."""
    layers, n, kv_heads, d = keys.shape
    approximate = np.tri(n, dtype=bool) & ~exact
    weights = np.stack(
        [_weights(queries[i], keys[i], values[i], output_weights(i), approximate) for i in range(layers)]
    )
    readers = approximate.sum(axis=0)  # queries that read the code of a key
    theta = GRID.astype(np.float32)[:, None, None, None]
    reference, zeros, cost = (np.zeros((len(GRID), layers, kv_heads, d), np.float32) for _ in range(3))
    for j in range(n):
        key = keys[:, j]
        near = np.abs(key - reference) <= theta if j else np.zeros(reference.shape, bool)
        reference = np.where(near, reference, key)
        zeros += near * np.float32(readers[j])
        cost += weights[:, j] * np.square(key - reference)
    return Curves(zeros.astype(np.float64) / (n * (n + 1) / 2), cost.astype(np.float64) / n)


def _weights(
    queries: npt.NDArray[np.float32],
    keys: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    output: npt.NDArray[np.float32],
    approximate: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """Return what a unit of squared error of each element of a layer's keys costs, (n, kv_heads, d)."""
    n, kv_heads, d = keys.shape
    group = queries.shape[1] // kv_heads
    out = np.zeros(keys.shape, np.float32)
    for head in range(queries.shape[1]):
        q, k, v = queries[:, head], keys[:, head // group], values[:, head // group]
        scores = np.where(np.tri(n, dtype=bool), q @ k.T, -np.inf)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        projection = output[:, head * d : (head + 1) * d]
        gram = projection.T @ projection
        mean = p @ v
        along = mean @ gram
        distance = (v @ gram * v).sum(axis=1)[None] + (along * mean).sum(axis=1)[:, None] - 2 * along @ v.T
        out[:, head // group] += (np.square(p) * distance * approximate).T @ np.square(q)
    return out


class _Runner:
    """Runs text through the model."""

    def __init__(self, engine: Engine, window_scale: float, sink: int) -> None:
        self._engine, self._evaluator = engine, Evaluator(engine)
        self._options = {"window_scale": window_scale, "sink": sink}

    def capture(self, tokens: Sequence[int]) -> Any:
        """Return queries, keys and values of a dense pass."""
        model = self._engine.model
        model.use_capture()
        self._evaluator.logits(tokens, last=True)
        return model.captured(len(tokens))

    def exact(self, tokens: int) -> npt.NDArray[np.bool_]:
        """Return which scores of a prompt are exact."""
        scale, sink = self._options["window_scale"], int(self._options["sink"])
        return delta.exact_prefill(tokens, delta.window(scale, tokens), sink)

    def sensitivities(
        self, prompts: Sequence[Sequence[int]], curves: Curves, progress: Callable[[int], None] = lambda _: None
    ) -> Floats:
        """Return what a unit of cost does in each head: divergence from the dense outputs, nats (layers, kv_heads)."""
        model = self._engine.model
        model.use_cache("f16")
        dense = [_log_softmax(self._evaluator.logits(p)) for p in prompts]

        def divergence(theta: npt.NDArray[np.float32]) -> float:
            model.use_delta(theta, **self._options)
            found = [_log_softmax(self._evaluator.logits(p)) for p in prompts]
            return float(
                np.mean([np.mean((np.exp(a) * (a - b)).sum(axis=1)) for a, b in zip(dense, found, strict=True)])
            )

        tried = solve(curves, _TRIED).astype(np.float32)
        at = np.abs(GRID[:, None, None, None] - tried).argmin(axis=0)
        cost = np.take_along_axis(curves.cost, at[None], axis=0)[0].sum(axis=2)
        floor = divergence(np.full_like(tried, _NEGLIGIBLE))
        out = np.empty(cost.shape)
        for layer, head in np.ndindex(*cost.shape):
            if head == 0:
                progress(layer)
            theta = np.full_like(tried, _NEGLIGIBLE)
            theta[layer, head] = tried[layer, head]
            out[layer, head] = max(divergence(theta) - floor, 0.0) / max(float(cost[layer, head]), 1e-30)
        # Few prompts tell a head less well than its layer; one that seems free in them is not.
        mixed: Floats = (1 - _LAYERS_SHARE) * out + _LAYERS_SHARE * out.mean(axis=1, keepdims=True)
        return np.maximum(mixed, _LEAST * np.median(mixed))

    def nats(self, pieces: Sequence[Sequence[int]]) -> tuple[float, float]:
        """Return mean nats per token and mean sparsity."""
        tally = Tally()
        for piece in pieces:
            self._evaluator.perplexity(piece, tally)
        return float(np.mean(tally.scores)), float(np.mean(tally.prefill_shares)) if tally.prefill_shares else 0.0


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    out: npt.NDArray[np.float32] = logits - logits.max(axis=1, keepdims=True)
    out -= np.log(np.exp(out).sum(axis=1, keepdims=True))
    return out
