# SPDX-License-Identifier: Apache-2.0
"""Bags without ROS: read MCAP files and rosbag2 directories, write single MCAP files, make messages from fields.

Files and message types are the work of `rosbags`; what is here is how this package uses it.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from mcap.exceptions import McapError
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection, Nodetype
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.rosbag2.enums import CompressionMode
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from edge_nodes import graph
from edge_nodes.errors import EdgeNodesError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "BagError",
    "BagReader",
    "BagTopic",
    "BagWriter",
    "RawMessage",
    "build_message",
    "full_type",
    "long_window",
    "map_topics",
    "serialize",
    "short_type",
    "topics_of_type",
    "typestore",
]

CHUNK_BYTES = 8 << 20
_UNREADABLE = (
    McapError,
    zstandard.ZstdError,
    zstd.ZstdError,
    struct.error,
    AnyReaderError,
    OSError,
    ValueError,
    AssertionError,
    IndexError,
    KeyError,
    TypeError,
    RuntimeError,
    EOFError,
)


class BagError(EdgeNodesError):
    """A bag is missing, damaged or empty, or a message does not fit its type."""


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag.

    Attributes:
        name: as recorded, e.g. "/lidar/points".
        type: "package/Name".
        count: number of messages.
        definition: the message definition in the bag, empty if it has none.
    """

    name: str
    type: str
    count: int
    definition: str = ""


@dataclass(frozen=True)
class RawMessage:
    """One recorded message.

    Attributes:
        topic: as recorded.
        type: "package/Name".
        time_ns: time of recording.
        data: CDR bytes, encapsulation header included.
    """

    topic: str
    type: str
    time_ns: int
    data: bytes


def full_type(name: str) -> str:
    """Return "package/msg/Name" of "package/Name"; full names stay as they are."""
    parts = name.split("/")
    return name if len(parts) == 3 else f"{parts[0]}/msg/{parts[-1]}"


def short_type(name: str) -> str:
    """Return "package/Name" of "package/msg/Name"."""
    parts = name.split("/")
    return f"{parts[0]}/{parts[-1]}"


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Return the message types of the reference distribution."""
    return get_typestore(Stores.ROS2_JAZZY)


class BagReader:
    """An open bag: an .mcap or .db3 file, or a rosbag2 directory.

    Args:
        path: the bag.

    Raises:
        BagError: there is none, it is damaged, or it holds no message.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise BagError("there is no such bag", got=self.path, remedy="Check the path.")
        if self.path.is_file() and self.path.suffix not in (".mcap", ".db3"):
            raise BagError("not a ROS 2 bag", got=self.path.name, expected="an .mcap or .db3 file, or a directory")
        try:
            self._reader = AnyReader([self.path], default_typestore=typestore())
            self._reader.open()
        except FileNotFoundError:
            raise BagError(
                "not a ROS 2 bag", got=self.path, expected="a directory with metadata.yaml, or an .mcap file"
            ) from None
        except _UNREADABLE as error:
            raise self._damaged(error) from None
        if not self._reader.message_count:
            self._reader.close()
            raise BagError("the bag holds no messages", got=self.path)

    @property
    def topics(self) -> dict[str, BagTopic]:
        """The topics by recorded name."""
        found: dict[str, BagTopic] = {}
        for c in self._reader.connections:
            count = c.msgcount + (found[c.topic].count if c.topic in found else 0)
            found[c.topic] = BagTopic(c.topic, short_type(c.msgtype), count, c.msgdef.data)
        return found

    @property
    def start_ns(self) -> int:
        """Time of the first message."""
        return int(self._reader.start_time)

    @property
    def end_ns(self) -> int:
        """Time of the last message."""
        return int(self._reader.end_time) - 1

    def messages(
        self, topics: Collection[str] = (), *, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Yield messages in the order of their times.

        Args:
            topics: recorded names; empty for all.
            start_ns: first time.
            stop_ns: end, exclusive.

        Raises:
            BagError: the bag is damaged from here on.
        """
        chosen = [c for c in self._reader.connections if not topics or c.topic in topics]
        if not chosen:
            return
        read = self._read_file if self.path.suffix == ".mcap" else self._read_any
        try:
            yield from read(chosen, start_ns, stop_ns)
        except _UNREADABLE as error:
            raise self._damaged(error) from None

    def _read_any(self, chosen: list[Connection], start_ns: int | None, stop_ns: int | None) -> Iterator[RawMessage]:
        for connection, time, data in self._reader.messages(chosen, start_ns, stop_ns):
            yield RawMessage(connection.topic, short_type(connection.msgtype), time, bytes(data))

    def _read_file(self, chosen: list[Connection], start_ns: int | None, stop_ns: int | None) -> Iterator[RawMessage]:
        """Read as `_read_any` does, with `mcap`: it needs a third of the memory and time where chunks are large."""
        with self.path.open("rb") as file:
            found = make_reader(file).iter_messages(
                [c.topic for c in chosen], starting_at=start_ns, ending_before=stop_ns
            )
            for schema, channel, message in found:
                yield RawMessage(
                    channel.topic, short_type(schema.name if schema else ""), message.log_time, message.data
                )

    def deserialize(self, message: RawMessage) -> Any:
        """Return the message as a `rosbags` dataclass with numpy arrays.

        Raises:
            BagError: the bytes do not fit the type.
        """
        try:
            return self._reader.deserialize(message.data, full_type(message.type))
        except _UNREADABLE as error:
            raise BagError(
                f"a message on {message.topic} does not fit {message.type}", got=str(error) or type(error).__name__
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _damaged(self, error: Exception) -> BagError:
        return BagError(
            "the bag is damaged or was not closed",
            got=f"{self.path}: {error or type(error).__name__}",
            remedy="Record it again, or repair it with `mcap recover`.",
        )


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


def build_message(types: Typestore, type_name: str, fields: Mapping[str, Any]) -> Any:
    """Return a `rosbags` message from a pipeline's fields.

    Args:
        types: the message types.
        type_name: "package/Name".
        fields: nested messages as mappings, arrays of messages as sequences of mappings, arrays of numbers as numpy
            arrays or sequences; what is left out gets the message's defaults.

    Raises:
        BagError: an unknown type or field, or a value that does not fit.
    """
    name = full_type(type_name)
    if name not in types.fielddefs:
        raise BagError("unknown message type", got=type_name, expected="a type of ROS 2's common interfaces")
    definitions = types.fielddefs[name][1]
    if unknown := set(fields) - {field for field, _ in definitions}:
        raise BagError(f"{type_name} has no such field", got=", ".join(sorted(unknown)))
    values = {field: _field(types, name, field, definition, fields.get(field)) for field, definition in definitions}
    return types.types[name](**values)


def _field(types: Typestore, owner: str, field: str, definition: tuple[Nodetype, Any], value: Any) -> Any:
    kind, detail = definition
    try:
        return _default(types, kind, detail, owner, field) if value is None else _value(types, kind, detail, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BagError(f"field {field} of {short_type(owner)} has a value that does not fit", got=str(error)) from None


def serialize(type_name: str, fields: Mapping[str, Any]) -> bytes:
    """Return the CDR bytes of a message made from a pipeline's fields; see `build_message`."""
    try:
        return bytes(typestore().serialize_cdr(build_message(typestore(), type_name, fields), full_type(type_name)))
    except SerdeError as error:
        raise BagError(f"{type_name} cannot be serialised", got=str(error)) from None


def _value(types: Typestore, kind: Nodetype, detail: Any, value: Any) -> Any:
    if kind == Nodetype.NAME:
        return build_message(types, detail, value)
    if kind == Nodetype.BASE:
        return _scalar(detail[0], value)
    (element, element_detail), length = detail
    if element == Nodetype.NAME:
        return [build_message(types, element_detail, item) for item in value]
    if element_detail[0] == "string":
        return [str(item) for item in value]
    array = _numbers(element_detail[0], value)
    if kind == Nodetype.ARRAY and array.size != length:
        raise ValueError(f"{array.size} numbers, expected {length}")
    return array


def _numbers(base: str, value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return np.frombuffer(value, dtype=_dtype(base))
    # Arrays of messages are flat; bytes of another dtype (an image's data) are taken as they lie in memory.
    array = np.ascontiguousarray(value).reshape(-1)
    if base == "uint8" and array.dtype != np.uint8 and array.dtype.itemsize > 1 and isinstance(value, np.ndarray):
        return array.view(np.uint8)
    return array.astype(_dtype(base), copy=False)


def _scalar(base: str, value: Any) -> Any:
    if base == "string":
        return str(value)
    if base == "bool":
        return bool(value)
    if base.startswith("float"):
        return float(value)
    number = int(value)
    info = np.iinfo(_dtype(base))
    if not info.min <= number <= info.max:
        raise ValueError(f"{number}, expected {base}")
    return number


def _dtype(base: str) -> np.dtype[Any]:
    return np.dtype({"bool": "bool", "octet": "uint8", "byte": "uint8", "char": "uint8"}.get(base, base))


def _default(types: Typestore, kind: Nodetype, detail: Any, owner: str, field: str) -> Any:
    if kind == Nodetype.NAME:
        return build_message(types, detail, {})
    if kind == Nodetype.BASE:
        if detail[0] == "string":
            return ""
        # The one default other than zero in the common interfaces.
        return _scalar(detail[0], int((owner, field) == ("geometry_msgs/msg/Quaternion", "w")))
    (element, element_detail), length = detail
    size = length if kind == Nodetype.ARRAY else 0
    if element == Nodetype.NAME:
        return [build_message(types, element_detail, {}) for _ in range(size)]
    if element_detail[0] == "string":
        return [""] * size
    return np.zeros(size, dtype=_dtype(element_detail[0]))


def topics_of_type(topics: Mapping[str, BagTopic], type_name: str) -> Sequence[str]:
    """Return the names of the topics that carry a type."""
    return [t.name for t in topics.values() if t.type == type_name]


def map_topics(recorded: Mapping[str, BagTopic], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return {recorded name: topic of the graph} for the topics of a bag that the graph knows.

    A name that is the graph's own needs no mention; neither does the bag's only topic of the type of `points` or
    `audio`, whatever it is called.

    Args:
        recorded: the bag's topics.
        chosen: {topic of the graph: recorded name}, e.g. {"points": "/lidar/points"}.

    Raises:
        BagError: an unknown topic on either side, a wrong type, or nothing that the graph reads.
    """
    found = {name: name.lstrip("/") for name, topic in recorded.items() if _carries(topic, name.lstrip("/"))}
    for topic, wanted in chosen.items():
        name = wanted if wanted in recorded else "/" + wanted.lstrip("/")
        if topic not in graph.TOPICS:
            raise BagError("the graph has no such topic", got=topic, expected="one of " + ", ".join(graph.TOPICS))
        if name not in recorded:
            raise BagError("the bag has no such topic", got=name, expected="one of " + ", ".join(recorded))
        if not _carries(recorded[name], topic):
            raise BagError(f"{name} is no {topic}", got=recorded[name].type, expected=graph.TOPICS[topic].type)
        found = {n: t for n, t in found.items() if t != topic} | {name: topic}
    for topic in ("points", "audio"):
        others = topics_of_type(recorded, graph.TOPICS[topic].type)
        if topic not in found.values() and len(others) == 1:
            found[others[0]] = topic
    if not found:
        kinds = ", ".join(f"{n} ({t.type})" for n, t in recorded.items())
        raise BagError(
            "the bag has no topic that the graph reads",
            got=kinds,
            expected="points (sensor_msgs/PointCloud2) or audio (std_msgs/Int16MultiArray)",
            remedy="Name it: --topic points:=/its/name",
        )
    return found


def _carries(topic: BagTopic, name: str) -> bool:
    return name in graph.TOPICS and graph.TOPICS[name].type == topic.type
