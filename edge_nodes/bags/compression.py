# SPDX-License-Identifier: Apache-2.0
"""Zstandard, which Python has from 3.14 on, and a compressor for large chunks."""

from __future__ import annotations

import sys
from collections.abc import Callable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["long_window", "zstd"]


def long_window(level: int) -> Callable[[bytes], bytes]:
    """Return a compressor for large chunks in which scans repeat: zstd with a window over the whole chunk.

    Args:
        level: of zstd, 1 to 22. The window stays within the 128 MiB that every decoder accepts.
    """
    parameter = zstd.CompressionParameter

    def compress(data: bytes) -> bytes:
        options: dict[int, int] = {
            parameter.compression_level: level,
            parameter.window_log: min(27, max(20, (len(data) - 1).bit_length())),
            parameter.enable_long_distance_matching: 1,
            parameter.checksum_flag: 0,
        }
        return bytes(zstd.compress(data, options=options))

    return compress
