# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 decoding against arrays written by hand, and clear errors for what cannot be read."""

from __future__ import annotations

import array
import time

import numpy as np
import pytest
from perception_messages import cloud_message

from edge_nodes.errors import State
from edge_nodes.perception import PerceptionError, decode

POINTS = np.array([[1.5, -2.25, 0.5, 10], [3, 4, -1, 20], [-7, 8.5, 2, 30]])
XYZI = (("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", ["f4", "f8", "i2", "i4"])
def test_number_types_and_byte_orders(kind, big):
    points = np.round(POINTS) if kind.startswith("i") else POINTS
    cloud = decode(cloud_message(points, tuple((n, kind) for n in ("x", "y", "z")), big=big))
    assert cloud.xyz.dtype == np.float32
    np.testing.assert_array_equal(cloud.xyz, points[:, :3])


def test_any_field_order_with_gaps_and_wide_steps():
    fields = (("intensity", "u2"), ("z", "f8"), ("ring", "u1"), ("x", "f4"), ("y", "f4"))
    message = cloud_message(POINTS[:, [3, 2, 0, 0, 1]], fields, offsets=[1, 4, 13, 17, 23], point_step=48)
    np.testing.assert_array_equal(decode(message).points, POINTS[:, :3])
    np.testing.assert_array_equal(decode(message, intensity=True).points, POINTS)


@pytest.mark.parametrize("pad", [0, 7])
def test_organised_clouds_with_padded_rows(pad):
    points = np.arange(1, 49, dtype=float).reshape(3, 4, 4)
    cloud = decode(cloud_message(points, row_pad=pad))
    np.testing.assert_array_equal(cloud.xyz, points[..., :3].reshape(-1, 3))


def test_points_without_return_are_dropped():
    bad = np.array([[np.nan, 1, 1, 5], [0, 0, 0, 6], [np.inf, 0, 0, 7], [1, 2, np.nan, 8], [0, 0, 1e-5, 9]])
    message = cloud_message(np.concatenate([bad, POINTS]))
    np.testing.assert_array_equal(decode(message).xyz, POINTS[:, :3])
    np.testing.assert_array_equal(decode(message, intensity=True).points, POINTS)


@pytest.mark.parametrize("name", ["intensity", "reflectivity", "i"])
def test_intensity_has_several_names(name):
    fields = (*XYZI[:3], (name, "f4"))
    np.testing.assert_array_equal(decode(cloud_message(POINTS, fields), intensity=True).points, POINTS)


def test_a_cloud_without_the_intensity_asked_for():
    with pytest.raises(PerceptionError, match="no field 'intensity'; got x, y, z"):
        decode(cloud_message(POINTS[:, :3], XYZI[:3]), intensity=True)


@pytest.mark.parametrize("convert", [bytes, bytearray, lambda d: array.array("B", bytes(d)), list])
def test_any_buffer(convert):
    message = cloud_message(POINTS)
    message.data = convert(message.data)
    np.testing.assert_array_equal(decode(message).xyz, POINTS[:, :3])


def spoil(**changes):
    message = cloud_message(POINTS)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


BAD = {
    "empty cloud": spoil(width=0, data=b""),
    "do not agree": spoil(point_step=64),
    "truncated": spoil(data=cloud_message(POINTS).data[:-1]),
    "no valid point": cloud_message(np.full((4, 4), np.nan)),
    "no field 'z'": cloud_message(POINTS[:, :3], (("x", "f4"), ("y", "f4"), ("range", "f4"))),
    "reaches past the end": spoil(point_step=8, row_step=24),
    "no field 'x'": spoil(fields=[]),
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_read_is_one_clear_error(text):
    with pytest.raises(PerceptionError, match=text) as caught:
        decode(BAD[text])
    assert caught.value.state is State.BAD_INPUT


def test_row_step_zero_of_a_single_row_is_forgiven():
    np.testing.assert_array_equal(decode(spoil(row_step=0)).xyz, POINTS[:, :3])


def test_large_clouds_are_fast():
    message = cloud_message(np.random.default_rng(0).normal(0, 20, (128, 1024, 4)))
    decode(message)
    best = min(_cpu_ms(message) for _ in range(5))
    assert best < 10, f"{best:.1f} ms"


def _cpu_ms(message):
    begin = time.process_time()
    decode(message)
    return (time.process_time() - begin) * 1e3
