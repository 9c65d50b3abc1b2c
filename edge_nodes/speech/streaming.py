# SPDX-License-Identifier: Apache-2.0
"""Audio as it comes from a microphone: what is heard when, what is taken back, and how much flickers.

Time is simulated: a block is there when its last sample is, and is worked on when the work before it is done, which
takes what it really takes. So a recogniser that is slower than the audio falls behind here as it would in a node.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.features import RATE_HZ
from edge_nodes.speech.recognizer import Recognizer, SpeechEvent

BLOCK = RATE_HZ // 25
LEAD_S, TAIL_S = 0.5, 1.0
"""Silence before and after the speech."""


class Told(NamedTuple):
    """An event and when it was known, s from the start of the audio."""

    event: SpeechEvent
    at_s: float


def live(recognizer: Recognizer, audio: NDArray[np.float32], *, partials: bool = True) -> list[Told]:
    """Return what a recogniser tells of one stream of audio with silence around it.

    Args:
        recognizer: loaded; what it heard before is forgotten.
        audio: (n,) float32 in [-1, 1], 16 kHz.
        partials: whether partial texts are wanted.
    """
    recognizer.drop()
    padded = np.pad(audio, (int(LEAD_S * RATE_HZ), int(TAIL_S * RATE_HZ)))
    samples = np.clip(np.round(padded * 32767), -32768, 32767).astype(np.int16)
    told: list[Told] = []
    free_s = 0.0
    for stop in range(BLOCK, len(samples) + 1, BLOCK):
        there_s = stop / RATE_HZ
        begin_s = max(there_s, free_s)
        started = time.perf_counter()
        end_ns = stop * 1_000_000_000 // RATE_HZ
        block = samples[stop - BLOCK : stop]
        events = recognizer.feed(block, end_ns, partials=partials, waited_s=begin_s - there_s)
        told.extend(Told(event, begin_s + time.perf_counter() - started) for event in events)
        free_s = begin_s + time.perf_counter() - started
    told.extend(Told(event, free_s) for event in recognizer.flush())
    return told


def finals(told: Iterable[Told]) -> list[Told]:
    """Return the final texts that nothing replaced."""
    found: list[Told] = []
    for each in told:
        if each.event.kind == "final":
            if each.event.replaces:
                found.pop()
            found.append(each)
    return found


def withdrawn(told: Iterable[Told]) -> int:
    """Return how many final texts were replaced by a later one."""
    return sum(each.event.replaces for each in told)


def final_delays_ms(told: Iterable[Told]) -> list[float]:
    """Return the times from the end of speech to the final text that stayed."""
    return [1e3 * each.at_s - each.event.end_ns / 1e6 for each in finals(told)]


def partial_gaps_ms(told: Sequence[Told]) -> list[float]:
    """Return the times between partial texts of one segment, and from its start to the first."""
    pairs = [(a, b) for a, b in pairwise(told) if a.event.kind != "final" and b.event.kind == "partial"]
    return [1e3 * (b.at_s - a.at_s) for a, b in pairs]


def flicker(told: Sequence[Told]) -> tuple[int, int]:
    """Return how many words of partial texts the next one changed, and of how many.

    The last word of a text is still being said and does not count.
    """
    changed = shown = 0
    for before, after in pairwise(each.event for each in told):
        if before.kind == after.kind == "partial":
            words, later = before.text.split()[:-1], after.text.split()
            shown += len(words)
            changed += sum(i >= len(later) or word != later[i] for i, word in enumerate(words))
    return changed, shown


def joined(clips: Sequence[NDArray[np.float32]], pauses_s: Sequence[float]) -> NDArray[np.float32]:
    """Return clips one after another with silence between them: speech with pauses."""
    parts = [clips[0]]
    for clip, pause in zip(clips[1:], pauses_s, strict=True):
        parts += [np.zeros(int(pause * RATE_HZ), np.float32), clip]
    return np.concatenate(parts)


def with_pause(clip: NDArray[np.float32], pause_s: float) -> NDArray[np.float32]:
    """Return a clip with silence where it is quietest in its middle third."""
    begin, end = len(clip) // 3, max(len(clip) // 3 + 1, 2 * len(clip) // 3)
    loudness = np.convolve(clip[begin:end] ** 2, np.ones(RATE_HZ // 20), "same")
    cut = begin + int(loudness.argmin())
    return joined([clip[:cut], clip[cut:]], [pause_s])


def percent(part: float, whole: float) -> float | None:
    """Return a share in percent, None of nothing."""
    return round(100 * part / whole, 2) if whole else None


def figures(told: Sequence[Sequence[Told]]) -> dict[str, Any]:
    """Return what streams have in common: shares in percent, and the lists of times that percentiles are taken of."""
    ended = sum(len(finals(each)) for each in told)
    taken_back = sum(withdrawn(each) for each in told)
    words = np.sum([flicker(each) for each in told], axis=0) if told else np.zeros(2)
    return {
        "finals": ended,
        "withdrawn": taken_back,
        "withdrawn_percent": percent(taken_back, ended + taken_back),
        "flicker_percent": percent(float(words[0]), float(words[1])),
    }
