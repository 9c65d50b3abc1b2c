# SPDX-License-Identifier: Apache-2.0
"""What other ways to leave out changes would give: blocks of channels, sorted channels, values in place of keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
_STEPS = 12  # of the bisection


def zeros_and_error(rows: Rows, weights: Rows, theta: float, block: int = 1) -> tuple[float, float]:
    """Return the share of zeros and the mean weighted squared error of coded rows.

    Args:
        rows: (n, heads, d), coded along the first axis.
        weights: (heads, d), of a squared error.
        theta: threshold.
        block: neighbouring channels that are stored as soon as one of them is off by more.
    """
    reference, zeros, error = rows[0].copy(), 0, 0.0
    for row in rows[1:]:
        far = np.abs(row - reference) > theta
        if block > 1:
            far = np.repeat(far.reshape(len(far), -1, block).any(axis=2), block, axis=1)
        reference = np.where(far, row, reference)
        zeros += int((~far).sum())
        error += float((weights * np.square(row - reference)).sum())
    return zeros / rows.size, error / rows.size


def trade(queries: Rows, keys: Rows, values: Rows, *, theta: float = 1.0) -> list[dict[str, Any]]:
    """Return {way, zeros, theta} at the error of the scores that single elements have at `theta`.

    Args:
        queries: captured (layers, n, heads, d).
        keys: captured (layers, n, kv_heads, d).
        values: the same.
        theta: of single elements.
    """
    layers, n, kv_heads, d = keys.shape
    rows = keys.swapaxes(0, 1).reshape(n, layers * kv_heads, d)
    weights = np.square(queries).reshape(layers, n, kv_heads, -1, d).mean(axis=(1, 3)).reshape(-1, d)
    order = np.abs(np.diff(rows, axis=0)).mean(axis=0).argsort(axis=1)
    sorted_rows, sorted_weights = (
        np.take_along_axis(rows, order[None], axis=2),
        np.take_along_axis(weights, order, axis=1),
    )
    share, error = zeros_and_error(rows, weights, theta)
    out = [{"way": "single elements of keys", "zeros": share, "theta": theta}]
    for block in (4, 8):
        out.append({"way": f"blocks of {block} channels", **_equal(rows, weights, error, block)})
        out.append({"way": f"blocks of {block}, channels sorted", **_equal(sorted_rows, sorted_weights, error, block)})
    flat = values.swapaxes(0, 1).reshape(n, layers * kv_heads, d)
    scale = float(flat.std())
    share, error = zeros_and_error(flat, np.ones(flat.shape[1:], np.float32), 0.6 * scale)
    out.append({"way": "values, theta 0.6 sd", "zeros": share, "error_sd": float(np.sqrt(error)) / scale})
    return [
        *out,
        *({"way": f"values, {bits} bits", "zeros": 0.0, "error_sd": _rounding(flat, bits)} for bits in (8, 4)),
    ]


def _rounding(rows: Rows, bits: int) -> float:
    """Return the error of rows kept in so many bits with a scale each, in standard deviations."""
    step = np.abs(rows).max(axis=2, keepdims=True) / (2 ** (bits - 1) - 1)
    return float(np.sqrt(np.mean(np.square(step) / 12)) / rows.std())


def _equal(rows: Rows, weights: Rows, error: float, block: int) -> dict[str, float]:
    """Return zeros and theta of the largest threshold with no more than this error."""
    low, high = 0.0, 20.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if zeros_and_error(rows, weights, middle, block)[1] <= error:
            low = middle
        else:
            high = middle
    return {"zeros": zeros_and_error(rows, weights, low, block)[0], "theta": low}
