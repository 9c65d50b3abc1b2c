# SPDX-License-Identifier: Apache-2.0
"""Parts of training that can go wrong silently: grown weights, shared gradients, thinned scans, losses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("train.perception.raycasting", reason="needs the [train] extra", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parents[2]))

from torch import distributed, nn  # noqa: E402

from train.perception.dataset import thinned  # noqa: E402
from train.perception.losses import segmentation_loss  # noqa: E402
from train.perception.sensors import Sensor  # noqa: E402
from train.perception.simulate import Motion, Scene, Thing, cast  # noqa: E402
from train.perception.train import grown, together  # noqa: E402


def _chain(inputs: int, middle: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, middle, 3, padding=1), nn.ReLU(), nn.Conv2d(middle, 2, 1))


def test_a_grown_network_answers_like_the_small_one():
    small, large = _chain(3, 4), _chain(5, 7)
    grown(large, small.state_dict())
    x = torch.rand(2, 5, 8, 8)
    torch.testing.assert_close(large(x), small(x[:, :3]))


def _gradients(value: float) -> nn.Module:
    torch.manual_seed(0)
    network = _chain(3, 4).to(memory_format=torch.channels_last)
    network(torch.full((1, 3, 4, 4), value)).sum().backward()
    return network


def test_processes_share_the_mean_of_their_gradients(monkeypatch):
    mine, other = _gradients(1.0), _gradients(2.0)
    sent = torch.cat([torch.tensor([0.6]), *(p.grad.flatten() for p in other.parameters())])
    want = [(p.grad + q.grad) / 2 for p, q in zip(mine.parameters(), other.parameters(), strict=True)]
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda flat: flat.add_(sent))
    assert together(mine, 0.2) == pytest.approx(0.4)
    for parameter, mean in zip(mine.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, mean)


def test_a_thinned_scan_is_part_of_the_whole_one():
    sensor = Sensor(rings=64, columns=360, dropout=0.0)
    scan = cast(Scene((Thing("car", Motion(6, 2)),)), sensor, 0.0)
    whole = np.isfinite(scan.cloud[..., 0]).sum()
    for seed in range(5):
        less = thinned(scan, sensor, np.random.default_rng(seed))
        kept = np.isfinite(less.cloud[..., 0])
        assert 0.1 * whole < kept.sum() < whole
        np.testing.assert_array_equal(less.cloud[kept], scan.cloud[kept])
        assert (less.label[~kept] == 0).all()
        assert (less.thing[~kept] == -1).all()


def test_right_answers_cost_less_and_ignored_cells_nothing():
    label = torch.randint(0, 6, (1, 32, 32))
    label[:, :4] = 255
    right = 8.0 * torch.nn.functional.one_hot(label.clamp(max=5), 6).permute(0, 3, 1, 2).float()
    wrong = right.roll(1, 1)
    assert segmentation_loss(right, label) < 0.2 * segmentation_loss(wrong, label)
    other = right.clone()
    other[:, :, :3] = torch.randn(1, 6, 3, 32)  # the cell beside an ignored one has an edge to it
    assert segmentation_loss(other, label) == pytest.approx(float(segmentation_loss(right, label)), abs=1e-6)
