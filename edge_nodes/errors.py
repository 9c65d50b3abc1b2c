# SPDX-License-Identifier: Apache-2.0
"""Errors of the package: each says what failed, what was got, what was expected and the remedy."""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """State codes that nodes report in /diagnostics."""

    OK = "OK"
    MODEL_MISSING = "MODEL_MISSING"
    MODEL_BAD = "MODEL_BAD"
    NO_DEVICE = "NO_DEVICE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BAD_INPUT = "BAD_INPUT"
    QOS = "QOS"
    STALE_INPUT = "STALE_INPUT"
    NO_TF = "NO_TF"
    OVERLOADED = "OVERLOADED"


class EdgeNodesError(Exception):
    """Base of every error the package raises on purpose.

    Args:
        what: what went wrong, one clause.
        got: the offending value, if there is one.
        expected: what would have been accepted.
        remedy: what the user can do about it.
        state: the diagnostics code a node reports for it.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: str = "", remedy: str = "", state: State = State.BAD_INPUT
    ) -> None:
        self.what, self.got, self.expected, self.remedy, self.state = what, got, expected, remedy, state
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if expected:
            parts.append(f"expected {expected}")
        super().__init__("; ".join(parts) + (f". {remedy}" if remedy else ""))


class ParameterError(EdgeNodesError, ValueError):
    """A parameter has the wrong type or is outside its range."""


class ModelError(EdgeNodesError):
    """A model file is missing (MODEL_MISSING) or not what its manifest says (MODEL_BAD)."""
