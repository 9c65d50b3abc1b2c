# SPDX-License-Identifier: Apache-2.0
"""Messages as the nodes get them, made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def stamp(time_ns):
    return SimpleNamespace(sec=time_ns // 10**9, nanosec=time_ns % 10**9)


def cloud_message(points, fields=(("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4")), **options):
    """points (..., len(fields)) -> a PointCloud2-like object; options: offsets, point_step, row_pad, big, time_ns."""
    points = np.atleast_2d(points)
    shape = (1, len(points)) if points.ndim == 2 else points.shape[:2]
    offsets = options.get("offsets") or list(np.cumsum([0] + [int(k[1]) for _, k in fields])[:-1])
    step = options.get("point_step") or max(o + int(k[1]) for o, (_, k) in zip(offsets, fields, strict=True))
    order = ">" if options.get("big") else "<"
    record = np.dtype(
        {
            "names": [n for n, _ in fields],
            "formats": [order + k for _, k in fields],
            "offsets": offsets,
            "itemsize": step,
        }
    )
    rows = np.zeros(shape, record)
    for i, (name, _) in enumerate(fields):
        with np.errstate(invalid="ignore"):
            rows[name] = points.reshape(*shape, points.shape[-1])[..., i]
    pad = options.get("row_pad", 0)
    data = np.zeros((shape[0], shape[1] * step + pad), np.uint8)
    data[:, : shape[1] * step] = rows.view(np.uint8).reshape(shape[0], -1)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp(options.get("time_ns", 0)), frame_id=options.get("frame_id", "lidar")),
        height=shape[0],
        width=shape[1],
        fields=[
            SimpleNamespace(name=n, offset=int(o), datatype=DATATYPES[k], count=1)
            for o, (n, k) in zip(offsets, fields, strict=True)
        ],
        is_bigendian=bool(options.get("big")),
        point_step=step,
        row_step=shape[1] * step + pad,
        data=data.reshape(-1),
        is_dense=False,
    )


def image_message(values, time_ns=0, encoding=None):
    values = np.ascontiguousarray(values)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp(time_ns), frame_id="lidar"),
        height=values.shape[0],
        width=values.shape[1],
        encoding=encoding or ("mono8" if values.dtype == np.uint8 else "32FC1"),
        is_bigendian=0,
        step=values.shape[1] * values.itemsize,
        data=values.view(np.uint8).reshape(-1),
    )


def odometry_message(x, y, yaw, time_ns=0):
    """A nav_msgs/Odometry-like object of a planar pose."""
    turn = SimpleNamespace(x=0.0, y=0.0, z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))
    pose = SimpleNamespace(position=SimpleNamespace(x=x, y=y, z=0.0), orientation=turn)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp(time_ns), frame_id="odom"), pose=SimpleNamespace(pose=pose)
    )


def transform(parent, child, xyz=(0.0, 0.0, 0.0), quaternion=(0.0, 0.0, 0.0, 1.0), time_ns=0):
    """A geometry_msgs/TransformStamped-like object."""
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp(time_ns), frame_id=parent),
        child_frame_id=child,
        transform=SimpleNamespace(
            translation=SimpleNamespace(**dict(zip("xyz", xyz, strict=True))),
            rotation=SimpleNamespace(**dict(zip("xyzw", quaternion, strict=True))),
        ),
    )


def tf_message(*transforms):
    """A tf2_msgs/TFMessage-like object."""
    return SimpleNamespace(transforms=list(transforms))
