# SPDX-License-Identifier: Apache-2.0
"""The pipelines with the shipped weights: messages in, messages out, as in the nodes and in replay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from perception_messages import cloud_message, image_message
from safetensors.torch import load_file, save_file

from edge_nodes import events, models
from edge_nodes.errors import EdgeNodesError, ModelError, State
from edge_nodes.parameters import replace
from edge_nodes.perception import PerceptionError, ReconstructionConfig, SceneConfig, SegmentationConfig
from edge_nodes.pipelines.reconstruction import ReconstructionPipeline
from edge_nodes.pipelines.scene import ScenePipeline
from edge_nodes.pipelines.segmentation import SegmentationPipeline

LABELS, GRID = "segmentation/labels", "segmentation/grid"
OCCUPANCY, FORECAST = "reconstruction/occupancy", "reconstruction/forecast"
SCENE = ("scene/objects", "scene/text", "scene/event")
shipped = pytest.mark.skipif(
    not (models.SHIPPED / "perception" / "segmentation" / "manifest.json").is_file(), reason="no weights"
)


def scan(time_s=0.0, person_x=5.0):
    """A room of 20 m by 12 m seen from 1 m above its floor, with a person ahead and a car on the left."""
    rng = np.random.default_rng(round(time_s * 10))
    x, y = np.meshgrid(np.arange(-10, 10, 0.12), np.arange(-6, 6, 0.12))
    floor = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, -1.0)])
    along, up = np.meshgrid(np.arange(-10, 10, 0.1), np.arange(-1, 2, 0.15))
    walls = [np.column_stack([along.ravel(), np.full(along.size, side), up.ravel()]) for side in (-6, 6)]
    person = rng.uniform([-0.15, -0.25, -1], [0.15, 0.25, 0.75], (300, 3)) + np.array([person_x, 0.5, 0])
    car = rng.uniform([-2.2, -0.9, -0.8], [2.2, -0.8, 0.5], (900, 3)) + np.array([1, 4, 0])
    points = np.concatenate([floor, *walls, person, car]) + rng.normal(
        0, 0.01, (len(floor) + 2 * len(walls[0]) + 1200, 3)
    )
    return cloud_message(
        np.column_stack([points, np.full(len(points), 50.0)]), time_ns=round((100 + time_s) * 1e9), frame_id="os_sensor"
    )


def message(fields):
    """Fields of a sensor_msgs/Image as a message."""
    dtype = np.uint8 if fields["encoding"] == "mono8" else np.float32
    values = fields["data"].view(dtype).reshape(fields["height"], fields["width"])
    stamp = fields["header"]["stamp"]
    return image_message(values, stamp["sec"] * 10**9 + stamp["nanosec"])


def drain(pipeline, topic, msg, wanted):
    return {o.topic: o.fields for o in pipeline.process(topic, msg, received_ns=0, wanted=wanted)}


@shipped
def test_a_network_with_intensity_starts_from_one_without(tmp_path):
    """Its manifest asks for two channels more; their weights are zero, so it answers the same."""
    found = models.find("perception/segmentation")
    state, inputs = load_file(found.path), found.manifest["hyper_parameters"]["inputs"]
    first = state["encoder.down.0.conv.weight"]
    # Detail comes last.
    parts = first[:, :36], torch.zeros_like(first[:, :2]), first[:, 36:]
    state["encoder.down.0.conv.weight"] = torch.cat(parts, 1)
    save_file(state, tmp_path / "model.safetensors")
    about = {k: found.manifest[k] for k in ("format", "architecture")}
    hyper = {**found.manifest["hyper_parameters"], "inputs": inputs + 2}
    models.write_manifest(tmp_path, "model.safetensors", hyper_parameters=hyper, **about)
    without = SegmentationPipeline(SegmentationConfig(device="cpu"))
    config = replace(without.config, {"model": str(tmp_path), "bev.intensity_full": 255.0})
    answers = []
    for pipeline in (without, SegmentationPipeline(config)):
        pipeline.load(lambda _: None)
        answers.append(drain(pipeline, "points", scan(), {LABELS})[LABELS]["data"])
    np.testing.assert_array_equal(*answers)
    assert pipeline.network.inference.history.push(np.full((9, 4), 50, np.float32), 0).shape[2] == inputs + 2
    with pytest.raises(PerceptionError, match=f"does not fit the maps; got {inputs} channels"):
        SegmentationPipeline(replace(without.config, {"model": str(tmp_path)})).load(lambda _: None)


@pytest.fixture(scope="module")
def both():
    pipelines = SegmentationPipeline(SegmentationConfig()), ReconstructionPipeline(ReconstructionConfig())
    lines = []
    for pipeline in pipelines:
        pipeline.load(lines.append)
    assert len(lines) >= 4
    yield pipelines
    for pipeline in pipelines:
        pipeline.close()


@shipped
def test_two_looks_at_run_time(both):
    """`mirrored: true`: what stands left is found as if it stood right."""
    segmentation, config = both[0], both[0].config
    points = np.ascontiguousarray(np.random.default_rng(0).normal(0, 6, (4000, 3)), np.float32)
    maps = segmentation.network.inference.history.push(points, 10**9)
    exchanged = np.ascontiguousarray(maps[:, ::-1])
    exchanged[..., -7:-5] = -exchanged[..., -7:-5]  # offsets along columns and covariances: 256 less them
    once = segmentation.network.inference.forward(maps)
    segmentation.update(replace(config, {"mirrored": True}))
    left, right = (segmentation.network.inference.forward(m) for m in (maps, exchanged))
    # In bfloat16 exchanged offsets round another way.
    torch.testing.assert_close(right.flip(-1), left, atol=0.06, rtol=0.02)
    assert (left - once).abs().max() > 0.05
    segmentation.update(config)
    torch.testing.assert_close(segmentation.network.inference.forward(maps), once)
    segmentation.network.inference.history.reset()


@shipped
def test_from_clouds_to_a_scene(both):
    segmentation, reconstruction = both
    scene = ScenePipeline(SceneConfig())
    scene.load(lambda _: None)
    for i in range(20):
        cloud = scan(i / 10, 6 - 1.2 * i / 10)
        maps = drain(segmentation, "points", cloud, {LABELS, GRID})
        maps |= drain(reconstruction, "points", cloud, {OCCUPANCY, FORECAST})
        assert drain(scene, "points", cloud, SCENE) == {}
        assert drain(scene, LABELS, message(maps[LABELS]), SCENE) == {}
        assert drain(scene, OCCUPANCY, message(maps[OCCUPANCY]), SCENE) == {}
        got = drain(scene, FORECAST, message(maps[FORECAST]), SCENE)
    assert maps[LABELS]["header"] == {"stamp": {"sec": 101, "nanosec": 900_000_000}, "frame_id": "os_sensor"}
    assert (maps[LABELS]["step"], maps[OCCUPANCY]["step"]) == (256, 1024)
    assert all(maps[name]["data"].dtype == np.uint8 for name in (LABELS, OCCUPANCY, FORECAST))

    grid = maps[GRID]["data"].reshape(256, 256)
    assert grid.dtype == np.int8
    assert set(np.unique(grid)) <= {-1, 0, 85, 90, 95, 100}
    # Row along +y, column along +x, origin at the lower corner: the left wall at y = 6 m.
    left_wall = grid[
        round((6 + 32) / 0.25) - 2 : round((6 + 32) / 0.25) + 2, round(32 / 0.25) - 10 : round(32 / 0.25) + 10
    ]
    assert (left_wall > 0).mean() > 0.3
    assert grid[round((6 + 32) / 0.25) - 8, 128 + 24] == 0

    event = json.loads(got["scene/event"]["data"])
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(event, events.SCENE)
    assert event["frame_id"] == "os_sensor"
    people = [o for o in event["objects"] if o["class"] == "person"]
    assert any(abs(o["bearing_deg"]) < 15 and 3 < o["range_m"] < 4.5 for o in people), event["text"]
    assert "person" in got["scene/text"]["data"]
    markers = got["scene/objects"]["markers"]
    assert markers[0]["action"] == 3
    assert len(markers) == 1 + 2 * len(event["objects"])
    assert scene.status()["joined"] == 20


@shipped
def test_no_work_for_nobody(both):
    for pipeline in both:
        assert drain(pipeline, "points", scan(), set()) == {}


@shipped
def test_bad_clouds_leave_the_history_as_it_was(both):
    segmentation, _ = both
    before = segmentation.network.inference.history._input.copy()
    broken = scan()
    broken.data = broken.data[:-100]
    for bad in (broken, cloud_message(np.full((5, 4), np.nan))):
        with pytest.raises(EdgeNodesError) as caught:
            drain(segmentation, "points", bad, {LABELS})
        assert caught.value.state is State.BAD_INPUT
    np.testing.assert_array_equal(before, segmentation.network.inference.history._input)


def test_late_and_lonely_parts_are_counted():
    scene = ScenePipeline(replace(SceneConfig(), {"wait_frames": 2}))
    scene.load(lambda _: None)
    maps = np.zeros((256, 256), np.float32)

    def give(time_s, topics):
        out = {}
        for topic in topics:
            part = scan(time_s) if topic == "points" else image_message(maps, round((100 + time_s) * 1e9))
            if topic == LABELS:
                part = image_message(maps.astype(np.uint8), round((100 + time_s) * 1e9))
            out |= drain(scene, topic, part, SCENE)
        return out

    every = ("points", LABELS, OCCUPANCY, FORECAST)
    assert give(0.0, every[:3]) == {}
    assert set(give(0.1, every)) == set(SCENE)
    assert give(0.0, every[3:]) == {}
    assert scene.status() == {"joined": 1, "late_parts": 1, "incomplete_stamps": 1, "waiting_stamps": 0}
    for i in range(2, 8):
        give(i / 10, ("points",))
    assert scene.status()["waiting_stamps"] == 2
    assert json.loads(give(1.0, every)["scene/event"]["data"])["sequence"] == 1


def test_maps_of_the_wrong_kind_are_refused():
    scene = ScenePipeline(SceneConfig())
    scene.load(lambda _: None)
    wrong = image_message(np.zeros((256, 256), np.float32), encoding="mono16")
    short = image_message(np.zeros((256, 256), np.float32))
    short.data = short.data[:-1]
    for bad in (wrong, short):
        with pytest.raises(PerceptionError):
            drain(scene, OCCUPANCY, bad, SCENE)


@shipped
@pytest.mark.parametrize(
    ("values", "error", "state"),
    [
        ({"model": "perception/none"}, ModelError, State.MODEL_MISSING),
        ({"device": "cuda:7"}, PerceptionError, State.NO_DEVICE),
        ({"device": "cpu:4096"}, PerceptionError, State.NO_DEVICE),
        ({"device": "tpu"}, PerceptionError, State.BAD_INPUT),
        ({"bev.range_m": 30.0}, PerceptionError, State.BAD_INPUT),
        ({"bev.history": 8}, PerceptionError, State.BAD_INPUT),
        ({"model": "perception/reconstruction"}, None, None),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_error(values, error, state):
    pipeline = SegmentationPipeline(replace(SegmentationConfig(), values))
    if error is None:
        return
    with pytest.raises(error) as caught:
        pipeline.load(lambda _: None)
    assert caught.value.state is state


@shipped
def test_a_spoilt_model_is_told(tmp_path):
    source = models.SHIPPED / "perception" / "segmentation"
    for name in ("manifest.json", "model.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 255
    (tmp_path / "model.safetensors").write_bytes(data)
    pipeline = SegmentationPipeline(replace(SegmentationConfig(), {"model": str(tmp_path)}))
    with pytest.raises(ModelError, match="sha256") as caught:
        pipeline.load(lambda _: None)
    assert caught.value.state is State.MODEL_BAD


def test_configuration_and_domain_import_nothing_heavy():
    code = (
        "import sys, edge_nodes.perception, edge_nodes.perception.config, edge_nodes.pipelines.scene,"
        "edge_nodes.pipelines.segmentation, edge_nodes.pipelines.reconstruction;"
        "print([m for m in ('torch', 'scipy', 'open3d', 'rclpy') if m in sys.modules])"
    )
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, timeout=60)
    assert out.stdout.strip() == "[]"


@shipped
def test_recorded_scans_of_many_sensors(both, data_dir):
    """Real frames have no labels: hold only what must be true of any."""
    sys.path.insert(0, str(data_dir))
    from load_data import load_clouds

    segmentation, reconstruction = both
    for name in ("ouster_OS-1-128_v2.3.0_1024x10_lb_n3", "nebula_vlp16", "ouster_osf_fw_3.2_10scans"):
        for i, points in enumerate(load_clouds(data_dir / "lidar" / f"{name}.npz")[:3]):
            cloud = cloud_message(points, time_ns=(1000 + i) * 10**8)
            labels = drain(segmentation, "points", cloud, {LABELS})[LABELS]["data"]
            chance = drain(reconstruction, "points", cloud, {OCCUPANCY})[OCCUPANCY]["data"].view(np.float32)
            assert labels.max() <= 5
            assert 0 <= chance.min() <= chance.max() <= 1
            assert (labels == 1).sum() > 200
