# SPDX-License-Identifier: Apache-2.0
"""The next token from a row of logits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_nodes.language.config import SamplingConfig
from edge_nodes.language.errors import LanguageError

if TYPE_CHECKING:
    from edge_nodes.language.tokenizer import Tokenizer

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_FIRST_GUESS, _GROWTH = 64, 8  # how many tokens are sorted to find a total probability, and the next try
_GROUPS = 1024  # groups of tokens whose maxima bound the k-th largest logit
_BLOCK = 512  # tokens whose weights are summed before one of them is looked for


class Sampler:
    """Draws tokens; one per answer, so that the seed makes the answer repeatable.

    Penalty and bias change the logits; then temperature, top-k, top-p and min-p (arXiv 2407.01082, section 3) cut the
    distribution in this order, as in the `transformers` library.

    Args:
        config: temperature, cuts, repetition penalty and seed.
        bias: {token: value added to its logit}.
    """

    def __init__(self, config: SamplingConfig, bias: Mapping[int, float] | None = None) -> None:
        self.config = config
        self._bias = dict(bias or {})
        self._random = np.random.default_rng(config.seed)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken as it is."""
        return self.config.temperature == 0.0 and self.config.repetition_penalty == 1.0 and not self._bias

    def __call__(self, logits: Logits, seen: Sequence[int] = (), allowed: Mask | None = None) -> int:
        """Return the next token.

        Args:
            logits: float32 (vocabulary,); not changed.
            seen: tokens that the repetition penalty is for.
            allowed: bool (vocabulary,), the tokens that may come; None for all.

        Raises:
            LanguageError: BAD_INPUT, bias and `allowed` leave no token.
        """
        config = self.config
        if config.repetition_penalty != 1.0 and len(seen):
            logits = penalise(logits, seen, config.repetition_penalty)
        if self._bias:
            logits = logits.copy()
            logits[list(self._bias)] += np.array(list(self._bias.values()), np.float32)
        if allowed is None:
            return self._choose(logits)
        left = np.flatnonzero(allowed)
        return int(left[self._choose(logits[left])])

    def _choose(self, logits: Logits) -> int:
        if self._bias and logits.max(initial=-np.inf) == -np.inf:
            raise LanguageError("the logit bias bans every token that may come", got=self.config.logit_bias)
        if self.config.temperature == 0.0:
            return int(logits.argmax())
        return self._draw(logits * np.float32(1.0 / self.config.temperature))

    def _draw(self, scaled: Logits) -> int:
        config, best = self.config, scaled.max()
        if config.top_k == 0 and config.top_p == 1.0:
            if config.min_p == 0.0:
                return self._draw_any(np.exp(scaled - best))
            kept = np.flatnonzero(scaled >= best + np.log(config.min_p))
        elif config.top_k:
            kept = top_k(scaled, config.top_k)
        else:
            kept = leading(scaled, config.top_p)
        weights = np.exp(scaled[kept].astype(np.float64) - best)
        if config.top_k and config.top_p < 1.0:
            keep = top_p(weights / weights.sum(), config.top_p)
            kept, weights = kept[keep], weights[keep]
        keep = np.flatnonzero((weights >= config.min_p) & (weights > 0.0))
        return int(kept[keep][_pick(weights[keep], self._random.random())])

    def _draw_any(self, weights: Logits) -> int:
        starts = np.arange(0, len(weights), _BLOCK)
        sums = np.add.reduceat(weights, starts).astype(np.float64)
        number = self._random.random()
        block = _pick(sums, number)
        within = (number * sums.sum() - sums[:block].sum()) / sums[block]
        start = int(starts[block])
        chosen = weights[start : start + _BLOCK].astype(np.float64)
        return start + _pick(chosen, within)


def _pick(weights: npt.NDArray[np.float64], number: float) -> int:
    """Return the index at which the share `number` of the total weight lies; never one of weight 0."""
    totals = weights.cumsum()
    found = int(np.searchsorted(totals, number * totals[-1], side="right"))
    return min(found, int(np.flatnonzero(weights)[-1]))


def penalise(logits: Logits, seen: Sequence[int], penalty: float) -> Logits:
    """Return logits with those of `seen` tokens divided (if positive) or multiplied by `penalty` (CTRL, 4.1)."""
    out, tokens = logits.copy(), np.unique(np.asarray(seen, np.int64))
    values = out[tokens]
    out[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return out


def top_k(logits: Logits, k: int) -> Indices:
    """Return the indices of the k largest logits (all if k is 0), largest first, ties by index."""
    chosen = _candidates(logits, k) if k else np.arange(len(logits))
    order = np.lexsort((chosen, -logits[chosen]))
    return chosen[order[: k or len(order)]]


def _candidates(logits: Logits, k: int) -> Indices:
    """Return the indices of the k largest logits and of some others, in order.

    Of n groups that each hold a maximum, k have one that is at least the k-th largest maximum: so many logits reach it.
    """
    groups = max(_GROUPS, 4 * k)
    size = len(logits) // groups
    if size < 2:
        return np.arange(len(logits))
    best = logits[: size * groups].reshape(size, groups).max(0)
    return np.flatnonzero(logits >= np.partition(best, groups - k)[groups - k])


def top_p(weights: npt.NDArray[np.float64], p: float) -> Indices:
    """Return the indices of the fewest leading weights (descending, sum 1) whose total reaches p; at least one."""
    return np.arange(min(int(np.searchsorted(weights.cumsum(), p)) + 1, len(weights)))


def leading(logits: Logits, p: float) -> Indices:
    """Return the fewest most probable tokens whose total probability reaches p, most probable first."""
    weights = np.exp(logits - logits.max())
    total, k = float(weights.sum(dtype=np.float64)), _FIRST_GUESS
    while True:
        kept = top_k(logits, min(k, len(logits)))
        found = weights[kept].astype(np.float64)
        if found.sum() >= p * total or k >= len(logits):
            return kept[top_p(found / total, p)]
        k *= _GROWTH


def read_bias(text: str, tokenizer: Tokenizer) -> dict[int, float]:
    """Return {token: bias} of a JSON list of pairs: [[" yes", 2.5], [1234, false]].

    Args:
        text: each pair names a token, by id or by a text that is one token, and what is added to its logit; false
            bans the token. Empty for none.
        tokenizer: the model's.

    Raises:
        LanguageError: BAD_INPUT, another form, an unknown token, a text of several tokens.
    """
    if not text.strip():
        return {}
    try:
        pairs = json.loads(text)
        return {_token(token, tokenizer): _bias(value) for token, value in pairs}
    except (ValueError, TypeError) as error:
        raise LanguageError(
            "the logit bias is not valid", got=f"{text!r}: {error}", expected='e.g. [[" yes", 2.5], [1234, false]]'
        ) from error


def _token(token: object, tokenizer: Tokenizer) -> int:
    if isinstance(token, str):
        ids = tokenizer.encode(token, special=False)
        if len(ids) != 1:
            raise ValueError(f"{token!r} is {len(ids)} tokens: {ids}")
        return ids[0]
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < tokenizer.size:
        raise ValueError(f"{token!r} is no token of {tokenizer.size}")
    return token


def _bias(value: object) -> float:
    if value is False:
        return -np.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no bias")
    return float(value)
