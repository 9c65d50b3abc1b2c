# SPDX-License-Identifier: Apache-2.0
"""The published networks: their numbers, their checkpoints, and the nodes that run them."""

from __future__ import annotations

import collections
import importlib.util
import itertools
import math
import os
import zlib

import numpy as np
import pytest
from perception_messages import cloud_message

from edge_nodes.errors import State
from edge_nodes.parameters import replace
from edge_nodes.perception import PerceptionError, ReconstructionConfig, SegmentationConfig
from edge_nodes.perception.config import is_reference
from edge_nodes.pipelines.reconstruction import ReconstructionPipeline
from edge_nodes.pipelines.segmentation import SegmentationPipeline

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edge_nodes.perception import reference  # noqa: E402
from edge_nodes.perception.reference import inference, maps  # noqa: E402

KINDS = ("segmentation", "reconstruction")
LIVE = ("conv1", "conv1_1", "poolconv1", "tranconv1", "upconv1", "upconv1_1")
SIZE = 168


@pytest.fixture(scope="module")
def folder(data_dir):
    """Directory of the reference numbers."""
    path = data_dir / "reference"
    if not (path / "ppn_segmentation.pt").is_file():
        pytest.skip("no reference numbers of the published networks")
    return path


def random_weights(kind, only=()):
    """A checkpoint's content of seeded weights; layers other than `only` (if given) take no memory."""
    state = collections.OrderedDict()
    for name, shape in reference.entries(kind).items():
        layer, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            state[name] = torch.tensor(7)
            continue
        rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        dead = only and layer.replace("bn", "conv") not in only
        values = torch.randn((1,) * len(shape) if dead else shape, generator=rng)
        if part == "running_var" or (part == "weight" and len(shape) == 1):
            values = values.abs() / 2 + 0.5
        elif part == "weight":
            values *= math.sqrt(2 / math.prod(shape[1:]))
        else:
            values *= 0.1
        state[name] = values.expand(shape)
    return state


@pytest.fixture(scope="module")
def weights():
    return {kind: random_weights(kind, LIVE if kind == "segmentation" else ()) for kind in KINDS}


@pytest.fixture(scope="module")
def scans():
    values = np.random.RandomState(5).random_sample((2, 16, SIZE, SIZE)) < 0.08
    return torch.from_numpy(values.astype(np.float32))


# The map.


def voxel_map(points, resolution, size, levels=50):
    """The map by way of the published grid of voxels, one point after the other, in float32."""
    cell = np.float32(resolution)
    grid = np.zeros((size, size, levels), np.float32)
    for x, y, z in points[:, :3].astype(np.float32):
        if not np.isfinite([x, y, z]).all():
            continue
        place = [math.floor(v / cell + np.float32(n / 2)) for v, n in ((x, size), (y, size), (z, levels))]
        if all(0 <= i < n for i, n in zip(place, grid.shape, strict=True)):
            grid[tuple(place)] = max(grid[tuple(place)], z)
    return (grid.max(2) > 0).astype(np.float32)


def test_map_of_the_reference_cloud(folder):
    stored = np.load(folder / "ppn_bev.npz")
    want = np.unpackbits(stored["bev"]).reshape(1000, 1000)
    got = reference.bev(stored["points"].T)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("resolution", "size"), [(0.2, 40), (0.25, 31), (0.1, 64)])
def test_map_is_the_one_of_the_voxels(resolution, size):
    rng = np.random.default_rng(3)
    half = resolution * size / 2
    points = rng.uniform([-1.3 * half] * 2 + [-8], [1.3 * half] * 2 + [8], (1500, 3))
    borders = np.array(list(itertools.product((-half, -resolution, 0, resolution, half), repeat=2)))
    heights = [-5.0, 0.0, 1e-6, 25 * resolution, 4.9]
    points = np.concatenate([points, *(np.column_stack([borders, np.full(25, z)]) for z in heights)])
    points[:6, :3] = np.where(np.eye(6, 3, dtype=bool), np.nan, 1.0)
    points[6] = np.inf
    got = reference.bev(np.column_stack([points, points[:, 0]]), resolution, size)
    np.testing.assert_array_equal(got, voxel_map(points, resolution, size))
    assert 0 < got.mean() < 1


def test_map_has_x_along_its_rows():
    got = reference.bev([[3.1, -7.05, 1.0, 99.0]])
    assert got.shape == (1000, 1000)
    assert np.argwhere(got).tolist() == [[515, 464]]
    assert reference.bev(np.empty((0, 4))).sum() == 0


@pytest.mark.parametrize(
    ("points", "options"),
    [
        (np.zeros((4, 2)), {}),
        (np.zeros(3), {}),
        (np.zeros((2, 2, 3)), {}),
        ([["a", "b", "c"]], {}),
        (np.zeros((1, 3)), {"resolution": 0.0}),
        (np.zeros((1, 3)), {"resolution": math.nan}),
        (np.zeros((1, 3)), {"size": 0}),
    ],
)
def test_no_map_of_nonsense(points, options):
    with pytest.raises(PerceptionError):
        reference.bev(points, **options)


def test_only_the_newest_map_is_computed(monkeypatch):
    calls = []
    monkeypatch.setattr(maps, "bev", lambda *a: calls.append(1) or reference.bev(*a))
    history = reference.MapHistory(40)
    clouds = [np.random.default_rng(i).uniform(-4, 4, (50, 3)) for i in range(20)]
    for count, cloud in enumerate(clouds, 1):
        got = history.push(cloud)
        assert len(calls) == count
    np.testing.assert_array_equal(got[0].numpy(), [reference.bev(c, 0.2, 40) for c in clouds[-16:]])
    before = got.clone()
    with pytest.raises(PerceptionError):
        history.push(np.zeros((3, 2)))
    assert torch.equal(history.maps, before)
    history.reset()
    assert history.maps.sum() == 0


# The networks.


@pytest.mark.parametrize("kind", KINDS)
def test_reference_numbers(folder, kind):
    spec = importlib.util.spec_from_file_location("reference_weights", folder / "reference_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    want = torch.load(folder / f"ppn_{kind}.pt", weights_only=True)
    state = module.state_dict(folder / want["manifest"], want["seed"])
    assert {name: tuple(t.shape) for name, t in state.items()} == reference.entries(kind)
    assert list(state) == list(reference.entries(kind))
    n = want["n"]
    x = torch.from_numpy((np.random.RandomState(want["seed"]).random_sample((16, n, n)) < 0.08).astype(np.float32))
    got = {}
    for prune in (True, False):
        network = reference.load(state, kind, prune)
        for mode, statistics in (("eval", False), ("train", True)):
            y = got[prune, mode] = network(x[None], train_statistics=statistics)
            torch.testing.assert_close(y, want[f"output_{mode}"], atol=1e-4, rtol=0)
    for mode in ("eval", "train"):
        assert torch.equal(got[True, mode], got[False, mode])


def test_parameters_and_names():
    counts = {}
    for kind, prune in itertools.product(KINDS, (True, False)):
        with torch.device("meta"):
            network = reference.KINDS[kind](prune=prune)
        counts[kind, prune] = sum(p.numel() for p in network.parameters())
        names = {name: tuple(t.shape) for name, t in network.state_dict().items()}
        assert names.items() <= reference.entries(kind).items()
        assert prune or list(names) == list(reference.entries(kind))
    assert counts["segmentation", False] == 46_482_099
    assert counts["segmentation", True] == 22_035
    assert counts["reconstruction", True] == counts["reconstruction", False] == 27_607_363
    assert [len(reference.entries(kind)) for kind in KINDS] == [252, 168]


def by_hand(state, x, steps, train):
    """Convolution, norm and leaky ReLU of torch's own modules, one step after the other."""
    kept = {}
    for name, stride, padding, after in steps:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if after == "concat":
            x = torch.cat([x, kept["maps"]], 1)
        kept.setdefault("maps", x)
        convolve = nn.functional.conv_transpose2d if name.startswith(("tran", "up")) else nn.functional.conv2d
        x = convolve(x, weight, bias, stride, padding)
        norm = nn.BatchNorm2d(x.shape[1])
        own = name.replace("conv", "bn") + "."
        norm.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})
        x = nn.LeakyReLU(0.01)(norm.train(train)(x))
        if after == "pool":
            x = nn.MaxPool2d(2, 2)(x)
    return x


CHAINS = {
    "segmentation": [
        ("conv1", 1, 0, ""),
        ("conv1_1", 1, 1, "pool"),
        ("poolconv1", 1, 1, ""),
        ("tranconv1", 2, 0, ""),
        ("upconv1", 1, 0, "concat"),
        ("upconv1_1", 1, 1, ""),
    ],
    "reconstruction": [
        step for i in range(1, 7) for step in ((f"conv{i}", 1, int(i > 1), ""), (f"conv{i}_1", 1, 1, "pool"))
    ]
    + [step for i in range(6, 0, -1) for step in ((f"tranconv{i}", 2, 0, ""), (f"upconv{i}_1", 1, 1, ""))],
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_wiring(weights, scans, kind, train):
    network = reference.load(weights[kind], kind, train_statistics=train)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    with torch.no_grad():
        want = by_hand(weights[kind], scans, CHAINS[kind], train)
    got = network(scans)
    assert got.shape == (2, 1, SIZE, SIZE)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    # Maps may be bytes; train() is not what chooses the statistics; and nothing drifts.
    assert torch.equal(network.train()(scans.to(torch.uint8)), got)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_dead_weights_change_nothing(weights, scans):
    spoilt = {
        name: t if name.partition(".")[0].replace("bn", "conv") in LIVE or not t.is_floating_point() else t * 3 + 1
        for name, t in weights["segmentation"].items()
    }
    want = reference.load(weights["segmentation"], "segmentation")(scans[:1])
    assert torch.equal(reference.load(spoilt, "segmentation", prune=False)(scans[:1]), want)


def test_legal_sizes():
    def fits(n):
        halves = [n]
        for _ in range(6):
            halves.append(halves[-1] // 2)
        back = halves[6]
        for i in range(6, 0, -1):
            back = 2 * back + (i in (4, 6))
            if back != halves[i - 1]:
                return False
        return halves[6] > 0

    legal = [n for n in range(1, 1100) if fits(n)]
    assert legal[-2:] == [1000, 1064]
    assert all(reference.legal_size(n) == min(m for m in legal if m >= n) for n in range(1, 1065))


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_another_size_are_refused(weights, kind):
    network = reference.load(weights[kind], kind)
    assert network(torch.zeros(1, 16, 104, SIZE)).shape == (1, 1, 104, SIZE)
    shapes = [(1, 16, 100, SIZE), (1, 16, SIZE, 170), (1, 16, 40, 40), (1, 15, SIZE, SIZE), (16, SIZE, SIZE)]
    for shape in [*shapes, (0, 16, SIZE, SIZE)]:
        with pytest.raises(PerceptionError):
            network(torch.zeros(shape))
    with pytest.raises(PerceptionError):
        network(np.zeros((1, 16, SIZE, SIZE)))
    small = torch.zeros(1, 16, 104, 104)
    if kind == "segmentation":
        for prune in (True, False):
            with pytest.raises(PerceptionError, match="too small"):
                reference.load(weights[kind], kind, prune, train_statistics=True)(small)
    assert network(small).shape == small[:, :1].shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_same(weights, scans, kind):
    network = reference.load(weights[kind], kind)
    want = network(scans)
    torch.testing.assert_close(network.cuda()(scans.cuda()).cpu(), want, atol=1e-4, rtol=1e-4)


# The checkpoints.


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    """The three published files' likenesses."""
    path = tmp_path_factory.mktemp("checkpoints")
    combined = collections.OrderedDict()
    for kind, prefix, name in (("segmentation", "pyrnet.", "segnet"), ("reconstruction", "autonet.", "recnet")):
        state = random_weights(kind, LIVE if kind == "segmentation" else ("conv1", "upconv1_1"))
        torch.save(state, path / f"racetrained-PPN-{name}.pth")
        combined |= {prefix + key: value for key, value in state.items()}
    assert len(combined) == 420
    torch.save(combined, path / "pytorch_model.bin")
    return path


@pytest.mark.parametrize(("kind", "name"), zip(KINDS, ("segnet", "recnet"), strict=True))
def test_separate_and_combined_files_are_one(files, scans, kind, name):
    path = files / f"racetrained-PPN-{name}.pth"
    want = reference.load(torch.load(path, weights_only=True), kind)(scans[:1])
    for source in (path, str(path), files / "pytorch_model.bin"):
        assert torch.equal(reference.load(source, kind)(scans[:1]), want)


def changed(state, name, value):
    return {**state, name: value}


BAD = {
    "missing": lambda s: {k: v for k, v in s.items() if k != "conv3.bias"},
    "extra": lambda s: changed(s, "conv7.weight", torch.zeros(1)),
    "renamed": lambda s: {f"module.{k}": v for k, v in s.items()},
    "shape": lambda s: changed(s, "conv2.weight", torch.zeros(64, 32, 1, 1)),
    "transposed": lambda s: changed(s, "tranconv1.weight", s["tranconv1.weight"].transpose(0, 1)),
    "whole numbers": lambda s: changed(s, "bn1.weight", torch.ones(32, dtype=torch.int64)),
    "counter": lambda s: changed(s, "bn1.num_batches_tracked", torch.tensor(1.5)),
    "sparse": lambda s: changed(s, "bn1.weight", torch.ones(32).to_sparse()),
    "no tensor": lambda s: changed(s, "conv1.bias", [0.0] * 32),
    "nan": lambda s: changed(s, "conv1.bias", torch.full((32,), math.nan)),
    "variance": lambda s: changed(s, "bn1.running_var", torch.full((32,), -1.0)),
    "empty": lambda s: {},
    "list": lambda s: list(s),
    "wrapped": lambda s: {"state_dict": s},
    "half a combination": lambda s: {f"pyrnet.{k}": v for k, v in list(s.items())[1:]},
    "mixed": lambda s: {**s, **{f"autonet.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("kind", KINDS)
def test_other_tensors_are_one_clear_error(weights, kind, case):
    with pytest.raises(PerceptionError) as caught:
        reference.load(BAD[case](weights[kind]), kind)
    assert caught.value.state is State.MODEL_BAD
    assert len(str(caught.value)) < 600


def test_the_other_network_is_named(weights):
    for kind, other in itertools.permutations(KINDS):
        with pytest.raises(PerceptionError, match=f"got the {other} network"):
            reference.load(weights[other], kind)
        prefix = {"segmentation": "pyrnet.", "reconstruction": "autonet."}[other]
        with pytest.raises(PerceptionError, match=f"does not hold the {kind} network"):
            reference.load({prefix + k: v for k, v in weights[other].items()}, kind)
    with pytest.raises(PerceptionError, match="kind"):
        reference.load(weights["segmentation"], "both")


class Payload:
    """What a hostile pickle would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_error(files, tmp_path, share):
    whole = (files / "racetrained-PPN-segnet.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(PerceptionError, match=r"cut\.pth") as caught:
        reference.load(path, "segmentation")
    assert caught.value.state is State.MODEL_BAD


def test_other_files_are_one_clear_error(tmp_path):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save(Payload(tmp_path / "made"), tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    np.savez(tmp_path / "arrays.bin", a=np.zeros(3))
    for name in ("text.pth", "code.pth", "list.pth", "arrays.bin.npz"):
        with pytest.raises(PerceptionError) as caught:
            reference.load(tmp_path / name, "segmentation")
        assert caught.value.state is State.MODEL_BAD
    assert not (tmp_path / "made").exists()
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(PerceptionError) as caught:
            reference.load(path, "segmentation")
        assert caught.value.state is State.MODEL_MISSING


# The nodes.

LABELS, GRID = "segmentation/labels", "segmentation/grid"
OCCUPANCY, FORECAST = "reconstruction/occupancy", "reconstruction/forecast"
PIPELINES = {
    "segmentation": (SegmentationPipeline, SegmentationConfig, {LABELS, GRID}),
    "reconstruction": (ReconstructionPipeline, ReconstructionConfig, {OCCUPANCY, FORECAST}),
}


def pipeline_of(kind, model, **values):
    pipeline, config, _ = PIPELINES[kind]
    node = pipeline(replace(config(), {"model": str(model), "device": "cpu", "bev.range_m": 16.0, **values}))
    node.load(lambda _: None)
    return node


def post(time_s=0.0, x=5.0, y=-3.0):
    """A pole ahead to the right, from the sensor's height up, and the ground."""
    rng = np.random.default_rng(1)
    ground = np.column_stack([rng.uniform(-15, 15, (3000, 2)), np.full(3000, -1.0)])
    pole = np.array([x, y, 0.0]) + rng.uniform([-0.2, -0.2, 0.1], [0.2, 0.2, 2], (200, 3))
    points = np.concatenate([ground, pole])
    return cloud_message(np.column_stack([points, points[:, 0]]), time_ns=round((100 + time_s) * 1e9))


def outputs(node, kind, message):
    return {o.topic: o.fields for o in node.process("points", message, received_ns=0, wanted=PIPELINES[kind][2])}


def values(fields, dtype):
    return fields["data"].view(dtype).reshape(fields["height"], fields["width"])


def newest_only():
    """A pyramid's weights that give back the newest map: its first layers are silent, its last ones copy."""
    state = random_weights("segmentation", ("none",))
    for name in LIVE:
        norm = name.replace("conv", "bn")
        for key, value in {
            f"{name}.weight": 0,
            f"{name}.bias": 0,
            f"{norm}.weight": 1,
            f"{norm}.bias": 0,
            f"{norm}.running_mean": 0,
            f"{norm}.running_var": 1,
        }.items():
            state[key] = torch.full(state[key].shape, float(value))
    state["upconv1.weight"][31, 0] = 1
    state["upconv1_1.weight"][0, 0, 1, 1] = 1
    return state


def test_what_names_a_reference():
    for name in ("reference", "reference:/a/b", "x.pth", "/a/x.pt", "pytorch_model.bin"):
        assert is_reference(name)
    for name in ("perception/segmentation", "perception/reference", "/a/dir", "model.safetensors"):
        assert not is_reference(name)


def test_labels_lie_where_the_points_are(tmp_path):
    torch.save(newest_only(), tmp_path / "copy.pth")
    node = pipeline_of("segmentation", tmp_path / "copy.pth")
    got = outputs(node, "segmentation", post())
    labels = values(got[LABELS], np.uint8)
    assert labels.shape == (128, 128)
    assert set(np.unique(labels)) == {0, 5}
    rows, columns = np.nonzero(labels)
    # Row 0 is farthest ahead, column 0 farthest left; cells of 0.25 m.
    assert abs(16 - (rows.mean() + 0.5) * 0.25 - 5) < 0.15
    assert abs(16 - (columns.mean() + 0.5) * 0.25 + 3) < 0.15
    assert rows.max() - rows.min() <= 3
    grid = got[GRID]["data"].reshape(128, 128)
    assert grid[round((-3 + 16) / 0.25), round((5 + 16) / 0.25)] == 85
    assert got[GRID]["info"]["origin"]["position"]["z"] == 0
    status = node.status()
    assert status["model"] == "reference:copy.pth"
    assert status["bev_ms"] > 0
    # The map holds the newest scan alone, and a higher threshold no cell of it.
    node.update(replace(node.config, {"reference.threshold": 1.5}))
    assert not values(outputs(node, "segmentation", post(0.1))[LABELS], np.uint8).any()
    # The floor lies 1 m below the sensor: at height 0 when the map is lifted by that, above it when by more.
    for lift, floor in ((1.0, False), (1.5, True)):
        node.update(replace(node.config, {"reference.threshold": 0.5, "bev.sensor_height_m": lift}))
        got = outputs(node, "segmentation", post(0.2))
        assert (values(got[LABELS], np.uint8).mean() > 0.05) == floor
        assert got[GRID]["info"]["origin"]["position"]["z"] == -lift


def test_every_cell_a_label_overlaps_is_marked():
    for bev in (SegmentationConfig().bev, replace(SegmentationConfig().bev, {"range_m": 21.0, "resolution_m": 0.3})):
        size = reference.legal_size(math.ceil(bev.cells * bev.resolution_m / 0.2))
        cover = inference._cover(bev, size).numpy()
        for row in range(bev.cells):
            high = bev.cells * bev.resolution_m / 2 - row * bev.resolution_m
            low = high - bev.resolution_m
            cells = [
                i for i in range(size) if (i - size / 2) * 0.2 < high - 1e-6 and (i + 1 - size / 2) * 0.2 > low + 1e-6
            ]
            assert sorted(set(cover[row])) == cells


def test_clouds_to_occupancy(files):
    for statistics in (False, True):
        name = files / "pytorch_model.bin"
        node = pipeline_of("reconstruction", f"reference:{name}", **{"reference.train_statistics": statistics})
        for i in range(3):
            got = outputs(node, "reconstruction", post(i / 10))
        occupancy = values(got[OCCUPANCY], np.float32)
        assert occupancy.shape == (128, 128)
        assert 0 <= occupancy.min() < occupancy.max() <= 1
        np.testing.assert_array_equal(occupancy, values(got[FORECAST], np.float32))
        assert got[OCCUPANCY]["header"]["stamp"] == {"sec": 100, "nanosec": 200_000_000}


def test_a_gap_starts_the_history_anew(files):
    node = pipeline_of("reconstruction", files / "racetrained-PPN-recnet.pth")
    history = node.network.inference.maps
    for i, (time_s, filled) in enumerate([(0, 1), (0.1, 2), (0.2, 3), (5, 1), (5.1, 2), (1, 1)]):
        outputs(node, "reconstruction", post(time_s, x=1.0 + i))
        assert int(history.maps.flatten(2).any(2).sum()) == filled
    broken = post(1.1)
    broken.data = broken.data[:-100]
    before = history.maps.clone()
    with pytest.raises(PerceptionError):
        outputs(node, "reconstruction", broken)
    assert torch.equal(history.maps, before)


def test_the_installed_checkpoint(files, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path))
    with pytest.raises(PerceptionError, match="racetrained-PPN-segnet") as caught:
        pipeline_of("segmentation", "reference")
    assert caught.value.state is State.MODEL_MISSING
    (tmp_path / "perception").mkdir()
    (tmp_path / "perception" / "reference").symlink_to(files)
    for kind, name in zip(KINDS, ("segnet", "recnet"), strict=True):
        assert pipeline_of(kind, "reference").status()["model"] == f"reference:racetrained-PPN-{name}.pth"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"bev.history": 8}, State.BAD_INPUT),
        ({"device": "cuda:7"}, State.NO_DEVICE),
        ({"model": "none.pth"}, State.MODEL_MISSING),
    ],
)
def test_what_a_node_cannot_load_is_one_clear_error(files, changes, state):
    pipeline = SegmentationPipeline(
        replace(SegmentationConfig(), {"model": str(files / "racetrained-PPN-segnet.pth")} | changes)
    )
    with pytest.raises(PerceptionError) as caught:
        pipeline.load(lambda _: None)
    assert caught.value.state is state
