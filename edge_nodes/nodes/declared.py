# SPDX-License-Identifier: Apache-2.0
"""Parameters of a node, declared with their range and unit, and checked by us: a wrong value gives one line."""

from __future__ import annotations

import sys

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from edge_nodes import parameters
from edge_nodes.errors import ParameterError


def declare(node: Node, spec: parameters.Spec) -> parameters.Scalar:
    """Declare a parameter of a node and return its value.

    Raises:
        ParameterError: the value it is started with is of the wrong type or out of range.
    """
    override = node._parameter_overrides.get(spec.name)
    # YAML writes 40 for 40.0: accepted where a float is meant. Checked by us: one line in place of a traceback.
    value = spec.default if override is None else spec.check(override.value)
    try:
        node.declare_parameter(spec.name, value, _descriptor(spec), ignore_override=override is not None)
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise ParameterError(f"parameter {spec.name} was refused", got=value, expected=spec.expected()) from error
    return value


def _descriptor(spec: parameters.Spec) -> ParameterDescriptor:
    made = ParameterDescriptor(
        description=spec.doc + (f" [{spec.unit}]" if spec.unit else ""),
        additional_constraints=spec.expected() if spec.choices else "",
    )
    low, high = spec.minimum, spec.maximum
    if low is None and high is None:
        return made
    if spec.type is int:
        bounds = (-(2**63) if low is None else int(low), 2**63 - 1 if high is None else int(high))
        made.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1], step=1)]
    elif spec.type is float:
        edge = sys.float_info.max
        bounds_f = (-edge if low is None else float(low), edge if high is None else float(high))
        made.floating_point_range = [FloatingPointRange(from_value=bounds_f[0], to_value=bounds_f[1])]
    return made
