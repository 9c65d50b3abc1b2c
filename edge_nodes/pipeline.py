# SPDX-License-Identifier: Apache-2.0
"""What a node does to its messages, with no ROS in it.

The same pipelines run inside the ROS nodes and in `edge-nodes replay --out`. A pipeline gets any object with the
attributes of the message (an rclpy message, or one that `rosbags` read) and yields `Output`s: a topic and the
message's fields as plain Python values and numpy arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from edge_nodes.errors import EdgeNodesError

ConfigT = TypeVar("ConfigT")
Progress = Callable[[str], None]


class Output(NamedTuple):
    """One message to publish.

    Attributes:
        topic: relative topic name, as in `graph.py`.
        fields: the message's fields; nested messages are dicts, arrays of messages lists of dicts, arrays of
            numbers numpy arrays. Fields left out keep the message's defaults.
    """

    topic: str
    fields: Mapping[str, Any]


class Pipeline(ABC, Generic[ConfigT]):
    """One node's work.

    Attributes:
        config_type: the frozen dataclass of its parameters.
        early: input topics whose messages `arrived` sees.
        updates_at_once: `update` may be called while `process` runs, so that `arrived` sees new parameters, too.
        waited_s: how long the message that `process` is given waited in the node's queue.
    """

    config_type: ClassVar[type]
    early: ClassVar[Collection[str]] = ()
    updates_at_once: ClassVar[bool] = False
    waited_s: float = 0.0

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def load(self, progress: Progress) -> None:
        """Load models and allocate memory; called once, before the first message.

        Args:
            progress: called with one line of text at each step.

        Raises:
            EdgeNodesError: the model is missing or bad, or there is no such device.
        """

    @abstractmethod
    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """Handle one message; yield outputs as soon as each is ready.

        Args:
            topic: relative name of the input topic.
            message: the message.
            received_ns: arrival time on the node's clock (simulated time in replay), ns.
            wanted: output topics that somebody reads; work for others alone is left out.

        Raises:
            EdgeNodesError: the message is unusable; nothing of the pipeline's state is lost.
        """

    def arrived(self, topic: str, message: Any, *, received_ns: int) -> bool:
        """See a message of an `early` topic the moment it arrives, on another thread than `process`; return at once.

        A pipeline that reacts while it is busy (barge-in, newest scene) overrides this.

        Returns:
            True if the message is dealt with and need not be queued for `process`.
        """
        return False

    def reads(self, topic: str) -> bool:
        """Return whether an input is of use with this configuration; one that is not is not subscribed to."""
        return True

    def update(self, config: ConfigT) -> None:
        """Take changed run-time parameters; takes effect with the next message."""
        self.config = config

    def interrupt(self) -> None:
        """Ask a running `process` to stop early. Called from another thread."""

    def call(self, service: str) -> str:
        """Do what a service of the node asks; called from another thread than `process`, must return at once.

        Args:
            service: relative name of the service, as in `graph.py`.

        Returns:
            what was done, in a few words.

        Raises:
            EdgeNodesError: it cannot be done.
        """
        raise EdgeNodesError("no such service", got=service)

    def status(self) -> Mapping[str, str | int | float]:
        """Return what /diagnostics shows beside the common figures (model, device, method counters)."""
        return {}

    def close(self) -> None:
        """Free models and memory; `load` may be called again afterwards."""


def stamp(time_ns: int) -> dict[str, int]:
    """Return the fields of builtin_interfaces/Time."""
    return {"sec": time_ns // 1_000_000_000, "nanosec": time_ns % 1_000_000_000}


def stamp_ns(time: Any) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def header(time_ns: int, frame_id: str) -> dict[str, Any]:
    """Return the fields of std_msgs/Header."""
    return {"stamp": stamp(time_ns), "frame_id": frame_id}
