# SPDX-License-Identifier: Apache-2.0
"""Delta attention in numpy: the rule that the native kernels must follow, one KV head at a time.

DeltaLLM (arXiv 2507.19608): keys after RoPE are coded along the token axis, element by element, as changes against
the last propagated value; scores outside a local window are running sums of the products with the changes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

REFRESH = 256  # keys after which a row is stored in full again: running sums restart there
LEAST_STEP = 2.0**-10  # of codes, where theta is 0


def delta_rows(keys: npt.ArrayLike, theta: npt.ArrayLike, *, refresh: int = 0) -> Floats:
    """Return the changes (n, d) of `keys` (n, d); zero where a key is within `theta` of the last propagated value.

    Args:
        keys: keys after RoPE.
        theta: threshold in units of the keys; a number or one for each channel (d,).
        refresh: every row of this index's multiple is stored in full; 0 for the first row only.
    """
    keys, theta = np.asarray(keys, np.float64), np.asarray(theta, np.float64)
    rows, reference = np.zeros_like(keys), np.zeros(keys.shape[1])
    for j, key in enumerate(keys):
        if starts(j, refresh):
            rows[j] = reference = key
            continue
        rows[j] = np.where(np.abs(key - reference) > theta, key - reference, 0.0)
        reference = np.where(rows[j] != 0.0, key, reference)
    return rows


def coded_rows(keys: npt.ArrayLike, theta: npt.ArrayLike, *, refresh: int = REFRESH) -> npt.NDArray[np.int64]:
    """Return `delta_rows` in whole steps of `step(theta)` (n, d), as the native cache stores them.

    The reference is what the codes add up to, so the bound |K - K^| <= theta holds here, too (theta = 0: half a step).
    """
    keys, theta = np.asarray(keys, np.float64), np.asarray(theta, np.float64)
    size = step(theta)
    codes, reference = np.zeros(keys.shape, np.int64), np.zeros(keys.shape[1], np.int64)
    for j, key in enumerate(keys):
        full = starts(j, refresh)
        if full:
            reference = np.zeros_like(reference)
        far = np.abs(key - reference * size) > theta
        codes[j] = np.where(full | far, np.rint(key / size).astype(np.int64) - reference, 0)
        reference = reference + codes[j]
    return codes


def step(theta: npt.ArrayLike) -> Floats:
    """Return the size of a code for a threshold: half of it."""
    return np.maximum(np.asarray(theta, np.float64) / 2, LEAST_STEP)


def starts(position: int, refresh: int) -> bool:
    """Return whether the row of this position is stored in full."""
    return position == 0 or (refresh > 0 and position % refresh == 0)


def propagated(rows: npt.ArrayLike, *, refresh: int = 0) -> Floats:
    """Return K^ (n, d): the running sums of `rows`, from anew at every full row."""
    rows = np.asarray(rows, np.float64)
    begins = range(0, len(rows), refresh or max(1, len(rows)))
    return np.concatenate([np.cumsum(rows[i : i + refresh if refresh else None], axis=0) for i in begins])


def window(scale: float, tokens: int) -> int:
    """Return the length of the exact window for a prompt of `tokens`."""
    return round(scale * tokens)


def exact_prefill(tokens: int, width: int, sink: int = 0) -> Bools:
    """Return which scores (query, key) of a prompt are exact: blocks of `width` on the diagonal, and the first keys."""
    i = np.arange(tokens)
    block = i // max(width, 1)
    exact: Bools = np.broadcast_to(i < sink, (tokens, tokens)) | ((width > 0) & (block[:, None] == block))
    return exact


def exact_decode(position: int, width: int, sink: int = 0) -> Bools:
    """Return which of the keys 0 .. position are exact for the query at `position`: a ring of the newest `width`."""
    j = np.arange(position + 1)
    exact: Bools = (j < sink) | (j > position - width)
    return exact


def scores(queries: npt.ArrayLike, keys: npt.ArrayLike, rows: npt.ArrayLike, exact: Bools, refresh: int = 0) -> Floats:
    """Return scores (m, n) before scaling: running sums of Q dK^T, and Q K^T where `exact`."""
    queries, products = np.asarray(queries, np.float64), np.asarray(queries, np.float64) @ np.asarray(rows).T
    sums = propagated(products.T, refresh=refresh).T
    return np.where(exact, queries @ np.asarray(keys, np.float64).T, sums)


def attention(scores: npt.ArrayLike, values: npt.ArrayLike) -> Floats:
    """Return outputs (m, d) of scores (m, n) with exact values (n, d); the last query sees all keys."""
    scaled = np.asarray(scores, np.float64) / np.sqrt(np.shape(values)[1])
    m, n = scaled.shape
    scaled = np.where(np.arange(n) <= np.arange(n - m, n)[:, None], scaled, -np.inf)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    out: Floats = (weights / weights.sum(axis=1, keepdims=True)) @ np.asarray(values, np.float64)
    return out
