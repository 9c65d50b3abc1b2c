# SPDX-License-Identifier: Apache-2.0
"""What the figures count, on maps whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from packs import CAR, pack, street

from edge_nodes.perception import BevConfig, PerceptionError
from edge_nodes.perception.evaluation import (
    GROUND,
    IGNORE,
    PERSON,
    VEHICLE,
    ClassScore,
    OccupancyScore,
    Sample,
    Thing,
    ThingScore,
    held_out,
    measured_ahead,
    read_samples,
    semantic_map,
    things,
    with_returns,
)
from edge_nodes.perception.frames import read_frames

CONFIG = BevConfig()
BOXES = np.array([[1, 0, *CAR], [1, 3, 30, 0, -0.9, 0.6, 0.6, 1.7, 0]], np.float32)


def test_frames_are_what_was_packed(tmp_path):
    clouds = [street(0), street(1)]
    frames = read_frames(pack(tmp_path / "a.npz", clouds, boxes=BOXES))
    for frame, cloud in zip(frames, clouds, strict=True):
        assert np.abs(frame.xyz - cloud).max() < 0.0026
    assert len(frames[0].boxes) == 0
    assert len(frames[1].boxes) == 2
    assert frames[0].semantic is None


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_what_is_no_pack_is_one_error(tmp_path, content):
    path = tmp_path / "a.npz"
    if content is None:
        np.savez(path, offsets=np.zeros(1))
    else:
        path.write_bytes(content)
    with pytest.raises(PerceptionError, match="no pack of clouds"):
        read_frames(path)


def test_a_car_found_and_a_cluster_that_is_none(tmp_path):
    frame = read_frames(pack(tmp_path / "a.npz", [street(0), street(1)], boxes=BOXES))[1]
    car, person = things(frame, CONFIG)
    assert car.car
    assert (car.points, person.label) == (800, PERSON)
    assert len(car.cells) == pytest.approx(4.0 * 1.8 / CONFIG.resolution_m**2, rel=0.1)
    labels = np.zeros((256, 256), np.uint8)
    labels[tuple(car.cells[: len(car.cells) * 6 // 10].T)] = VEHICLE
    labels[100:103, 128:131] = VEHICLE  # ahead, where nothing is
    labels[200:203, 128:131] = VEHICLE  # behind, where nobody labelled
    score = ThingScore(CONFIG, 90.0)
    score.add(labels, [car, person])
    assert score.values["cars_found"] == 1.0
    assert (score.values["clusters_true"], score.values["clusters"]) == (0.5, 2)
    score.add(np.zeros_like(labels), [car])
    assert score.values["cars_found"] == 0.5


def test_a_car_beyond_the_map_counts_as_missed():
    car = Thing(VEHICLE, True, np.column_stack([np.arange(-20, 0), np.full(20, 100)]), 90, 35.0)
    score = ThingScore(CONFIG, 360.0)
    score.add(np.full((256, 256), VEHICLE, np.uint8), [car])
    assert (score.values["cars_found"], score.values["cars_found_on_map"]) == (0.0, None)


def test_labelled_points_become_cells(tmp_path):
    cloud = street()
    semantic = np.where(np.arange(len(cloud)) < 8000, 40, 10).astype(np.uint16)
    instance = (semantic == 10).astype(np.uint16)
    frame = read_frames(pack(tmp_path / "a.npz", [cloud], semantic=semantic, instance=instance))[0]
    labels = semantic_map(frame, CONFIG)
    assert set(np.unique(labels)) == {GROUND, VEHICLE, IGNORE}
    row, column = int(128 - CAR[0] / 0.25), int(128 - CAR[1] / 0.25)
    assert labels[row, column] == VEHICLE
    (car,) = things(frame, CONFIG)
    assert (car.label, car.car, car.points) == (VEHICLE, True, 800)


def test_overlap_of_classes():
    want = np.array([[1, 1, 3, IGNORE]], np.uint8)
    score = ClassScore()
    score.add(np.array([[1, 3, 3, 5]], np.uint8), want)
    assert score.values["ground"] == score.values["vehicle"] == 0.5
    assert score.known["mean"] == 0.5
    assert score.known["obstacle"] is None
    assert score.values["mean"] == pytest.approx(1 / 6, abs=1e-3)


def test_overlap_of_occupancy():
    shape = (8, 8)
    now, later = np.zeros(shape, bool), np.zeros(shape, bool)
    now[2, 2:4] = later[2, 3:5] = True
    sample = Sample(np.zeros((36, 8, 8), np.uint8), np.zeros(shape, np.uint8), now, later, np.ones(shape, bool))
    score = OccupancyScore()
    score.add({"network": now, "last scan": now}, sample, later)
    assert score.values["occupancy_iou"]["network"] == 1.0
    assert score.values["forecast_iou"]["network"] == 1.0
    assert score.values["forecast_iou"]["last scan"] == pytest.approx(1 / 3, abs=1e-3)


def test_cells_without_a_return_in_any_scan_are_left_out():
    label = np.array([[1, 3, 3], [0, IGNORE, 4]], np.uint8)
    maps = np.zeros((42, 2, 3), np.uint8)
    maps[36:39] = 128  # detail of empty cells
    maps[0, 0, 0] = maps[35, 0, 1] = maps[3, 1, 1] = 9
    nothing = np.zeros(label.shape, bool)
    got = with_returns(Sample(maps, label, nothing, nothing, nothing))
    np.testing.assert_array_equal(got, [[1, 3, IGNORE], [IGNORE, IGNORE, IGNORE]])


def test_a_standing_scene_is_measured_where_it_is(tmp_path):
    frames = read_frames(pack(tmp_path / "a.npz", [street()] * 22))
    found = list(measured_ahead(frames, CONFIG))
    assert len(found) == 2
    for seen, later, known in found:
        now = seen["maps"][..., 1:5].max(-1) > 0
        assert (now == later).all()
        assert (later <= known).all()


def test_only_held_out_sequences_are_read(tmp_path):
    for name in ("10000.npz", "90001.npz", "other.npz"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in held_out(tmp_path)] == ["90001.npz"]
    with pytest.raises(PerceptionError, match="holds no simulated samples"):
        read_samples(tmp_path / "90001.npz")
    with pytest.raises(PerceptionError, match="no held-out sequences"):
        held_out(tmp_path / "none")
