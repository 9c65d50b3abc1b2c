# SPDX-License-Identifier: Apache-2.0
"""What the C library does with memory that was freed: give it back to the system, or keep it for the next time."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES = 256 << 20


def give_back() -> None:
    """Return free memory of the heap to the system, where the C library can (glibc); takes milliseconds."""
    with suppress(AttributeError, OSError):  # musl and macOS have no such call
        ctypes.CDLL(None).malloc_trim(0)


def keep() -> None:
    """Let the process keep up to 256 MB that it freed, where the C library can (glibc).

    A network's maps are megabytes large. By default each is taken from the system, page by page and cleared, and
    given back once the next layer has read it; that may take a third of a network's time.
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
