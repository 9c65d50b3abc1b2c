# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 to arrays: any field order, number type, byte order and layout."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.perception.errors import PerceptionError

# sensor_msgs/PointField constants.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_NO_RETURN_M = 1e-3
_INTENSITY = ("intensity", "reflectivity", "i")


class Cloud(NamedTuple):
    """Points that returned.

    Attributes:
        points: (N, 3) float32, m, in the message's frame; (N, 4) with the intensity in the sensor's unit.
    """

    points: npt.NDArray[np.float32]

    @property
    def xyz(self) -> npt.NDArray[np.float32]:
        """Where the points are: (N, 3) float32, m."""
        return self.points[:, :3]


def decode(message: Any, *, intensity: bool = False) -> Cloud:
    """Return the points of a sensor_msgs/PointCloud2, without the ones that are no return (NaN, infinite, zero).

    Args:
        message: anything with PointCloud2's attributes; `data` may be an array, a list of bytes or a buffer.
        intensity: read it too, from the field intensity, reflectivity or i.

    Raises:
        PerceptionError: the layout contradicts itself, a field is missing, or no point is left.
    """
    fields = {f.name: f for f in message.fields}
    raw = _rows(message)
    names = ["x", "y", "z"]
    if intensity:
        names.append(next((n for n in _INTENSITY if n in fields), _INTENSITY[0]))
    columns = [_column(message, raw, fields, name) for name in names]
    points = np.empty((raw.shape[0] * raw.shape[1], len(names)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, column in enumerate(columns):
            points[:, axis] = column.reshape(-1)
        keep = _returned(points)
    if keep.all():
        return Cloud(points)
    index = np.flatnonzero(keep)
    if not index.size:
        raise PerceptionError(
            "the cloud has no valid point",
            got=f"{len(points)} points, all NaN, infinite or zero",
            expected="at least one finite point",
            remedy="See whether the sensor's window is covered and whether the driver runs.",
        )
    return Cloud(points[index])


def _returned(points: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    reach = np.abs(points[:, 0])
    reach += np.abs(points[:, 1])
    reach += np.abs(points[:, 2])
    # NaN fails both comparisons.
    return (reach > _NO_RETURN_M) & (reach < np.float32(np.inf))


def _rows(message: Any) -> npt.NDArray[np.uint8]:
    """Return the data as (height, width, point_step) bytes, a view where the buffer allows one."""
    height, width = int(message.height), int(message.width)
    step, row = int(message.point_step), int(message.row_step)
    if height * width == 0:
        raise PerceptionError(
            "empty cloud", got=f"height {height}, width {width}", expected="one point or more", remedy="See the driver."
        )
    data = message.data
    if isinstance(data, list | tuple):
        data = bytes(data)
    flat = np.frombuffer(data, np.uint8)
    # Some drivers leave row_step 0 for a cloud of one row.
    row = row or width * step
    if step <= 0 or row < width * step:
        raise PerceptionError(
            "the cloud's point_step and row_step do not agree",
            got=f"point_step {step}, row_step {row}, width {width}",
            expected=f"row_step >= {width * max(step, 1)}",
        )
    # The padding after the last row may be left out.
    needed = (height - 1) * row + width * step
    if flat.size < needed:
        raise PerceptionError(
            "the cloud's data are truncated",
            got=f"{flat.size} bytes",
            expected=f"{height * row} bytes (height {height} x row_step {row})",
        )
    return np.lib.stride_tricks.as_strided(flat, (height, width, step), (row, step, 1), writeable=False)


def _column(message: Any, raw: npt.NDArray[np.uint8], fields: dict[str, Any], name: str) -> npt.NDArray[Any]:
    """Return one field as a (height, width) view."""
    if name not in fields:
        raise PerceptionError(
            f"the cloud has no field {name!r}",
            got=", ".join(sorted(fields)) or "no fields",
            expected="x, y and z; with bev.intensity_full also intensity",
        )
    field = fields[name]
    kind = _TYPES.get(int(field.datatype))
    if kind is None:
        raise PerceptionError(f"field {name!r} has an unknown datatype", got=field.datatype, expected="1 to 8")
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    offset, step = int(field.offset), raw.shape[2]
    if offset < 0 or offset + dtype.itemsize > step:
        raise PerceptionError(
            f"field {name!r} reaches past the end of a point",
            got=f"offset {offset} + {dtype.itemsize} bytes, point_step {step}",
            expected=f"point_step >= {offset + dtype.itemsize}",
        )
    record = np.dtype({"names": ["value"], "formats": [dtype], "offsets": [offset], "itemsize": step})
    view = np.lib.stride_tricks.as_strided(raw, (*raw.shape[:2], step), raw.strides, writeable=False)
    return view.view(record)[..., 0]["value"]
