# SPDX-License-Identifier: Apache-2.0
"""Streaming recognition: audio chunks in, speech events out while the person still speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.config import SpeechConfig
from edge_nodes.speech.errors import SpeechError
from edge_nodes.speech.exits import Leave, cheapest, policy
from edge_nodes.speech.features import RATE_HZ
from edge_nodes.speech.model import Hypothesis, SpeechModel
from edge_nodes.speech.vad import CHUNK, Segmenter, SileroVad

_GAP_NS = 500_000_000
_QUIET_WINDOW = RATE_HZ // 10


@dataclass(frozen=True)
class SpeechEvent:
    """Something that happened in the audio.

    Attributes:
        kind: "start" of speech, "partial" text so far, "final" text (empty if the speech held no words).
        text: the words; empty at the start.
        start_ns: start of the speech segment.
        end_ns: end of the audio the text is from; of the speech, when final.
        layer, layers: encoder layer the text was read from (from 1) and how many there are; 0 at the start.
        policy: "fixed", "confidence", or "cheapest" for partials; empty at the start.
        confidence: 0..1.
        cost: see `Hypothesis.cost`.
    """

    kind: Literal["start", "partial", "final"]
    text: str
    start_ns: int
    end_ns: int
    layer: int = 0
    layers: int = 0
    policy: str = ""
    confidence: float = 0.0
    cost: Mapping[str, float] = field(default_factory=dict)


class Recognizer:
    """Finds speech in a stream of audio and recognises it.

    Args:
        config: see `SpeechConfig`; assign to `config` to change run-time parameters.
    """

    def __init__(self, config: SpeechConfig) -> None:
        self.config = config
        self._model: SpeechModel | None = None
        self._vad: SileroVad | None = None
        self._forget()

    @property
    def loaded(self) -> bool:
        """Whether `load` has been called."""
        return self._model is not None

    @property
    def model(self) -> SpeechModel:
        """The loaded model.

        Raises:
            SpeechError: `load` has not been called.
        """
        if self._model is None:
            raise SpeechError("the speech model is not loaded", remedy="Call load() first.")
        return self._model

    def load(self, progress: Callable[[str], None] = lambda line: None) -> None:
        """Load the models and run them once, so that the first utterance is as fast as the others.

        Raises:
            ModelError: the model is missing or bad.
            SpeechError: another rate than 16 kHz, or no such device.
        """
        config = self.config
        if config.sample_rate_hz != RATE_HZ:
            raise SpeechError(
                "the speech model takes 16 kHz audio only",
                got=f"sample_rate_hz = {config.sample_rate_hz}",
                expected=str(RATE_HZ),
                remedy="Publish 16 kHz audio and leave the parameter sample_rate_hz at 16000.",
            )
        progress(f"speech: loading {config.model} on {config.device}")
        self._model = SpeechModel(config.model, device=config.device, threads=config.threads)
        progress("speech: loading the voice activity model")
        self._vad = SileroVad()
        self._model.recognise(np.zeros(RATE_HZ, np.float32), lambda layer, reading: False)
        self._vad(np.zeros(CHUNK, np.float32))
        self._vad.reset()
        progress(f"speech: ready, {self._model.layers} exits")

    def feed(self, samples: NDArray[np.int16], end_ns: int, *, partials: bool = True) -> Iterator[SpeechEvent]:
        """Take the next audio; yield each event as soon as it is known.

        Args:
            samples: (n,) int16, 16 kHz mono.
            end_ns: time at which the last sample was heard.
            partials: whether to spend time on partial texts.

        Raises:
            SpeechError: `load` has not been called.
        """
        model, vad = self.model, self._vad
        assert vad is not None
        begin_ns = end_ns - _ns(len(samples))
        if self._samples and abs(begin_ns - self._time(self._samples)) > _GAP_NS:
            yield from self.flush()
        self._anchor = (self._samples + len(samples), end_ns)
        self._samples += len(samples)
        self._audio = np.concatenate([self._audio, samples.astype(np.float32) / 32768.0])
        self._segmenter.config = self.config.vad
        while self._samples - self._done >= CHUNK:
            offset = self._done - self._first
            probability = vad(self._audio[offset : offset + CHUNK])
            self._done += CHUNK
            for edge in self._segmenter.feed(probability):
                if edge.starts:
                    self._start = max(self._first, edge.sample - self._pad())
                    self._partial_at = self._done
                    yield SpeechEvent("start", "", self._time(self._start), self._time(self._done))
                else:
                    yield self._final(min(self._done, edge.sample + self._pad()), self._time(edge.sample))
            if self._segmenter.speaking:
                yield from self._while_speaking(model, partials)
        self._drop_old()

    def flush(self) -> Iterator[SpeechEvent]:
        """End the stream: yield the final text of an open segment and start anew."""
        if self._segmenter.speaking:
            yield self._final(self._done, self._time(self._done))
        self.drop()

    def drop(self) -> None:
        """Forget what was heard; an open segment has no final text."""
        if not self._samples:
            return
        self._forget()
        if self._vad is not None:
            self._vad.reset()

    def close(self) -> None:
        """Free the models."""
        self._model = self._vad = None
        self._forget()

    def _forget(self) -> None:
        self._audio: NDArray[np.float32] = np.zeros(0, np.float32)
        self._first: int = 0  # number of the first sample in _audio
        self._samples: int = 0  # samples fed
        self._done: int = 0  # samples the VAD has seen
        self._anchor: tuple[int, int] = (0, 0)  # a sample's number and its time
        self._start: int = 0
        self._partial_at: int = 0
        self._segmenter: Segmenter = Segmenter(self.config.vad)

    def _while_speaking(self, model: SpeechModel, partials: bool) -> Iterator[SpeechEvent]:
        if self._done - self._start >= self.config.max_segment_s * RATE_HZ:
            cut = self._quietest()
            yield self._final(cut, self._time(cut))
            self._start = self._partial_at = cut
            yield SpeechEvent("start", "", self._time(cut), self._time(self._done))
        interval = self.config.partial_interval_ms * RATE_HZ // 1000
        # Partials of audio that has already been waiting would only delay the newer one.
        behind = self._samples - self._done >= max(interval, CHUNK)
        if partials and interval and not behind and self._done - self._partial_at >= interval:
            self._partial_at = self._done
            yield self._event("partial", self._done, self._time(self._done), cheapest, "cheapest")

    def _final(self, stop: int, end_ns: int) -> SpeechEvent:
        exits = self.config.exit
        return self._event("final", stop, end_ns, policy(exits, self.model.layers), exits.policy)

    def _event(self, kind: Literal["partial", "final"], stop: int, end_ns: int, leave: Leave, name: str) -> SpeechEvent:
        audio = self._audio[self._start - self._first : stop - self._first]
        heard: Hypothesis = self.model.recognise(audio, leave)
        return SpeechEvent(
            kind,
            heard.text,
            self._time(self._start),
            end_ns,
            heard.layer,
            heard.layers,
            name,
            heard.confidence,
            heard.cost,
        )

    def _quietest(self) -> int:
        """Return the middle of the quietest 100 ms in the second half of the open segment."""
        half = (self._start + self._done) // 2
        power = self._audio[half - self._first : self._done - self._first] ** 2
        sums = np.convolve(power, np.ones(_QUIET_WINDOW), "valid")
        return half + int(sums.argmin()) + _QUIET_WINDOW // 2

    def _drop_old(self) -> None:
        """Keep the open segment, else what a segment that starts now could reach back to."""
        vad = self.config.vad
        reach = self._pad() + vad.speech_ms * RATE_HZ // 1000 + 2 * CHUNK
        keep = self._start if self._segmenter.speaking else self._done - reach
        if keep > self._first:
            self._audio = self._audio[keep - self._first :]
            self._first = keep

    def _pad(self) -> int:
        return self.config.vad.pad_ms * RATE_HZ // 1000

    def _time(self, sample: int) -> int:
        number, time_ns = self._anchor
        return time_ns - _ns(number - sample)


def _ns(samples: int) -> int:
    return samples * 1_000_000_000 // RATE_HZ
