# SPDX-License-Identifier: Apache-2.0
"""Parameters from frozen dataclasses: one source for ROS descriptors, YAML, the CLI and the docs.

A configuration is a frozen dataclass whose fields are made with `parameter(...)`; a field that is itself such a
dataclass is a group, and its parameters get dotted names (`bev.range_m`).
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from edge_nodes.errors import ParameterError

Scalar = bool | int | float | str
ConfigT = TypeVar("ConfigT")
_META = "edge_nodes"


@dataclass(frozen=True)
class Spec:
    """What is known of one parameter.

    Attributes:
        name: dotted name.
        type: bool, int, float or str.
        default: value used when nothing else is said.
        doc: one sentence.
        unit: unit of the value, empty for none.
        minimum, maximum: inclusive range, None for open.
        choices: accepted values of a string, empty for any.
        fixed: True if a change needs the node to be configured again.
    """

    name: str
    type: type
    default: Scalar
    doc: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool = False

    def check(self, value: object) -> Scalar:
        """Return `value` in the parameter's type.

        Raises:
            ParameterError: wrong type, outside the range, or none of the choices.
        """
        expected = self.expected()
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.type is float and number:
            value = float(typing.cast(float, value))
        if type(value) is not self.type:
            raise ParameterError(f"parameter {self.name} has the wrong type", got=repr(value), expected=expected)
        below = self.minimum is not None and typing.cast(float, value) < self.minimum
        above = self.maximum is not None and typing.cast(float, value) > self.maximum
        nan = self.type is float and math.isnan(typing.cast(float, value))
        if below or above or nan or (self.choices and value not in self.choices):
            raise ParameterError(f"parameter {self.name} is out of range", got=repr(value), expected=expected)
        return typing.cast(Scalar, value)

    def expected(self) -> str:
        """Return the accepted values in words."""
        if self.choices:
            return "one of " + ", ".join(repr(c) for c in self.choices)
        low = "" if self.minimum is None else f" >= {self.minimum:g}"
        high = "" if self.maximum is None else f" <= {self.maximum:g}"
        return f"{self.type.__name__}{low}{high}{' ' + self.unit if self.unit else ''}"


def parameter(
    default: Scalar,
    doc: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    fixed: bool = False,
) -> Any:
    """Declare a dataclass field that is a parameter; see `Spec` for the arguments."""
    meta = {"doc": doc, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices, "fixed": fixed}
    return dataclasses.field(default=default, metadata={_META: meta})


def group(config_type: type) -> Any:
    """Declare a dataclass field that is a group of parameters."""
    return dataclasses.field(default_factory=config_type)


def specs(config_type: type, prefix: str = "") -> Iterator[Spec]:
    """Yield the `Spec` of every parameter of a configuration class, in declaration order."""
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from specs(typing.cast(type, kind), f"{prefix}{field.name}.")
        else:
            default = typing.cast(Scalar, field.default)
            yield Spec(name=prefix + field.name, type=kind, default=default, **field.metadata[_META])


def flatten(config: Any, prefix: str = "") -> dict[str, Scalar]:
    """Return {dotted name: value} of a configuration."""
    out: dict[str, Scalar] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            out |= flatten(value, f"{prefix}{field.name}.")
        else:
            out[prefix + field.name] = value
    return out


def replace(config: ConfigT, values: Mapping[str, object]) -> ConfigT:
    """Return `config` with some parameters changed.

    Args:
        config: a configuration.
        values: {dotted name: value}.

    Raises:
        ParameterError: an unknown name, a wrong type, a value out of range.
    """
    known = {s.name: s for s in specs(type(config))}
    for name in values:
        if name not in known:
            raise ParameterError("unknown parameter", got=name, expected="one of " + ", ".join(sorted(known)))
    return _replace(config, {name: known[name].check(value) for name, value in values.items()})


def _replace(config: ConfigT, values: Mapping[str, Scalar]) -> ConfigT:
    here: dict[str, Any] = {n: v for n, v in values.items() if "." not in n}
    for name in {n.partition(".")[0] for n in values if "." in n}:
        inner = {n[len(name) + 1 :]: v for n, v in values.items() if n.startswith(name + ".")}
        here[name] = _replace(getattr(config, name), inner)
    return dataclasses.replace(config, **here)  # type: ignore[type-var]
