# SPDX-License-Identifier: Apache-2.0
"""A model whose logits are a fixed function of all tokens that its cache holds, for tests of the loop around it."""

from __future__ import annotations

import numpy as np

VOCABULARY, END = 64, 0


class ToyTokenizer:
    """Each token is a letter."""

    end_tokens = frozenset({END})

    def stream(self):
        return lambda token: chr(ord("A") + token % 26)


class ToyModel:
    """Slots of cached tokens; wrong positions, slots or copies give other logits."""

    cache_bytes_per_token = 100

    def __init__(self, slots=4, context=256, batch=64, ends=True):
        self.slots, self.context, self.batch = slots, context, batch
        self.cache = np.full((slots, context), -1)
        self.calls, self.most_rows, self._ends = 0, 0, ends
        self._weights = np.random.default_rng(1).integers(1, 2**31, context)

    def forward(self, tokens, *, segments, rows):
        assert 0 < len(tokens) == sum(count for *_, count in segments) <= self.batch
        assert len({slot for slot, *_ in segments}) == len(segments)
        self.calls, self.most_rows = self.calls + 1, max(self.most_rows, len(tokens))
        where = [(slot, first + i) for slot, first, count in segments for i in range(count)]
        for token, (slot, position) in zip(tokens, where, strict=True):
            self.cache[slot, position] = token
        return np.stack([self.logits(self.cache[where[r][0], : where[r][1] + 1]) for r in rows]) if rows else []

    def logits(self, held):
        assert (held >= 0).all()
        seed = int((held + 1) @ self._weights[: len(held)])
        out = np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)
        if not self._ends:
            out[END] = -100
        return out

    def copy_cache(self, from_slot, to_slot, begin, end):
        self.cache[to_slot, begin:end] = self.cache[from_slot, begin:end]
        return end - begin


def finish(engine):
    """Step until nothing is left to do."""
    for _ in range(100_000):
        if not engine.step():
            return
    raise AssertionError("the loop does not come to an end")
