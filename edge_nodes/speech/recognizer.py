# SPDX-License-Identifier: Apache-2.0
"""Streaming recognition: audio chunks in, speech events out while the person still speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_nodes import heap
from edge_nodes.speech.config import ExitConfig, SpeechConfig
from edge_nodes.speech.errors import SpeechError
from edge_nodes.speech.exits import Circumstances, policy
from edge_nodes.speech.features import RATE_HZ
from edge_nodes.speech.lexicon import Lexicon
from edge_nodes.speech.model import ExitModel, Hypothesis, SpeechModel
from edge_nodes.speech.partials import Partials
from edge_nodes.speech.vad import CHUNK, Segmenter, SileroVad

_GAP_NS = 1_000_000_000
"""A longer hole in the audio, or a step of the clock, ends the segment."""
_QUIET_WINDOW = RATE_HZ // 10
_GUESS_AHEAD = 3 * CHUNK
"""The early final text is recognised this long before the silence is long enough to give it."""
_FIRST_PARTIAL = CHUNK
"""The first partial text is due so much earlier: the time it is counted from has no work on a text in it."""
REFERENCE = "reference:"
"""Prefix of a model that is a checkpoint of the Splitformer's authors."""


@dataclass(frozen=True)
class SpeechEvent:
    """Something that happened in the audio.

    Attributes:
        kind: "start" of speech, "partial" text so far, "final" text (empty if the speech held no words). Speech that
            goes on after an early final text starts again, with the same `start_ns`.
        text: the words; empty at the start.
        start_ns: start of the speech segment.
        end_ns: end of the audio the text is from; of the speech, when final.
        layer, layers: encoder layer the text was read from (from 1) and how many there are; 0 at the start.
        policy: see `ExitConfig.policy`; partials are always "fixed"; empty at the start.
        confidence: 0..1.
        cost: see `Hypothesis.cost`.
        replaces: of a final text: it takes the place of the one before, whose speech went on.
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
    replaces: bool = False


@dataclass
class _Segment:
    """The open segment; positions count samples from the first one fed."""

    start: int
    partials: Partials
    partial_at: int
    guess: Hypothesis | None = None  # of the silence that lasts
    given: bool = False  # the final text is out
    withdrawn: bool = False  # and speech went on


class _Stream:
    """What is known of the audio so far; positions count samples from the first one fed."""

    def __init__(self, config: SpeechConfig) -> None:
        self.audio: NDArray[np.float32] = np.zeros(0, np.float32)
        self.first = 0  # position of audio[0]
        self.samples = 0  # fed
        self.done = 0  # seen by the voice activity model
        self.segment: _Segment | None = None
        self.anchor = (0, 0)  # a position and its time
        self.segmenter = Segmenter(config.vad)

    def part(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.audio[start - self.first : stop - self.first]

    def append(self, samples: NDArray[np.int16], end_ns: int) -> None:
        self.samples += len(samples)
        self.anchor = (self.samples, end_ns)
        self.audio = np.concatenate([self.audio, samples.astype(np.float32) / 32768.0])

    def drop_before(self, position: int) -> None:
        if position > self.first:
            self.audio, self.first = self.part(position, self.samples), position

    def time(self, position: int) -> int:
        fed, time_ns = self.anchor
        return time_ns - _ns(fed - position)

    def quietest(self, start: int, stop: int) -> int:
        """Return the middle of the quietest 100 ms."""
        sums = np.convolve(self.part(start, stop) ** 2, np.ones(_QUIET_WINDOW), "valid")
        return start + int(sums.argmin()) + _QUIET_WINDOW // 2


def load_model(config: SpeechConfig) -> ExitModel:
    """Return the model that a configuration names; see `SpeechModel` and `reference.ReferenceModel` for the errors."""
    if config.model.startswith(REFERENCE):
        from edge_nodes.speech.reference import ReferenceModel

        return ReferenceModel(
            config.model.removeprefix(REFERENCE),
            tokenizer=config.reference.tokenizer,
            heads=config.reference.heads,
            device=config.device,
            threads=config.threads,
        )
    lexicon = Lexicon(config.words.own.split()) if config.words.correct else None
    return SpeechModel(
        config.model, device=config.device, threads=config.threads, lexicon=lexicon, beside=config.beside
    )


class Recognizer:
    """Finds speech in a stream of audio and recognises it.

    Args:
        config: see `SpeechConfig`; assign to `config` to change run-time parameters.
    """

    def __init__(self, config: SpeechConfig) -> None:
        self.config = config
        self._model: ExitModel | None = None
        self._vad: SileroVad | None = None
        self._stream = _Stream(self.config)
        self._waited_s = 0.0

    @property
    def model(self) -> ExitModel:
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
        self._model = load_model(config)
        progress("speech: loading the voice activity model")
        self._vad = SileroVad()
        for _ in range(3):  # TorchScript compiles in its first calls; exits get a cost that is not of a first call
            self._model.recognise(np.zeros(RATE_HZ, np.float32), lambda layer, reading: False)
            self._vad(np.zeros(CHUNK, np.float32))
        self._vad.reset()
        heap.give_back()  # what reading the weights took
        progress(f"speech: ready, {self._model.layers} exits")

    def feed(
        self, samples: NDArray[np.int16], end_ns: int, *, partials: bool = True, waited_s: float = 0.0
    ) -> Iterator[SpeechEvent]:
        """Take the next audio; yield each event as soon as it is known.

        Args:
            samples: (n,) int16, 16 kHz mono.
            end_ns: time at which the last sample was heard.
            partials: whether to spend time on partial texts.
            waited_s: how long the audio has waited in a queue, which the exit policy `load` goes by.

        Raises:
            SpeechError: `load` has not been called.
        """
        stream, vad = self._stream, self._loaded_vad()
        self._waited_s = waited_s
        if stream.samples and abs(end_ns - _ns(len(samples)) - stream.time(stream.samples)) > _GAP_NS:
            yield from self.flush()
            stream = self._stream
        stream.append(samples, end_ns)
        stream.segmenter.config = self.config.vad
        while stream.samples - stream.done >= CHUNK:
            stream.done += CHUNK
            for edge in stream.segmenter.feed(vad(stream.part(stream.done - CHUNK, stream.done))):
                if edge.starts:
                    yield self._open(max(stream.first, edge.sample - self._pad()))
                else:
                    yield from self._end(min(stream.done, edge.sample + self._pad()), edge.sample)
            if stream.segment is not None:
                yield from self._early(stream.segment)
                yield from self._cut(stream.segment)
        if partials and stream.segment is not None and self._partial_due(stream.segment, len(samples)):
            yield self._partial(stream.segment)
        stream.drop_before(stream.segment.start if stream.segment is not None else stream.done - self._reach())

    def flush(self) -> Iterator[SpeechEvent]:
        """End the stream: yield the final text of an open segment and start anew."""
        stream = self._stream
        if stream.segment is not None:
            yield from self._end(stream.samples, stream.samples)
        self.drop()

    def drop(self) -> None:
        """Forget what was heard; an open segment gets no final text."""
        if self._stream.samples:
            self._stream = _Stream(self.config)
            if self._vad is not None:
                self._vad.reset()

    def close(self) -> None:
        """Free the models."""
        self._model = self._vad = None
        self._stream = _Stream(self.config)

    def _open(self, start: int) -> SpeechEvent:
        stream = self._stream
        stream.segment = _Segment(start, Partials(self.model, start), partial_at=stream.done - _FIRST_PARTIAL)
        return SpeechEvent("start", "", stream.time(start), stream.time(stream.done))

    def _early(self, segment: _Segment) -> Iterator[SpeechEvent]:
        """Recognise while the silence is still short; give the text early if it is sure; take it back if need be."""
        stream, vad, ear = self._stream, self.config.vad, self._stream.segmenter
        early = vad.early_ms * RATE_HZ // 1000
        if not ear.quiet:
            segment.guess = None
            if segment.given and ear.loud >= vad.speech_ms * RATE_HZ // 1000:
                segment.given, segment.withdrawn = False, True
                yield SpeechEvent("start", "", stream.time(segment.start), stream.time(stream.done))
        elif early and not segment.given and ear.quiet < vad.silence_ms * RATE_HZ // 1000:
            if segment.guess is None and ear.quiet >= early - _GUESS_AHEAD:
                stop = ear.since + self._pad()
                # The padding that is not there yet is silence: what a word ends in makes its last letters sure.
                segment.guess = self._recognise(segment, min(stream.done, stop), max(0, stop - stream.done))
            if segment.guess is not None and ear.quiet >= early and segment.guess.confidence >= vad.early_confidence:
                segment.given = True
                yield self._event("final", segment, ear.since, segment.guess)

    def _end(self, stop: int, end: int) -> Iterator[SpeechEvent]:
        """Close the segment: give its text unless that is out."""
        segment, self._stream.segment = self._stream.segment, None
        if segment is not None and not segment.given:
            yield self._event("final", segment, end, self._recognise(segment, stop))

    def _cut(self, segment: _Segment) -> Iterator[SpeechEvent]:
        stream = self._stream
        if stream.done - segment.start >= self.config.max_segment_s * RATE_HZ and not segment.given:
            cut = stream.quietest((segment.start + stream.done) // 2, stream.done)
            yield from self._end(cut, cut)
            yield self._open(cut)

    def _partial_due(self, segment: _Segment, block: int) -> bool:
        interval = self.config.partial_interval_ms * RATE_HZ // 1000
        # Of audio that has been waiting a partial text would only delay what is newer.
        if not interval or segment.given or 1e3 * self._waited_s > self.config.partial_interval_ms:
            return False
        # The next chance comes with the next block, which is as long as this one.
        return self._stream.done > segment.partial_at and self._stream.samples + block - segment.partial_at > interval

    def _partial(self, segment: _Segment) -> SpeechEvent:
        stream, model = self._stream, self.model
        leave = policy(ExitConfig(policy="fixed", layer=self.config.exit.partial_layer), model.layers)
        segment.partial_at = stream.samples
        return self._event("partial", segment, stream.done, segment.partials.hear(stream.part, stream.done, leave))

    def _recognise(self, segment: _Segment, stop: int, silence: int = 0) -> Hypothesis:
        """Return the words of the segment up to `stop` and so much silence, from the exit that the policy chooses."""
        model, samples = self.model, np.pad(self._stream.part(segment.start, stop), (0, silence))
        now = Circumstances(len(samples) / RATE_HZ, model.costs, self._waited_s)
        return model.recognise(samples, policy(self.config.exit, model.layers, model.calibration, now))

    def _event(self, kind: Literal["partial", "final"], segment: _Segment, end: int, heard: Hypothesis) -> SpeechEvent:
        stream = self._stream
        return SpeechEvent(
            kind=kind,
            text=heard.text,
            start_ns=stream.time(segment.start),
            end_ns=stream.time(end),
            layer=heard.layer,
            layers=heard.layers,
            policy="fixed" if kind == "partial" else self.config.exit.policy,
            confidence=heard.confidence,
            cost=heard.cost,
            replaces=kind == "final" and segment.withdrawn,
        )

    def _loaded_vad(self) -> SileroVad:
        if self._vad is None:
            raise SpeechError("the speech model is not loaded", remedy="Call load() first.")
        return self._vad

    def _pad(self) -> int:
        return self.config.vad.pad_ms * RATE_HZ // 1000

    def _reach(self) -> int:
        """Return how far a segment that starts now can reach back."""
        return self._pad() + self.config.vad.speech_ms * RATE_HZ // 1000 + 2 * CHUNK


def _ns(samples: int) -> int:
    return samples * 1_000_000_000 // RATE_HZ
