# SPDX-License-Identifier: Apache-2.0
"""Writing bags: one MCAP file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.rosbag2.enums import CompressionMode
from rosbags.rosbag2.storage_mcap import McapWriter

from edge_nodes.bags.errors import BagError
from edge_nodes.bags.messages import full_type, typestore

CHUNK_BYTES = 8 << 20


class _LargeChunks(McapWriter):
    """MCAP storage whose chunks hold many clouds, so that a standing background is stored once a chunk."""

    chunk_bytes = CHUNK_BYTES
    closing = False

    def close_chunk(self) -> None:
        if self.closing or self.chunk.bio.tell() >= self.chunk_bytes:
            super().close_chunk()

    def close(self, version: int, metadata: str) -> None:
        self.closing = True
        super().close(version, metadata)


class _Storage(Rosbag2Writer):
    STORAGE_PLUGINS = {**Rosbag2Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: _LargeChunks}  # noqa: RUF012


class BagWriter:
    """Writes one .mcap file, which appears under its name when it is complete.

    Args:
        path: the file; one of that name is replaced.
        chunk_bytes: size of a chunk before compression.
        compressor: bytes to a zstd frame; the default is zstd's default level.

    Raises:
        BagError: the directory cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        chunk_bytes: int = CHUNK_BYTES,
        compressor: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix != ".mcap":
            raise BagError("the result must be an .mcap file", got=self.path.name)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.path.parent))
        except OSError as error:
            raise BagError("the directory cannot be written", got=f"{self.path.parent}: {error.strerror}") from None
        self._writer = _Storage(self._folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
        # rosbags writes MCAP chunks compressed in this mode only.
        self._writer.compression_mode = CompressionMode.STORAGE
        self._writer.open()
        storage = self._writer.storage
        assert isinstance(storage, _LargeChunks)
        storage.chunk_bytes = chunk_bytes
        if compressor:
            storage.compressor = compressor
        self._connections: dict[str, Connection] = {}

    def write(self, topic: str, type_name: str, time_ns: int, data: bytes) -> None:
        """Append one message; a topic is declared by its first one.

        Args:
            topic: full name, e.g. "/points".
            type_name: "package/Name", a type of `typestore()`.
            time_ns: time of recording.
            data: CDR bytes.
        """
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, full_type(type_name), typestore=typestore())
        self._writer.write(self._connections[topic], time_ns, data)

    def close(self) -> None:
        """Finish the file and put it in its place."""
        self._writer.close()
        (self._folder / "bag" / "bag.mcap").replace(self.path)
        shutil.rmtree(self._folder)

    def discard(self) -> None:
        """Throw away what was written."""
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
