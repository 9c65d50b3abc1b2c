# SPDX-License-Identifier: Apache-2.0
"""Word error rate, operations and seconds of each exit and policy on clips of speech; false words in noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.clips import Clip
from edge_nodes.speech.config import ExitConfig, SpeechConfig
from edge_nodes.speech.costs import LayerCosts
from edge_nodes.speech.exits import Circumstances, Reading, policy
from edge_nodes.speech.features import RATE_HZ
from edge_nodes.speech.model import SpeechModel
from edge_nodes.speech.operations import operations
from edge_nodes.speech.recognizer import Recognizer, SpeechEvent

THRESHOLDS = {
    "words": (0.7, 0.75, 0.8, 0.85, 0.9, 1.0),
    "confidence": (0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975),
    "entropy": (0.8, 0.85, 0.9, 0.925, 0.95, 0.975),
}
QUEUE_SHARES = (0.0, 0.5, 1.0)
"""Ages of the queue that the load policy is shown at, as shares of what is overload."""
_PAD = RATE_HZ // 10
_BLOCK = RATE_HZ // 25


def edit_distance(said: list[str], heard: list[str]) -> int:
    """Return the substitutions, deletions and insertions between two word lists."""
    row = np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return int(row[-1])


def word_error_rate(said: Sequence[list[str]], heard: Sequence[str]) -> float | None:
    """Return the errors in percent of the words said, None if there are none."""
    count = sum(map(len, said))
    errors = sum(edit_distance(a, b.split()) for a, b in zip(said, heard, strict=True))
    return round(100 * errors / count, 2) if count else None


class Left(NamedTuple):
    """What became of a clip under a policy.

    Attributes:
        text: its words.
        as_heard: the same before they were spelled right.
        shares: share of the clip that was read from each exit, (exits,).
        operations: the encoder's.
        seconds: from audio to text.
    """

    text: str
    as_heard: str
    shares: Sequence[float]
    operations: float
    seconds: float


class Heard(NamedTuple):
    """What all exits made of a clip.

    Attributes:
        said: its words.
        readings: of each exit.
        seconds: from audio to each exit's text.
        operations: see `operations.operations`.
        audio_s: length of the clip.
        spelled: text of each exit with its words spelled right; empty: that of the readings.
        words: what became of it under the policy of that name, at each threshold that was tried.
    """

    said: list[str]
    readings: list[Reading]
    seconds: list[float]
    operations: list[float]
    audio_s: float
    spelled: Sequence[str] = ()
    words: Mapping[float, Left] = MappingProxyType({})

    def text(self, exit_index: int) -> str:
        """Return the text of an exit, spelled right if that is known."""
        return self.spelled[exit_index] if self.spelled else self.readings[exit_index].text


def listen(model: SpeechModel, items: Iterable[Clip]) -> list[Heard]:
    """Return what every exit makes of the clips, with a tenth of a second of silence around each."""
    found = []
    for clip in items:
        audio = np.pad(clip.samples, _PAD)
        readings, spelled, seconds = zip(*model.each_exit(audio), strict=True)
        cost = operations(model.encoder.shape, len(audio))
        audio_s = len(clip.samples) / RATE_HZ
        found.append(Heard(clip.text.split(), list(readings), list(seconds), cost, audio_s, spelled))
    return found


def listen_by_words(
    model: SpeechModel, items: Iterable[Clip], heard: Iterable[Heard], thresholds: Iterable[float]
) -> list[Heard]:
    """Return what `listen` did, and what becomes of the clips under the policy `words` at some thresholds.

    They are listened to again: what a late exit says of parts of a clip is not known from the whole.
    """
    tried = tuple(thresholds)
    found = []
    for clip, each in zip(items, heard, strict=True):
        audio = np.pad(clip.samples, _PAD)
        found.append(each._replace(words={threshold: _by_words(model, audio, threshold) for threshold in tried}))
    return found


def _by_words(model: SpeechModel, audio: NDArray[np.float32], threshold: float) -> Left:
    leave = policy(ExitConfig(policy="words", threshold=threshold), model.layers, model.calibration)
    heard = model.recognise(audio, leave)
    seconds = 1e-3 * sum(heard.cost[name] for name in ("features_ms", "encoder_ms", "spelling_ms"))
    return Left(heard.text, heard.as_heard, heard.shares, 1e9 * heard.cost["encoder_gflop"], seconds)


def measured(heard: Sequence[Heard]) -> LayerCosts:
    """Return what each exit cost: the medians over the clips."""
    costs = LayerCosts(range(1, len(heard[0].readings) + 1), kept=len(heard))
    for each in heard:
        costs.add(each.seconds, each.audio_s)
    return costs


def left(heard: Heard, config: ExitConfig, calibration: Calibration, costs: LayerCosts, waited_s: float) -> Left:
    """Return what becomes of a clip under a policy, with the clip's own times.

    Raises:
        KeyError: the policy `words` at a threshold that was not tried.
    """
    if config.policy == "words":
        return heard.words[config.threshold or calibration.words]
    reached = 0
    now = Circumstances(heard.audio_s, costs, waited_s, spent_s=lambda: heard.seconds[reached])
    leave = policy(config, len(heard.readings), calibration, now)
    while not leave(reached + 1, heard.readings[reached]):
        reached += 1
    shares = [float(index == reached) for index in range(len(heard.readings))]
    operations, seconds = heard.operations[reached], heard.seconds[reached]
    return Left(heard.text(reached), heard.readings[reached].text, shares, operations, seconds)


def summary(heard: Sequence[Heard], calibration: Calibration | None = None) -> dict[str, Any]:
    """Return the figures of one set of clips: those of each exit and of each policy, `words` where it was tried.

    Args:
        heard: the clips.
        calibration: of the model.
    """
    known, costs = calibration or Calibration(), measured(heard)
    layers = len(heard[0].readings)
    policies = {f"exit {i + 1}": (ExitConfig(policy="fixed", layer=i + 1), 0.0) for i in range(layers)}
    for name, thresholds in THRESHOLDS.items():
        policies |= {f"{name} {t:g}": (ExitConfig(policy=name, threshold=t), 0.0) for t in thresholds}
        policies[f"{name} as calibrated"] = (ExitConfig(policy=name), 0.0)
    for layer in range(1, layers + 1):  # a budget that each exit just fits in, mostly
        budget_ms = max(0.1, round(1200 * costs.until(layer), 1))
        policies[f"deadline {budget_ms:g} ms"] = (ExitConfig(policy="deadline", budget_ms=budget_ms), 0.0)
    load = ExitConfig(policy="load")
    policies |= {f"load, queue {s * load.overload_ms:g} ms": (load, s * load.overload_ms / 1e3) for s in QUEUE_SHARES}
    policies["as shipped"] = (ExitConfig(), 0.0)
    return {
        "clips": len(heard),
        "words": sum(len(h.said) for h in heard),
        "minutes": round(sum(h.audio_s for h in heard) / 60, 2),
        "policies": {
            name: under(heard, config, known, waited_s)
            for name, (config, waited_s) in policies.items()
            if config.policy != "words" or (config.threshold or known.words) in heard[0].words
        },
    }


def under(
    heard: Sequence[Heard], config: ExitConfig, calibration: Calibration | None = None, waited_s: float = 0.0
) -> dict[str, Any]:
    """Return the figures of one policy.

    Args:
        heard: the clips.
        config: the policy.
        calibration: of the model.
        waited_s: age of the node's queue, s.

    Returns:
        wer (%), the same with words as they were heard, layers (mean), gflop and seconds per second of audio, and
        the share of audio ending at each exit.
    """
    known, costs = calibration or Calibration(), measured(heard)
    chosen = [left(h, config, known, costs, waited_s) for h in heard]
    said, lengths = [h.said for h in heard], np.array([h.audio_s for h in heard])
    shares = np.array([c.shares for c in chosen])
    layers = shares @ np.arange(1, shares.shape[1] + 1)
    return {
        "wer": word_error_rate(said, [c.text for c in chosen]),
        "wer_as_heard": word_error_rate(said, [c.as_heard for c in chosen]),
        "layers": round(float(layers.mean()), 2),
        "gflop_per_s": round(sum(c.operations for c in chosen) / float(lengths.sum()) / 1e9, 3),
        "seconds_per_s": round(sum(c.seconds for c in chosen) / float(lengths.sum()), 4),
        "ends_at": np.round(lengths @ shares / lengths.sum(), 4).tolist(),
    }


def false_words(noise: Iterable[NDArray[np.float32]], config: SpeechConfig) -> dict[str, Any]:
    """Return what a recogniser hears in noise: segments, and segments with words (false accepts), an hour."""
    recognizer = Recognizer(config)
    recognizer.load()
    seconds, segments, texts = 0.0, 0, []
    for audio in noise:
        samples = np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16)
        seconds += len(samples) / RATE_HZ
        events: list[SpeechEvent] = []
        for begin in range(0, len(samples), _BLOCK):
            block = samples[begin : begin + _BLOCK]
            events += recognizer.feed(block, (begin + len(block)) * 1_000_000_000 // RATE_HZ, partials=False)
        events += recognizer.flush()
        finals = [event.text for event in events if event.kind == "final"]
        segments += len(finals)
        texts += [text for text in finals if text]
    return {
        "minutes": round(seconds / 60, 2),
        "segments": segments,
        "false_accepts": len(texts),
        "false_accepts_per_hour": round(3600 * len(texts) / seconds, 2) if seconds else None,
        "texts": texts[:20],
    }
