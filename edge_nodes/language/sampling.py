# SPDX-License-Identifier: Apache-2.0
"""The next token from a row of logits."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_nodes.language.config import SamplingConfig
from edge_nodes.language.errors import LanguageError

if TYPE_CHECKING:
    from edge_nodes.language.tokenizer import Tokenizer

Logits = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]


class Sampler:
    """Draws tokens; one per answer, so that the seed makes the answer repeatable.

    Repetition penalty (CTRL, arXiv 1909.05858, section 4.1) and bias change the logits; then temperature, top-k, top-p
    and min-p (arXiv 2407.01082, section 3) cut the distribution in this order, as in the `transformers` library.

    Args:
        config: temperature, cuts, repetition penalty and seed.
        bias: {token: value added to its logit}.
    """

    def __init__(self, config: SamplingConfig, bias: Mapping[int, float] | None = None) -> None:
        from edge_nodes.native._kernels import Sampler as Native

        self.config = config
        self._random = random.Random(config.seed)  # numpy's take 3 MB
        cuts = {name: getattr(config, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        self._native = Native(**cuts, penalty=config.repetition_penalty, bias=list((bias or {}).items()))
        self._biased = bool(bias)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken as it is."""
        return self.config.temperature == 0.0 and self.config.repetition_penalty == 1.0 and not self._biased

    def __call__(self, logits: Logits, seen: Sequence[int] = (), allowed: Mask | None = None) -> int:
        """Return the next token.

        Args:
            logits: float32 (vocabulary,); not changed.
            seen: tokens that the repetition penalty is for.
            allowed: uint8 (vocabulary / 8,), a bit for each token that may come, the lowest first; None for all.

        Raises:
            LanguageError: BAD_INPUT, bias and `allowed` leave no token.
        """
        return self._checked(int(self._native.draw(logits, *self._about(seen), allowed)))

    def take(self, logits: Logits, seen: Sequence[int] = (), allowed: Mask | None = None) -> tuple[int, float, float]:
        """Return the next token, its log-probability and the entropy (nats), both before all cuts and changes.

        Args:
            logits: as of `__call__`, as the others.
            seen: tokens.
            allowed: bits.

        Raises:
            LanguageError: BAD_INPUT, bias and `allowed` leave no token.
        """
        token, logprob, entropy = self._native.take(logits, *self._about(seen), allowed)
        return self._checked(token), logprob, entropy

    def _about(self, seen: Sequence[int]) -> tuple[float, Sequence[int]]:
        """Return where in the distribution to draw, and the tokens that are penalised."""
        number = self._random.random() if self.config.temperature else 0.0
        return number, seen if self.config.repetition_penalty != 1.0 else ()

    def _checked(self, token: int) -> int:
        if token < 0:
            raise LanguageError("the logit bias bans every token that may come", got=self.config.logit_bias)
        return token


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
