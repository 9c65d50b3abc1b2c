# SPDX-License-Identifier: Apache-2.0
"""Open3D for ray casting, also where the system has no libusb: its library comes from the wheel libusb-package.

Open3D's wheel links to libusb (for depth cameras, which are not used here) without bringing it.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

with suppress(ImportError, OSError):
    import libusb_package

    ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)

import open3d as o3d

__all__ = ["o3d"]
