# SPDX-License-Identifier: Apache-2.0
"""Partial texts of a growing utterance, and what is counted on streams."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edge_nodes.speech import Hypothesis, SpeechEvent, partials, streaming
from edge_nodes.speech.streaming import Told

SECOND = 16000


class Numbers:
    """Hears the number of each second of the audio, which is its level: 0.01 is one. Cut seconds are misheard."""

    def __init__(self):
        self.longest = 0

    def recognise(self, samples, leave):
        self.longest = max(self.longest, len(samples))
        levels = np.round(samples * 100).astype(int)
        edges = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
        words, spans = [], []
        for first, last in pairwise(edges):
            whole = last - first > 0.7 * SECOND
            words.append(str(levels[first]) if whole else "half")
            spans.append((first / SECOND, last / SECOND))
        return Hypothesis(" ".join(words), 1.0, 1, 1, {}, spans)


def numbers(count):
    return np.repeat(np.arange(1, count + 1, dtype=np.float32) / 100, SECOND)


@pytest.mark.parametrize("step", [0.28, 0.3, 0.5])
def test_words_settle_and_the_cost_of_a_partial_stays(step):
    audio, model = numbers(20), Numbers()
    heard = partials.Partials(model, 0)
    texts = []
    for stop in np.arange(step, 20.0, step):
        text = heard.hear(lambda a, b: audio[a:b], int(stop * SECOND), lambda *_: True).text.split()
        assert text[:-1] == [str(n) for n in range(1, len(text))]
        texts.append(text)
    assert model.longest <= (partials.CONTEXT_S + partials.SETTLED_S + 1.0 + step) * SECOND
    # A word that ended a second ago is never changed again.
    for before, after in pairwise(texts):
        assert after[: max(0, len(before) - 2)] == before[: max(0, len(before) - 2)]


@pytest.mark.parametrize("spans", [None, [], [(0.0, None)]], ids=["no times", "no words", "one endless word"])
def test_the_cost_of_a_partial_is_bounded_whatever_is_heard(spans):
    lengths = []

    class Other:
        def recognise(self, samples, leave):
            lengths.append(len(samples))
            seconds = None if spans is None else [(a, len(samples) / SECOND) for a, _ in spans]
            return Hypothesis("word" if spans != [] else "", 1.0, 1, 1, {}, seconds)

    heard, longest = partials.Partials(Other(), 100), int(partials.LONGEST_S * SECOND)
    for stop in range(SECOND, 20 * SECOND, SECOND):
        heard.hear(lambda a, b: np.zeros(b - a), stop, lambda *_: True)
    assert lengths == [min(stop - 100, longest) for stop in range(SECOND, 20 * SECOND, SECOND)]


def told(*entries):
    """(kind, text, at_s, replaces) -> what was told; speech ended at 1 s."""
    return [
        Told(SpeechEvent(kind, text, 0, 1_000_000_000, replaces=bool(more)), at) for kind, text, at, *more in entries
    ]


def test_counts():
    stream = told(
        ("start", "", 0.2),
        ("partial", "turn", 0.5),
        ("partial", "turn left and", 0.8),
        ("partial", "turn right at the", 1.1),
        ("partial", "turn", 1.3),
        ("final", "turn right", 1.4),
        ("start", "", 1.5),
        ("final", "turn right at the door", 2.25, True),
        ("start", "", 3.0),
        ("final", "stop", 4.0),
    )
    assert [each.event.text for each in streaming.finals(stream)] == ["turn right at the door", "stop"]
    assert streaming.withdrawn(stream) == 1
    assert streaming.final_delays_ms(stream) == [1250.0, 3000.0]
    assert streaming.partial_gaps_ms(stream) == pytest.approx([300, 300, 300, 200])
    assert streaming.flicker(stream) == (1 + 2, 0 + 2 + 3)
    assert streaming.figures([stream])["withdrawn_percent"] == 33.33
    assert streaming.figures([])["flicker_percent"] is None


def test_pauses():
    clip = np.ones(3 * SECOND, np.float32)
    clip[int(1.4 * SECOND) : int(1.6 * SECOND)] = 0.01
    paused = streaming.with_pause(clip, 0.25)
    assert len(paused) == 3.25 * SECOND
    silence = np.flatnonzero(paused == 0)
    assert 1.4 * SECOND <= silence[0] < silence[-1] <= 1.9 * SECOND
    assert streaming.joined([clip, clip], [0.5]).sum() == 2 * clip.sum()
