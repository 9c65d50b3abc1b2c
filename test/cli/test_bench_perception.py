# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench perception`, in parts: the whole takes half a minute."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edge_nodes.cli import processes
from edge_nodes.cli.bench import perception as bench
from edge_nodes.errors import EdgeNodesError
from edge_nodes.perception import decode


def test_the_street_is_a_scan():
    xyz = bench.street(bench.POINTS)
    assert xyz.shape == (bench.POINTS, 3)
    assert xyz.dtype == np.float32
    assert 65 < np.hypot(xyz[:, 0], xyz[:, 1]).max() < 71
    assert np.percentile(xyz[:, 2], 10) == pytest.approx(-1.73, abs=0.1)
    np.testing.assert_array_equal(decode(bench.cloud_message(xyz, 5)).xyz, xyz)


def test_what_one_core_measures(monkeypatch):
    monkeypatch.setattr(bench, "POINTS", 10_000)
    affinity = os.sched_getaffinity(0)
    try:
        found = bench._measure_alone(min(affinity), 2)
    finally:
        os.sched_setaffinity(0, affinity)
    for name in bench.NAMES:
        network = found["networks"][name]
        assert 0 < network["p50"] <= network["max"]
        assert 1 < network["gflop"] < 10
        assert found["message_to_outputs_ms"][name]["p50"] > 0
    assert found["bev_ms"]["map"]["p50"] > 0
    both = {"times faster": None}
    targets = bench.targets({**found, "both": both, "memory_mb": {}, "growth_mb": {}})
    assert not next(t for t in targets if t["value"] is None)["met"]
    assert all(set(t) == {"name", "value", "relation", "target", "met"} for t in targets)


def test_both_at_once_in_processes_of_their_own():
    cores = sorted(os.sched_getaffinity(0))[:2]
    found = bench._together([(name,) for name in bench.NAMES][: len(cores)], cores, 2)
    assert found["seconds"] > 0
    assert min(found["memory_mb"].values()) > 50


def test_an_error_in_a_process_reaches_the_command():
    with pytest.raises(EdgeNodesError, match=r"measuring failed.*TypeError"):
        processes.in_process(bench.street, "many")


def test_growth_is_that_of_the_lowest_levels():
    rng = np.random.default_rng(0)
    noisy = 300 + 30 * rng.integers(0, 2, 200)
    assert bench._growth_mb(list(noisy)) == 0
    assert bench._growth_mb(list(noisy + 0.1 * np.arange(200))) == pytest.approx(8, abs=1)
    assert bench._growth_mb(list(noisy - 7 * (np.arange(200) < 40))) == 0, "what settles in the first fifth"
    assert bench._growth_mb([]) == 0
