# SPDX-License-Identifier: Apache-2.0
"""Memory that the C library holds back after much was freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Return free memory of the heap to the system, where the C library can (glibc); takes milliseconds."""
    with suppress(AttributeError, OSError):  # musl and macOS have no such call
        ctypes.CDLL(None).malloc_trim(0)
