# SPDX-License-Identifier: Apache-2.0
"""The report of a small made-up run, and the bench's targets."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from edge_nodes.bags import BagWriter, serialize
from edge_nodes.cli import report
from edge_nodes.cli.bench import graph as bench
from edge_nodes.pipeline import header

CLOUD, IMAGE, TEXT = "sensor_msgs/PointCloud2", "sensor_msgs/Image", "std_msgs/String"
STEP = 100_000_000
CELLS = 256


def _cloud(stamp):
    rng = np.random.default_rng(stamp % 7)
    xyz = np.column_stack([rng.uniform(-20, 20, (500, 2)), rng.normal(-1, 0.02, 500)]).astype(np.float32)
    fields = [{"name": n, "offset": 4 * i, "datatype": 7, "count": 1} for i, n in enumerate("xyz")]
    about = {"header": header(stamp, "lidar"), "height": 1, "width": 500, "fields": fields}
    return serialize(CLOUD, {**about, "point_step": 12, "row_step": 6000, "data": xyz, "is_dense": True})


def _image(stamp, encoding, values):
    size = values.dtype.itemsize
    about = {"header": header(stamp, "lidar"), "height": CELLS, "width": CELLS, "encoding": encoding}
    return serialize(IMAGE, {**about, "step": CELLS * size, "data": values})


def _scene(stamp):
    person = {"id": 3, "class": "person", "range_m": 4.0, "bearing_deg": 10.0, "center_m": [4, 0.7, 0]}
    person |= {"size_m": [0.5, 0.5, 1.7], "speed_mps": 1.0, "velocity_mps": [0, 1.0], "confidence": 0.8}
    return {"stamp_ns": stamp, "objects": [person], "text": "A person <ahead>.", "alarm": {"text": "Watch out"}}


SPEECH = [
    {"kind": "partial", "text": "who is", "start_ns": STEP, "end_ns": 2 * STEP},
    {"kind": "final", "text": "who is there", "start_ns": STEP, "end_ns": 3 * STEP, "confidence": 0.9},
]
SPEECH[1]["exit"] = {"layer": 2, "of": 4, "policy": "confidence"}
ANSWER = {
    "stamp_ns": 3 * STEP,
    "latency_ms": {"total": 300.0},
    "kind": "reply",
    "request": {"source": "speech", "text": "who is there"},
    "text": "A person is there.",
    "finish_reason": "stop",
    "tokens": {"prompt": 9, "cached": 0, "generated": 5},
}


@pytest.fixture
def run(tmp_path):
    bag, recording = tmp_path / "bag.mcap", tmp_path / "out.mcap"
    parts = [{"from_s": 0, "to_s": 9, "real": True, "text": "real scans"}]
    spoken = [{"time_s": 0.1, "length_s": 0.2, "text": "Who is there?", "real": False}]
    bag.with_suffix(".json").write_text(json.dumps({"title": "A walk", "parts": parts, "speech": spoken}))
    with BagWriter(bag) as writer:
        for i in range(8):
            writer.write("/points", CLOUD, i * STEP, _cloud(i * STEP))
    with BagWriter(recording) as writer:
        for i in range(8):
            stamp = i * STEP
            labels = np.full((CELLS, CELLS), i % 6, np.uint8)
            writer.write("/segmentation/labels", IMAGE, stamp, _image(stamp, "mono8", labels))
            maps = np.full((CELLS, CELLS), i / 8, np.float32)
            for topic in ("/reconstruction/occupancy", "/reconstruction/forecast"):
                writer.write(topic, IMAGE, stamp, _image(stamp, "32FC1", maps))
            events = {"/scene/event": [_scene(stamp)]}
            events |= {"/speech/event": SPEECH, "/language/event": [ANSWER]} if i == 4 else {}
            for topic, each in events.items():
                for event in each:
                    writer.write(topic, TEXT, stamp, serialize(TEXT, {"data": json.dumps(event)}))
    return bag, recording


def _measurements():
    latency = [50.0, 60.0, 70.0]
    topic = {"count": 3, "rate_hz": 10.0, "latency_ms": latency}
    networks = ("segmentation/labels", "reconstruction/occupancy", "reconstruction/forecast")
    return {
        "bag_s": 0.3,
        "topics": dict.fromkeys(networks, topic),
        "first_word_ms": [800.0],
        "clouds": {str(i): dict.fromkeys(networks, 50.0 + i) for i in range(3)},
        "waiting": [[1, 0], [2, 1]],
        "nodes": {"segmentation_node": {"dropped points": "0"}},
        "processes": {"segmentation_node": {"cpu_percent": 30.0, "rss_mb": 300.0}},
    }


def test_the_page_stands_alone_and_says_what_is_real(run, tmp_path):
    bag, recording = run
    report.write(tmp_path / "r.html", bag=bag, recording=recording, measurements=_measurements())
    page = (tmp_path / "r.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    assert page.count("data:image/png;base64,") == 5  # the run, the latency, three stamps
    for text in ("A walk", "real scan", "synthetic voice", "Who is there?", "who is there", "layer 2 of 4"):
        assert text in page
    for text in ("A person is there.", "Watch out", "segmentation_node", "A person &lt;ahead&gt;."):
        assert text in page


def test_a_replay_has_no_latencies(run, tmp_path):
    bag, recording = run
    bag.with_suffix(".json").unlink()
    report.write(tmp_path / "r.html", bag=bag, recording=recording)
    page = (tmp_path / "r.html").read_text()
    assert "replayed without ROS" in page
    assert "nothing is known about its origin" in page
    assert "<h2>Latency" not in page


def test_targets():
    layer = {"read": 1.0, "write": 0.1, "publish": 0.1, "sum": 1.2}
    found = bench._results(_measurements(), 3, layer)
    assert found["sustained_hz"] == 10.0
    assert found["both_outputs_ms"] == {"p50": 51.0, "p95": 51.9, "max": 52.0}
    assert [t["met"] for t in bench.targets(found)] == [True] * 5
    slow = {**_measurements(), "clouds": {}, "first_word_ms": []}
    assert [t["met"] for t in bench.targets(bench._results(slow, 3, layer))] == [False, True, False, False, True]
