# SPDX-License-Identifier: Apache-2.0
"""The rule of delta attention against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from edge_nodes.language.delta import reference as delta
from edge_nodes.language.delta import sparsity
from edge_nodes.language.delta import trade as delta_trade


def smooth_keys(n, d, seed=0, rho=0.9):
    """AR(1) rows of unit standard deviation."""
    rng = np.random.default_rng(seed)
    keys = np.empty((n, d))
    keys[0] = rng.normal(size=d)
    for j in range(1, n):
        keys[j] = rho * keys[j - 1] + np.sqrt(1 - rho**2) * rng.normal(size=d)
    return keys


def test_rows_of_a_hand_worked_channel():
    keys = np.array([[1.0], [1.4], [1.5], [1.7], [1.1], [0.2]])
    rows = delta.delta_rows(keys, 0.5)
    assert rows[:, 0] == pytest.approx([1.0, 0.0, 0.0, 0.7, -0.6, -0.9])
    assert delta.propagated(rows)[:, 0] == pytest.approx([1.0, 1.0, 1.0, 1.7, 1.1, 0.2])


@pytest.mark.parametrize("refresh", [0, 8])
@pytest.mark.parametrize("theta", [0.0, 0.3, 1.0, 4.0])
def test_error_is_bounded_at_every_position(theta, refresh):
    keys = smooth_keys(300, 16)
    error = np.abs(keys - delta.propagated(delta.delta_rows(keys, theta, refresh=refresh), refresh=refresh))
    assert error.max() <= theta + 1e-12
    codes = delta.coded_rows(keys, theta, refresh=refresh)
    coded = delta.propagated(codes * delta.step(theta), refresh=refresh)
    assert np.abs(keys - coded).max() <= max(theta, delta.LEAST_STEP / 2) + 1e-12


def test_differences_to_the_previous_key_would_drift():
    keys, theta = smooth_keys(256, 64), 0.6
    steps = np.diff(keys, axis=0, prepend=0.0)
    steps[1:][np.abs(steps[1:]) <= theta] = 0.0
    assert np.abs(keys - steps.cumsum(axis=0)).max() > 4 * theta


def test_theta_0_equals_dense_and_so_does_a_window_over_all():
    rng, n = np.random.default_rng(1), 70
    q, k, v = rng.normal(size=(n, 32)), smooth_keys(n, 32), rng.normal(size=(n, 32))
    dense = delta.attention(q @ k.T, v)
    for theta, width in ((0.0, 3), (5.0, n)):
        exact = delta.exact_prefill(n, width)
        out = delta.attention(delta.scores(q, k, delta.delta_rows(k, theta), exact), v)
        assert np.allclose(out, dense, atol=1e-12)


def test_scores_by_definition():
    rng, n, w, sink, theta = np.random.default_rng(2), 37, 5, 2, 0.7
    q, k = rng.normal(size=(n, 8)), smooth_keys(n, 8)
    found = delta.scores(q, k, delta.delta_rows(k, theta, refresh=10), delta.exact_prefill(n, w, sink), refresh=10)
    reference = k[0].copy()
    for j in range(n):
        for c in range(8):
            if j % 10 == 0 or abs(k[j, c] - reference[c]) > theta:
                reference[c] = k[j, c]
        for i in range(n):
            key = k[j] if j < sink or i // w == j // w else reference
            assert found[i, j] == pytest.approx(q[i] @ key)


def test_prefill_then_decode_equals_one_prefill_without_window():
    rng, n, m, theta = np.random.default_rng(3), 40, 9, 0.5
    q, k, v = rng.normal(size=(n + m, 16)), smooth_keys(n + m, 16), rng.normal(size=(n + m, 16))
    rows = delta.delta_rows(k, theta)
    whole = delta.attention(delta.scores(q, k, rows, delta.exact_prefill(n + m, 0)), v)
    for i in range(n, n + m):
        exact = delta.exact_decode(i, 0)
        step = delta.scores(q[i : i + 1], k[: i + 1], delta.delta_rows(k[: i + 1], theta), exact[None])
        assert np.allclose(delta.attention(step, v[: i + 1]), whole[i])


def test_share_of_zeros_on_smooth_keys():
    """Shares computed once by an independent simulation of the rule (rho 0.9, unit deviation)."""
    keys = smooth_keys(4000, 64)
    for theta, share in ((0.2, 0.340), (0.4, 0.598), (0.6, 0.752), (1.0, 0.885), (2.0, 0.972)):
        assert np.mean(delta.delta_rows(keys, theta) == 0) == pytest.approx(share, abs=0.01)


def test_skipped_multiply_adds_by_counting_each():
    n, w, sink = 23, 4, 1
    rows, exact = delta.delta_rows(smooth_keys(n, 8), 0.6), delta.exact_prefill(n, w, sink)
    skipped = sum(rows[j, c] == 0 and not exact[i, j] for i in range(n) for j in range(i + 1) for c in range(8))
    assert sparsity.of_prefill(rows, exact) == (skipped, 8 * n * (n + 1) // 2)
    ring = delta.exact_decode(n - 1, w, sink)
    skipped = sum(rows[j, c] == 0 for j in range(sink, n - w) for c in range(8))
    assert sparsity.of_step(rows, ring) == (skipped, 8 * n)


def test_the_papers_running_figure_forgets_the_first_layers():
    assert sparsity.layer_figure(0.6, 5, 100) == pytest.approx(0.57)
    assert sparsity.running_figure([0.0, 0.8]) == pytest.approx(0.4)
    assert sparsity.running_figure([0.4, 0.8], before=0.2) == pytest.approx(0.55)
    both = sparsity.Sparsity(np.array([10, 0]), np.array([20, 20])) + sparsity.Sparsity(
        np.array([0, 20]), np.array([20, 20])
    )
    assert both.share == pytest.approx(0.375)


def test_blocks_leave_out_less_at_equal_error():
    n, d = 200, 16
    keys = smooth_keys(n, 2 * d).reshape(1, n, 2, d).astype(np.float32)
    queries, values = np.random.default_rng(0).normal(size=(2, 1, n, 2, d)).astype(np.float32)
    weights = np.ones((2, d), np.float32)
    zeros, error = delta_trade.zeros_and_error(keys[0], weights, 0.5)
    rows = np.stack([delta.delta_rows(keys[0, :, h], 0.5) for h in range(2)], axis=1)
    assert zeros == pytest.approx((rows == 0).mean())
    off = keys[0] - np.stack([delta.propagated(rows[:, h]) for h in range(2)], axis=1)
    assert error == pytest.approx(np.square(off).mean(), rel=1e-4)
    found = {row["way"]: row for row in delta_trade.trade(queries, keys, values, theta=0.5)}
    assert found["single elements of keys"]["zeros"] > found["blocks of 4 channels"]["zeros"]
    assert found["blocks of 4 channels"]["zeros"] > found["blocks of 8 channels"]["zeros"]
    assert found["values, 8 bits"]["error_sd"] < 0.02
    step = np.abs(values).max(axis=3, keepdims=True) / 7
    rounded = np.rint(values / step) * step
    assert found["values, 4 bits"]["error_sd"] == pytest.approx((rounded - values).std() / values.std(), rel=0.05)
