# SPDX-License-Identifier: Apache-2.0
"""Intervals of paired changes against the normal approximation."""

from __future__ import annotations

import numpy as np
import pytest

from edge_nodes.language.evaluation.paired import paired_change


def test_interval_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(1)
    before = [rng.integers(0, 2, n).astype(float) for n in (300, 500)]
    after = [np.where(rng.uniform(size=x.size) < 0.1, 1 - x, x) for x in before]
    found = paired_change(before, after)
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean = np.mean([d.mean() for d in differences])
    error = np.sqrt(sum(d.var() / d.size for d in differences)) / 2
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)


def test_samples_that_do_not_change_say_nothing():
    found = paired_change([[1.0, 0.0, 1.0]], [[1.0, 0.0, 1.0]])
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("before", "after"), [([], []), ([[]], [[]]), ([[1.0]], [[1.0, 0.0]]), ([[1.0]], [])])
def test_what_cannot_be_compared_is_refused(before, after):
    with pytest.raises(ValueError, match=r".+"):
        paired_change(before, after)
