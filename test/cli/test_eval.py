# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes eval`: a JSON file of one form, a table, and one line for bad data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from packs import CAR, pack, street


def figures(path):
    found = json.loads(path.read_text())
    assert set(found) >= {"name", "machine", "config", "results", "targets"}
    for target in found["targets"]:
        assert set(target) >= {"name", "value", "target", "met"}
    return found


def simulated(path, channels=44):
    """A file of two stamps as the training data set keeps them."""
    rng = np.random.default_rng(0)
    flags = np.packbits(rng.random((2, 256, 256)) < 0.2, -1)
    np.savez_compressed(
        path,
        input=rng.integers(0, 255, (2, channels, 256, 256), np.uint8),
        label=rng.integers(0, 6, (2, 256, 256), np.uint8),
        occupied=flags,
        forecast=flags,
        known=np.packbits(np.ones((2, 256, 256), bool), -1),
    )


def test_segmentation_on_boxes(run, tmp_path, capsys):
    data = pack(tmp_path / "a.npz", [street()], boxes=np.array([[0, 0, *CAR]], np.float32))
    assert run("eval", "segmentation", "--data", data, "--json", tmp_path / "x.json") == 0
    found = figures(tmp_path / "x.json")
    assert found["results"]["things"]["network"]["cars"] == 1
    assert "cars of 50 points" in capsys.readouterr().out


def test_segmentation_on_point_labels(run, tmp_path):
    cloud = street()
    semantic = np.where(np.arange(len(cloud)) < 8000, 40, 10).astype(np.uint16)
    data = pack(tmp_path / "a.npz", [cloud], semantic=semantic, instance=semantic)
    assert run("eval", "segmentation", "--quick", "--data", data, "--json", tmp_path / "x.json") == 0
    assert figures(tmp_path / "x.json")["results"]["iou of labelled cells"]["network"]["ground"] > 0.2


def test_simulated_sets(run, tmp_path):
    (tmp_path / "set").mkdir()
    simulated(tmp_path / "set" / "90000.npz")
    for name, key in (("segmentation", "iou"), ("reconstruction", "occupancy_iou")):
        assert run("eval", name, "--data", tmp_path / "set", "--json", tmp_path / "x.json") == 0
        found = figures(tmp_path / "x.json")
        assert found["results"]["stamps"] == 2
        assert "network" in found["results"][key]


def test_a_set_without_the_channels_a_network_knows_is_one_line(run, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    simulated(tmp_path / "set" / "90000.npz", channels=30)
    for name in ("segmentation", "reconstruction"):
        assert run("eval", name, "--data", tmp_path / "set") == 1
        printed = capsys.readouterr().err.strip()
        assert printed.startswith("error: the maps lack channels")
        assert "got 30 channels" in printed


def test_reconstruction_on_successive_scans(run, tmp_path):
    data = pack(tmp_path / "a.npz", [street(i) for i in range(22)])
    assert run("eval", "reconstruction", "--data", data, "--json", tmp_path / "x.json") == 0
    assert figures(tmp_path / "x.json")["results"]["stamps"] == 2


@pytest.mark.parametrize("name", ["segmentation", "reconstruction"])
def test_bad_data_is_one_line(run, name, tmp_path, capsys):
    (tmp_path / "bad.npz").write_bytes(b"no pack")
    unlabelled = pack(tmp_path / "few.npz", [street()])
    for data in (tmp_path / "bad.npz", unlabelled, tmp_path / "none.npz", tmp_path):
        assert run("eval", name, "--data", data) == 1
        printed = capsys.readouterr().err.strip()
        assert printed.startswith("error: ")
        assert "\n" not in printed


def test_shared_frames(run, data_dir, tmp_path):
    data = data_dir / "lidar_nc" / "kitti_object_000000-000002.npz"
    assert run("eval", "segmentation", "--quick", "--data", data, "--json", tmp_path / "x.json") == 0
    assert figures(tmp_path / "x.json")["results"]["frames"] == 3
