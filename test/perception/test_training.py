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

from edge_nodes.perception import BevConfig, Ground, bev_map  # noqa: E402
from edge_nodes.perception.bev import MOMENTS  # noqa: E402
from edge_nodes.perception.evaluation import Sample  # noqa: E402
from edge_nodes.perception.networks import PyramidNetwork, looked_at_twice  # noqa: E402
from edge_nodes.perception.odometry import Motion2  # noqa: E402
from edge_nodes.perception.sight import reach, sight_map  # noqa: E402
from train.perception.dataset import CHANNELS, PLAIN, cache, thinned, turned  # noqa: E402
from train.perception.losses import edge_difference, segmentation_loss  # noqa: E402
from train.perception.sensors import Sensor  # noqa: E402
from train.perception.simulate import Motion, Scene, Thing, cast  # noqa: E402
from train.perception.train import BATCH, GROUP, batches, grown, together  # noqa: E402


def _chain(inputs: int, middle: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, middle, 3, padding=1), nn.ReLU(), nn.Conv2d(middle, 2, 1))


def test_a_grown_network_answers_like_the_small_one():
    small, large = _chain(3, 4), _chain(5, 7)
    grown(large, small.state_dict())
    x = torch.rand(2, 5, 8, 8)
    torch.testing.assert_close(large(x), small(x[:, :3]))


def test_a_pyramid_with_a_detail_branch_starts_as_the_one_without():
    small = PyramidNetwork(widths=(8, 8)).eval()
    large = PyramidNetwork(inputs=42, widths=(8, 8), detail=4, layers=2).eval()
    grown(large, small.state_dict())
    x = torch.rand(1, 42, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(large(x), small(x[:, :36]))


def test_a_pyramid_with_sight_starts_as_the_one_without():
    small = PyramidNetwork(inputs=42, widths=(8, 8), detail=4).eval()
    nn.init.normal_(small.branch.change.weight)
    large = PyramidNetwork(inputs=46, widths=(8, 8), detail=4, details=8).eval()
    grown(large, small.state_dict())
    x = torch.rand(1, 46, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(large(x), small(torch.cat([x[:, :36], x[:, 38:44]], 1)))


def test_a_pyramid_with_intensity_starts_as_the_one_with_detail_alone():
    small = PyramidNetwork(inputs=42, widths=(8, 8), detail=4).eval()
    nn.init.normal_(small.branch.change.weight)
    large = PyramidNetwork(inputs=44, widths=(8, 8), detail=4).eval()
    grown(large, small.state_dict())
    x = torch.rand(1, 44, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(large(x), small(torch.cat([x[:, :36], x[:, 38:]], 1)))


GRID = BevConfig(range_m=4.0, resolution_m=0.25)


def _points() -> np.ndarray:
    """Points on a lattice of 1/256 cell between the borders of cells, in bunches."""
    rng = np.random.default_rng(3)
    where = np.repeat(rng.uniform(-4, 4, (200, 2)), 8, axis=0) + rng.normal(0, 0.08, (1600, 2))
    lattice = (np.floor(where / 0.25 * 256) + 0.5) * (0.25 / 256)
    return np.column_stack([lattice, rng.uniform(0, 2.5, 1600)]).astype(np.float32)


def _details(xyz: np.ndarray) -> np.ndarray:
    """All details of one scan, (8, H, W)."""
    sight = sight_map([(reach(xyz, Ground(), GRID), Motion2())], GRID)
    return np.concatenate([bev_map(xyz, Ground(), GRID, detail=True).detail, sight], 2).transpose(2, 0, 1)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_turned_detail_is_the_detail_of_turned_points(turns, mirror):
    xyz = _points()
    maps = _details(xyz)
    moved = xyz.copy()
    for _ in range(turns):
        moved[:, :2] = np.column_stack([-moved[:, 1], moved[:, 0]])
    if mirror:
        moved[:, 1] *= -1
    want = _details(moved)
    assert (want[:2] != 128).any(0).sum() > 300
    sample = np.zeros((*maps.shape[1:], CHANNELS + 4), np.uint8)
    sample[..., PLAIN:CHANNELS] = np.moveaxis(maps, 0, -1)
    got = np.moveaxis(turned(sample, turns, mirror=mirror), -1, 0)[PLAIN:CHANNELS]
    np.testing.assert_array_equal(got[:MOMENTS], want[:MOMENTS])
    # A cell's middle may change sides of a border between directions.
    assert (got[MOMENTS:] != want[MOMENTS:]).mean() < 0.03


def test_batches_hold_the_samples_of_the_cache(tmp_path, monkeypatch):
    """Each once a round, labels turned with their maps; from packed files and from what was unpacked of them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache().mkdir(parents=True)
    rng = np.random.default_rng(1)
    for seed in range(GROUP):
        maps = rng.integers(0, 256, (1, CHANNELS, 8, 8), np.uint8)
        maps[:, 0], maps[:, 1] = rng.permutation(64).reshape(8, 8), seed
        truths = [maps[:, 0] % 6, *(np.packbits(maps[:, 0] % n == 0, -1) for n in (2, 3, 5))]
        np.savez(cache() / f"{seed}.npz", **dict(zip(Sample._fields, [maps, *truths], strict=True)))
    for _ in range(2):
        source, seen = batches(np.random.default_rng(2), range(GROUP), CHANNELS), []
        for x, label, *masks in (next(source) for _ in range(GROUP // BATCH)):
            assert x.dtype == torch.bfloat16
            assert x.is_contiguous(memory_format=torch.channels_last)
            codes = (x[:, :2].float() * 255).round().long()
            torch.testing.assert_close(label.long(), codes[:, 0] % 6)
            for n, mask in zip((2, 3, 5), masks, strict=True):
                torch.testing.assert_close(mask.bool(), codes[:, 0] % n == 0)
            assert torch.equal(codes[:, 0].flatten(1).sort(1).values, torch.arange(64).expand(BATCH, -1))
            seen += codes[:, 1, 0, 0].tolist()
        source.close()
        assert sorted(seen) == list(range(GROUP))


def test_the_second_look_is_at_exchanged_points():
    xyz = _points()
    maps, other = (_details(p)[:MOMENTS] for p in (xyz, xyz * np.float32([1, -1, 1])))
    seen = []
    x = torch.from_numpy(maps)[None].float() / 255
    looked_at_twice(lambda y: seen.append(y) or y, x, details=MOMENTS)
    want = torch.from_numpy(other)[None].float()
    torch.testing.assert_close(seen[1] * 255, want, atol=1e-3, rtol=0)


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


def test_edges_of_a_difference_are_the_difference_of_edges():
    a, b, weight = torch.rand(2, 3, 5, 6), torch.rand(2, 3, 5, 6), torch.rand(2, 1, 5, 6)
    want = 0.0
    for axis in (-1, -2):
        step = (a.diff(dim=axis) - b.diff(dim=axis)).abs()
        want += float((step * weight.narrow(axis, 0, step.shape[axis])).sum())
    assert float(edge_difference(a - b, weight)) == pytest.approx(want / (2 * a.numel()), rel=1e-5)


def test_right_answers_cost_less_and_ignored_cells_nothing():
    label = torch.randint(0, 6, (1, 32, 32))
    label[:, :4] = 255
    right = 8.0 * torch.nn.functional.one_hot(label.clamp(max=5), 6).permute(0, 3, 1, 2).float()
    wrong = right.roll(1, 1)
    assert segmentation_loss(right, label) < 0.2 * segmentation_loss(wrong, label)
    other = right.clone()
    other[:, :, :3] = torch.randn(1, 6, 3, 32)  # the cell beside an ignored one has an edge to it
    assert segmentation_loss(other, label) == pytest.approx(float(segmentation_loss(right, label)), abs=1e-6)
