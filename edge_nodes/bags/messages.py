# SPDX-License-Identifier: Apache-2.0
"""Messages without ROS: the types of the reference distribution, and messages made from a pipeline's fields."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from edge_nodes.bags.errors import BagError


def full_type(name: str) -> str:
    """Return "package/msg/Name" of "package/Name"; full names stay as they are."""
    parts = name.split("/")
    return name if len(parts) == 3 else f"{parts[0]}/msg/{parts[-1]}"


def short_type(name: str) -> str:
    """Return "package/Name" of "package/msg/Name"."""
    parts = name.split("/")
    return f"{parts[0]}/{parts[-1]}"


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Return the message types of the reference distribution."""
    return get_typestore(Stores.ROS2_JAZZY)


def build_message(types: Typestore, type_name: str, fields: Mapping[str, Any]) -> Any:
    """Return a `rosbags` message from a pipeline's fields.

    Args:
        types: the message types.
        type_name: "package/Name".
        fields: nested messages as mappings, arrays of messages as sequences of mappings, arrays of numbers as numpy
            arrays or sequences; what is left out gets the message's defaults.

    Raises:
        BagError: an unknown type or field, or a value that does not fit.
    """
    name = full_type(type_name)
    if name not in types.fielddefs:
        raise BagError("unknown message type", got=type_name, expected="a type of ROS 2's common interfaces")
    definitions = types.fielddefs[name][1]
    if unknown := set(fields) - {field for field, _ in definitions}:
        raise BagError(f"{type_name} has no such field", got=", ".join(sorted(unknown)))
    values = {field: _field(types, name, field, definition, fields.get(field)) for field, definition in definitions}
    return types.types[name](**values)


def _field(types: Typestore, owner: str, field: str, definition: tuple[Nodetype, Any], value: Any) -> Any:
    kind, detail = definition
    try:
        return _default(types, kind, detail, owner, field) if value is None else _value(types, kind, detail, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BagError(f"field {field} of {short_type(owner)} has a value that does not fit", got=str(error)) from None


def serialize(type_name: str, fields: Mapping[str, Any]) -> bytes:
    """Return the CDR bytes of a message made from a pipeline's fields; see `build_message`."""
    try:
        return bytes(typestore().serialize_cdr(build_message(typestore(), type_name, fields), full_type(type_name)))
    except SerdeError as error:
        raise BagError(f"{type_name} cannot be serialised", got=str(error)) from None


def stamp_ns(data: bytes, at: int = 4) -> int:
    """Return the time of a little-endian CDR message whose stamp begins at byte `at`: 4 if a header comes first."""
    sec, nanosec = struct.unpack_from("<iI", data, at)
    return int(sec) * 1_000_000_000 + int(nanosec)


def _value(types: Typestore, kind: Nodetype, detail: Any, value: Any) -> Any:
    if kind == Nodetype.NAME:
        return build_message(types, detail, value)
    if kind == Nodetype.BASE:
        return _scalar(detail[0], value)
    (element, element_detail), length = detail
    if element == Nodetype.NAME:
        return [build_message(types, element_detail, item) for item in value]
    if element_detail[0] == "string":
        return [str(item) for item in value]
    array = _numbers(element_detail[0], value)
    if kind == Nodetype.ARRAY and array.size != length:
        raise ValueError(f"{array.size} numbers, expected {length}")
    return array


def _numbers(base: str, value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return np.frombuffer(value, dtype=_dtype(base))
    # Arrays of messages are flat; bytes of another dtype (an image's data) are taken as they lie in memory.
    array = np.ascontiguousarray(value).reshape(-1)
    if base == "uint8" and array.dtype != np.uint8 and array.dtype.itemsize > 1 and isinstance(value, np.ndarray):
        return array.view(np.uint8)
    return array.astype(_dtype(base), copy=False)


def _scalar(base: str, value: Any) -> Any:
    if base == "string":
        return str(value)
    if base == "bool":
        return bool(value)
    if base.startswith("float"):
        return float(value)
    number = int(value)
    info = np.iinfo(_dtype(base))
    if not info.min <= number <= info.max:
        raise ValueError(f"{number}, expected {base}")
    return number


def _dtype(base: str) -> np.dtype[Any]:
    return np.dtype({"bool": "bool", "octet": "uint8", "byte": "uint8", "char": "uint8"}.get(base, base))


def _default(types: Typestore, kind: Nodetype, detail: Any, owner: str, field: str) -> Any:
    if kind == Nodetype.NAME:
        return build_message(types, detail, {})
    if kind == Nodetype.BASE:
        if detail[0] == "string":
            return ""
        # The one default other than zero in the common interfaces.
        return _scalar(detail[0], int((owner, field) == ("geometry_msgs/msg/Quaternion", "w")))
    (element, element_detail), length = detail
    size = length if kind == Nodetype.ARRAY else 0
    if element == Nodetype.NAME:
        return [build_message(types, element_detail, {}) for _ in range(size)]
    if element_detail[0] == "string":
        return [""] * size
    return np.zeros(size, dtype=_dtype(element_detail[0]))
