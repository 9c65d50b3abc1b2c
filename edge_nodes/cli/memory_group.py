# SPDX-License-Identifier: Apache-2.0
"""Control groups that limit and measure the memory of a process, its page cache included (cgroup v2, or v1)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PATIENCE_S = 10.0  # with killed processes
_FILES = {  # version: directory of groups; limit, peak and usage of a group
    2: (ROOT, "memory.max", "memory.peak", "memory.current"),
    1: (ROOT / "memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.usage_in_bytes"),
}


@dataclass(frozen=True)
class MemoryGroup:
    """A control group.

    Attributes:
        folder: its directory.
        version: of the interface, 1 or 2.
    """

    folder: Path
    version: int

    @contextmanager
    def hosting(self) -> Iterator[None]:
        """Processes that are started meanwhile belong to the group, with all of their memory."""
        resource_tracker.ensure_running()  # outlives the group: not within it
        before = self._own()
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (before / "cgroup.procs").write_text(str(os.getpid()))

    def _own(self) -> Path:
        """Return the directory of this process's group."""
        root = _FILES[self.version][0]
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" if self.version == 2 else "memory" in controllers.split(","):
                return root / path.lstrip("/")
        return root

    def peak_bytes(self) -> int:
        """Return the most memory that the group has held."""
        return int((self.folder / _FILES[self.version][2]).read_text())

    def clear_peak(self) -> None:
        """Let the peak begin anew; cgroup v2 cannot for all readers, there it counts from the start."""
        if self.version == 1:
            (self.folder / _FILES[self.version][2]).write_text("0")

    def held_bytes(self) -> int:
        """Return the memory that the group holds now."""
        return int((self.folder / _FILES[self.version][3]).read_text())


@contextmanager
def memory_group(limit_bytes: int = 0) -> Iterator[MemoryGroup | None]:
    """Make a group of at most `limit_bytes` (0: no limit) and remove it; None where this is not permitted.

    Processes that are still in it then, as after an error, are killed.
    """
    group = _make(limit_bytes)
    try:
        yield group
    finally:
        if group is not None:
            _remove(group)


def _remove(group: MemoryGroup) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            group.folder.rmdir()
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
        for pid in (group.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)


def _make(limit_bytes: int) -> MemoryGroup | None:
    for version, (root, limit, peak, _) in _FILES.items():
        folder = root / f"edge_nodes-{uuid.uuid4().hex[:12]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if not (folder / peak).exists():
                raise OSError("no memory controller")
            if limit_bytes:
                (folder / limit).write_text(str(limit_bytes))
        except OSError:
            folder.rmdir()
            continue
        return MemoryGroup(folder, version)
    return None
