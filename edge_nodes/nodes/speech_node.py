# SPDX-License-Identifier: Apache-2.0
"""speech_node: subscribes to audio with the type it is published with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.qos import QoSProfile, ReliabilityPolicy

from edge_nodes import graph
from edge_nodes.errors import EdgeNodesError
from edge_nodes.nodes.base import EdgeNode
from edge_nodes.nodes.messages import message_type
from edge_nodes.nodes.running import run
from edge_nodes.pipelines import audio
from edge_nodes.pipelines.speech import SpeechPipeline
from edge_nodes.speech import SpeechError

LOOK_S = 1.0


class SpeechNode(EdgeNode):
    """Turns speech into words; the type of `audio` is chosen while it runs."""

    def __init__(self, **node_options: Any) -> None:
        self._kind = audio.TYPES[0]
        self._info: Any = None
        self._timer: Any = None
        super().__init__(graph.NODES["speech_node"], **node_options)

    def load(self, progress: Callable[[str], None]) -> None:
        """Check that the messages of a type that is asked for are installed."""
        if self.config.audio_type != audio.AUTO:
            _class(self.config.audio_type)

    def start(self) -> None:
        """Choose the type of `audio`, and look again until there is some."""
        self._take(self._found())
        if self.config.audio_type == audio.AUTO:
            self._timer = self.create_timer(LOOK_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def stop(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self.destroy_timer(self._timer)
        if self._info is not None:
            self.destroy_subscription(self._info)
        self._timer = self._info = None

    def input_type(self, topic: str) -> Any:
        """Return the message class that a topic is subscribed with."""
        return _class(self._kind) if topic == "audio" else super().input_type(topic)

    def qos(self, topic: str) -> QoSProfile:
        """Return the QoS of this node's endpoints on a topic; other packages' capture nodes are best effort."""
        profile = super().qos(topic)
        if topic == "audio" and self._kind != audio.TYPES[0]:
            profile.reliability = ReliabilityPolicy.BEST_EFFORT
        return profile

    def qos_entity(self, topic: str) -> str | None:
        """Return a name of their own for the QoS parameters of another package's type."""
        return None if self._kind == audio.TYPES[0] else self._kind.partition("/")[2]

    def look(self) -> None:
        """Subscribe anew if audio is published, but with another type."""
        since = self.statistics.since_input_s()
        if self._lifecycle != "active" or (since is not None and since < 2 * LOOK_S):
            return
        found = self._found()
        if found != self._kind:
            for subscription in self._reader_subscriptions:
                self.destroy_subscription(subscription)
            self._take(found)
            self._reader_subscriptions = self.subscribe()

    def _found(self) -> str:
        """Return the type to subscribe with; the last one, and a report, if it cannot be."""
        name = self.resolve_topic_name("audio")
        published = [each.topic_type for each in self.get_publishers_info_by_topic(name)]
        try:
            kind = audio.choose(self.config.audio_type, published)
            _class(kind)
        except EdgeNodesError as error:
            self._bad(error.state, str(error))
            return self._kind
        return kind

    def _take(self, kind: str) -> None:
        self._kind = kind
        if isinstance(self.pipeline, SpeechPipeline):
            self.pipeline.audio_type = kind
        if audio.needs_info(kind) and self._info is None:
            profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._info = self.create_subscription(_class(audio.INFO_TYPE), audio.INFO_TOPIC, self._told, profile)

    def _told(self, info: Any) -> None:
        if isinstance(self.pipeline, SpeechPipeline):
            self.pipeline.audio_info = info


def _class(kind: str) -> Any:
    try:
        return message_type(kind)
    except (ImportError, AttributeError) as error:
        raise SpeechError(
            "the messages of the audio topic are not installed",
            got=f"{kind}: {error}",
            expected=f"the package audio_common_msgs that has it, or {audio.TYPES[0]}",
            remedy="Source the workspace with the capture node, or set the parameter audio_type.",
        ) from error


def main() -> None:
    """Run the node."""
    run(SpeechNode)


if __name__ == "__main__":
    main()
