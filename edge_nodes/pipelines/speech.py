# SPDX-License-Identifier: Apache-2.0
"""What speech_node does: `audio` in, partial and final words and their events out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edge_nodes import events
from edge_nodes.pipeline import Output, Pipeline, Progress
from edge_nodes.pipelines import audio
from edge_nodes.speech import SpeechConfig, SpeechError

if TYPE_CHECKING:
    from edge_nodes.speech import Recognizer, SpeechEvent

_TOPICS = {"partial": "speech/partial", "final": "speech/text"}


class SpeechPipeline(Pipeline[SpeechConfig]):
    """Recognises speech in a stream of audio messages.

    Attributes:
        audio_type: type of the messages, one of `audio.TYPES`.
        audio_info: the last audio_common_msgs/AudioInfo, None if there was none.
    """

    config_type = SpeechConfig

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__(config)
        self.audio_type = audio.TYPES[0]
        self.audio_info: Any = None
        self._loaded: Recognizer | None = None
        self._counts: Counter[str] = Counter()
        self._exits: Counter[int] = Counter()

    def load(self, progress: Progress) -> None:
        """Load the models; see `Pipeline.load`."""
        from edge_nodes.speech import Recognizer  # not above: microphone_node needs no torch

        self._loaded = Recognizer(self.config)
        self._loaded.load(progress)

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """Recognise what the message adds; its audio ends at `received_ns`, since the message has no stamp."""
        recognizer = self._recognizer()
        samples = audio.samples_of(message, self.config.sample_rate_hz, self.audio_type, self.audio_info)
        if not wanted:
            recognizer.drop()
            return
        partials = "speech/partial" in wanted or "speech/event" in wanted
        begin = time.perf_counter()
        for event in recognizer.feed(samples, received_ns, partials=partials, waited_s=self.waited_s):
            now = time.perf_counter()
            yield from self._outputs(event, received_ns, 1e3 * (now - begin), wanted)

    def update(self, config: SpeechConfig) -> None:
        """Take changed run-time parameters."""
        super().update(config)
        if self._loaded is not None:
            self._loaded.config = config

    def status(self) -> Mapping[str, str | int | float]:
        """Return the model, how many utterances there were, and at which layers they were read."""
        if self._loaded is None:
            return {}
        model = self._loaded.model
        exits = {f"final at layer {n}": self._exits[n] for n in model.exits}
        return {
            "model": model.name,
            "device": self.config.device,
            "audio type": self.audio_type,
            "utterances": self._counts["final"],
            "utterances without words": self._counts["empty"],
            **exits,
        }

    def close(self) -> None:
        """Free the models."""
        self._loaded = None

    def _recognizer(self) -> Recognizer:
        if self._loaded is None:
            raise SpeechError("the speech pipeline is not loaded", remedy="Call load() first.")
        return self._loaded

    def _outputs(
        self, event: SpeechEvent, received_ns: int, total_ms: float, wanted: Collection[str]
    ) -> Iterator[Output]:
        if event.kind == "final":
            self._counts["final"] += 1
            self._counts["empty"] += not event.text
            self._exits[event.layer] += 1
        if (topic := _TOPICS.get(event.kind, "")) in wanted:
            yield Output(topic, {"data": event.text})
        sequence = self._counts["events"]
        self._counts["events"] += 1
        if "speech/event" in wanted:
            yield Output("speech/event", {"data": events.encode(_json(event, received_ns, total_ms, sequence))})


def _json(event: SpeechEvent, received_ns: int, total_ms: float, sequence: int) -> dict[str, Any]:
    cost = {name: value for name, value in event.cost.items() if name.endswith("_ms") and name != "audio_ms"}
    fields: dict[str, Any] = {
        "schema": "edge_nodes/speech/1",
        "stamp_ns": received_ns,
        "sequence": sequence,
        "latency_ms": {**cost, "total_ms": round(total_ms, 2)},
        "kind": event.kind,
        "text": event.text,
        "start_ns": event.start_ns,
        "end_ns": event.end_ns,
    }
    if event.kind != "start":
        fields["exit"] = {"layer": event.layer, "of": event.layers, "policy": event.policy}
        fields["confidence"] = round(event.confidence, 4)
        fields["cost"] = dict(event.cost)
    if event.kind == "final":
        fields["replaces"] = event.replaces
    return fields
