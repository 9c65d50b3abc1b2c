# SPDX-License-Identifier: Apache-2.0
"""rclpy messages from the plain fields of a `pipeline.Output`."""

from __future__ import annotations

import array
import importlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from edge_nodes import graph

_ELEMENT = re.compile(r"^(?:sequence<)?([a-z0-9_]+/[A-Za-z0-9_]+)")


@cache
def message_type(name: str) -> Any:
    """Return the message class called "package/Name"."""
    package, _, message = name.partition("/")
    return getattr(importlib.import_module(f"{package}.msg"), message)


def installed(topic: str) -> bool:
    """Return whether a topic of the graph can be used here: only an `extra` one's type may not be installed."""
    if not graph.TOPICS[topic].extra:
        return True
    try:
        message_type(graph.TOPICS[topic].type)
    except (ImportError, AttributeError):
        return False
    return True


def build(message_class: Any, fields: Mapping[str, Any]) -> Any:
    """Return a message with `fields` set.

    Args:
        message_class: rclpy message class.
        fields: {field: value}; nested messages as mappings, arrays of messages as sequences of mappings, arrays of
            numbers as numpy arrays.

    Raises:
        AttributeError: the message has no such field.
    """
    message = message_class()
    types = message_class.get_fields_and_field_types()
    for name, value in fields.items():
        if name not in types:
            raise AttributeError(f"{message_class.__name__} has no field {name!r}")
        setattr(message, name, _convert(types[name], value))
    return message


def _convert(kind: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(message_type(kind), value)
    if isinstance(value, np.ndarray):
        # array.array is the only type that rclpy takes without looking at each element.
        flat = np.ascontiguousarray(value).reshape(-1)
        # A byte field (Image.data) takes the memory of any array as it is.
        out = array.array("B" if kind == "sequence<uint8>" else _typecode(flat.dtype))
        out.frombytes(flat.view(np.uint8).data)
        return out
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        match = _ELEMENT.match(kind)
        if match is None:
            raise AttributeError(f"{kind} does not hold messages")
        element = message_type(match[1])
        return [build(element, item) for item in value]
    return value


@cache
def _typecode(dtype: np.dtype[Any]) -> str:
    for code in "BbHhIiLlQqfd":
        item = array.array(code)
        if np.dtype(code).kind == dtype.kind and item.itemsize == dtype.itemsize:
            return code
    raise TypeError(f"no array of {dtype} in a ROS message")
