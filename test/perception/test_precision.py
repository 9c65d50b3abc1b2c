# SPDX-License-Identifier: Apache-2.0
"""The numbers that networks run in: which are chosen, and that it hardly shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from edge_nodes.perception import device
from edge_nodes.perception.config import BevConfig, ReconstructionConfig, SegmentationConfig
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.reconstruction import Reconstructor
from edge_nodes.perception.segmentation import Segmenter

BEV = BevConfig(range_m=16.0, sensor_height_m=1.0, ego_motion="none")


def street(seed):
    """(N, 3) float32 m: ground, two walls, a box as large as a car."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-16, 16, (9000, 2)), rng.normal(-1, 0.01, 9000)])
    walls = np.column_stack([rng.uniform(-16, 16, 4000), np.repeat([-7.0, 7.0], 2000), rng.uniform(-1, 2, 4000)])
    car = np.column_stack([rng.uniform(5, 9, 900), np.full(900, -2.0), rng.uniform(-0.9, 0.5, 900)])
    return np.concatenate([ground, walls, car]).astype(np.float32)


def test_auto_takes_what_the_machine_has(monkeypatch):
    cpu = device.Device("cpu")
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "_bfloat16", lambda has=has: has)
        assert cpu.dtype("auto") is dtype
        assert device.Device("cuda:0").dtype("auto") is torch.float32
    assert device.Device("cuda:0").dtype("float16") is torch.float16
    with pytest.raises(PerceptionError, match="float16 is for GPUs"):
        cpu.dtype("float16")


def test_bfloat16_says_what_float32_says():
    segmenters = [Segmenter(SegmentationConfig(bev=BEV, device="cpu", precision=p)) for p in ("float32", "bfloat16")]
    config = ReconstructionConfig(bev=BEV, device="cpu")
    reconstructors = [Reconstructor(dataclasses.replace(config, precision=p)) for p in ("float32", "bfloat16")]
    for i in range(3):
        labels = [s.segment(street(i), stamp_ns=i * 100_000_000).labels for s in segmenters]
        maps = [r.reconstruct(street(i), stamp_ns=i * 100_000_000) for r in reconstructors]
    assert (labels[0] == labels[1]).mean() > 0.99
    assert len(np.unique(labels[0])) > 2
    for name in ("now", "ahead"):
        exact, short = (getattr(m, name) for m in maps)
        assert short.dtype == np.float32
        assert np.abs(exact - short).max() < 0.05
        assert exact.max() > 0.9
