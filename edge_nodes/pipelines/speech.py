# SPDX-License-Identifier: Apache-2.0
"""What speech_node does: `audio` in, partial and final words and their events out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_nodes import events
from edge_nodes.pipeline import Output, Pipeline, Progress
from edge_nodes.speech import SpeechConfig, SpeechError

if TYPE_CHECKING:
    from edge_nodes.speech import Recognizer, SpeechEvent

_TOPICS = {"partial": "speech/partial", "final": "speech/text"}


class SpeechPipeline(Pipeline[SpeechConfig]):
    """Recognises speech in a stream of audio messages."""

    config_type = SpeechConfig

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__(config)
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
        samples = samples_of(message, self.config.sample_rate_hz)
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


def samples_of(message: Any, rate_hz: int) -> NDArray[np.int16]:
    """Return the samples of a std_msgs/Int16MultiArray, (n,) int16.

    The layout may hold the dimensions "samples" (size n), "channels" (size 1) and "rate_hz" (size: the rate); what it
    does not hold is taken to be right.

    Raises:
        SpeechError: samples of another type, another rate or channel count, sizes that do not fit the data.
    """
    samples = _int16(message.data)
    layout = getattr(message, "layout", None)
    sizes = {dim.label: int(dim.size) for dim in layout.dim} if layout is not None else {}
    if (rate := sizes.get("rate_hz", rate_hz)) != rate_hz:
        raise SpeechError(
            "audio has another rate than the node was told",
            got=f"{rate} Hz",
            expected=f"{rate_hz} Hz",
            remedy="Set the source's rate to that, e.g. the parameter rate_hz of microphone_node.",
        )
    if (channels := sizes.get("channels", 1)) != 1:
        raise SpeechError(
            "audio has more than one channel",
            got=channels,
            expected="1",
            remedy="Publish one channel; microphone_node does.",
        )
    offset = int(getattr(layout, "data_offset", 0) or 0)
    count = sizes.get("samples", len(samples) - offset)
    if offset + count > len(samples):
        raise SpeechError(
            "an audio message is truncated", got=f"{len(samples)} samples", expected=f"{offset + count} samples"
        )
    return samples[offset : offset + count]


def audio_fields(block: NDArray[np.int16], rate_hz: int) -> dict[str, Any]:
    """Return the fields of the std_msgs/Int16MultiArray for one channel of samples, (n,) int16."""
    sizes = {"samples": len(block), "channels": 1, "rate_hz": rate_hz}
    dim = [{"label": label, "size": size, "stride": size} for label, size in sizes.items()]
    return {"layout": {"dim": dim, "data_offset": 0}, "data": block}


def _int16(data: Any) -> NDArray[np.int16]:
    if isinstance(data, bytes | bytearray | memoryview):
        raise SpeechError("audio is not of type Int16MultiArray", got=type(data).__name__, expected="int16 samples")
    try:
        samples = np.asarray(data)
    except ValueError:
        samples = np.array([data], object)
    exact = samples.dtype == np.int16
    # A list from a test or another client: integers that fit are as good.
    fits = samples.size == 0 or (samples.dtype.kind in "iu" and samples.min() >= -32768 and samples.max() <= 32767)
    if samples.ndim != 1 or not (exact or (isinstance(data, list | tuple) and fits)):
        raise SpeechError(
            "audio is not of type Int16MultiArray",
            got=f"{samples.dtype} of shape {samples.shape}",
            expected="int16 samples, one channel",
            remedy="Publish std_msgs/Int16MultiArray.",
        )
    return samples.astype(np.int16, copy=False)


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
