# SPDX-License-Identifier: Apache-2.0
"""Spelling: words that a CTC head spells by sound become words that exist and that follow one another.

The words that were heard are a chain; where one is unsure or does not exist, words spelled much alike, two words in
place of it, or one in place of it and the next are ways beside it. The best way through this lattice is the one that
explains the frames best: CTC probability of its letters (Graves et al. 2006, section 4.1) and how likely its words
follow one another (Viterbi search). What the sound does not bear out stays as it was heard: the vocabulary stays open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.alphabet import BLANK, SPACE, encode
from edge_nodes.speech.lexicon import Lexicon

COMMONNESS = 0.3
"""Weight of a word's logarithmic probability beside the logarithmic probability of its letters."""
A_WORD = 1.0
"""What a word that exists is worth."""
UNKNOWN = -8.0
"""What a word that does not exist costs."""
SURE = 0.95
"""Words that exist and are as likely as this (geometric mean of their frames) are left alone."""
CANDIDATES = 20
_REACH = 12
"""Frames before the first and after the last letter that belong to them."""
_STATES = 12
"""Last words that are kept in mind at a place."""
_NEVER = -1e9
_SCALED = 8
"""Frames between two scalings of probabilities."""
CLEAR = 10.0
"""Margin from which nothing else comes into question, and of words that were left alone."""

Span = tuple[int, int]


class _Way(NamedTuple):
    """Words in place of those from one place of the chain to another."""

    end: int
    words: tuple[str, ...]
    score: float


class Spelled(NamedTuple):
    """Words as they are spelled.

    Attributes:
        words: of them.
        spans: first and last frame of each.
        margins: by how much each beats the best of what else was thought of in its place, and of one word in place of
            it and its neighbour: difference of the logarithmic scores, from -`CLEAR` to `CLEAR`.
    """

    words: list[str]
    spans: list[Span]
    margins: list[float]


class _Path(NamedTuple):
    """The best way to a place that ends in some word."""

    score: float
    words: tuple[str, ...]
    ends: tuple[tuple[int, int, int], ...]  # of each way: from where to where, and how many words


def spell(lexicon: Lexicon, words: Sequence[str], spans: Sequence[Span], log_probs: NDArray[np.float32]) -> Spelled:
    """Return the words as they are spelled, where they are and by how much they are the best.

    Args:
        lexicon: the words that exist.
        words: as they were decoded.
        spans: first and last frame of each.
        log_probs: (T, 29) float32 log-probabilities of `alphabet.SYMBOLS`.
    """
    if not words:
        return Spelled([], [], [])
    chain = _Chain(lexicon, words, spans, log_probs)
    ways = [list(chain.ways(place)) for place in range(len(words))]
    reached: list[dict[str | None, _Path]] = [{None: _Path(0.0, (), ())}, *({} for _ in words)]
    for place in range(len(words)):
        kept = sorted(reached[place].items(), key=lambda item: -item[1].score)[:_STATES]
        for way in ways[place]:
            for last, path in kept:
                score = path.score + way.score + chain.likelihood(way.words, last)
                known = reached[way.end].get(way.words[-1])
                if known is None or score > known.score:
                    ends = (*path.ends, (place, way.end, len(way.words)))
                    reached[way.end][way.words[-1]] = _Path(score, path.words + way.words, ends)
    best = max(reached[-1].values(), key=lambda path: path.score)
    return Spelled(list(best.words), _spans(spans, best), _margins(chain, ways, best))


def _margins(chain: _Chain, ways: Sequence[Sequence[_Way]], path: _Path) -> list[float]:
    """Return the margin of each word of a path, see `Spelled`; two words in place of one have the same."""
    stops = np.cumsum([count for _, _, count in path.ends]).tolist()
    steps = [path.words[stop - count : stop] for stop, (_, _, count) in zip(stops, path.ends, strict=True)]
    around: list[tuple[str, ...]] = [(), *steps, ()]
    found = []
    for place, ((begin, end, _), words) in enumerate(zip(path.ends, steps, strict=True)):
        rivals = [way for way in ways[begin] if way.end == end]
        found.append(chain.margin(rivals, words, around[place][-1:], around[place + 2][:1]))
    for place, (first, second) in enumerate(pairwise(steps)):
        (begin, _, _), (_, end, _) = path.ends[place : place + 2]
        rivals = chain.apart_or_joined(begin, end, first, second)
        margin = chain.margin(rivals, first + second, around[place][-1:], around[place + 3][:1])
        found[place : place + 2] = [min(margin, each) for each in found[place : place + 2]]
    return [margin for margin, words in zip(found, steps, strict=True) for _ in words]


class _Chain:
    """The words that were heard, and the frames that are theirs."""

    def __init__(
        self, lexicon: Lexicon, words: Sequence[str], spans: Sequence[Span], log_probs: NDArray[np.float32]
    ) -> None:
        self._lexicon, self._words, self._spans, self._log_probs = lexicon, words, spans, log_probs
        best, self._best = log_probs.argmax(1), log_probs.max(1)
        # A word's frames end with the space after it: so those of all words are all frames, and none counts twice.
        self._edges = [max(0, spans[0][0] - _REACH)]
        for (_, last), (first, _) in pairwise(spans):
            spaces = np.flatnonzero(best[last + 1 : first] == SPACE)
            self._edges.append(last + 2 + int(spaces[-1]) if spaces.size else first)
        self._edges.append(spans[-1][1] + 1 + _REACH)

    def likelihood(self, words: Sequence[str], before: str | None) -> float:
        """Return what words are worth for being words, and for following one another."""
        total = 0.0
        for word in words:
            if word in self._lexicon:
                total += A_WORD + COMMONNESS * self._lexicon.log_probability(word, before)
            else:
                total += UNKNOWN
            before = word
        return total

    def ways(self, place: int) -> Iterator[_Way]:
        """Yield the ways from a place: by the word that was heard there, and what could be in place of it."""
        word = self._words[place]
        found: list[tuple[str, ...]] = [(word,)]
        if not self._settled(place, place + 1):
            found += [(each,) for each in self._lexicon.near(word, _edits(word), CANDIDATES)]
            found += self._halves(word)
        yield from self._heard(place, place + 1, found)
        if place + 1 < len(self._words) and not self._settled(place, place + 2):
            both = word + self._words[place + 1]
            whole = [(both,)] if both in self._lexicon else []
            yield from self._heard(
                place, place + 2, whole + [(w,) for w in self._lexicon.near(both, 1, CANDIDATES // 2)]
            )

    def margin(
        self, ways: Sequence[_Way], words: tuple[str, ...], before: tuple[str, ...], after: tuple[str, ...]
    ) -> float:
        """Return by how much one of some ways beats the others between the word before, if any, and that after."""
        last = before[0] if before else None
        scores = {way.words: way.score + self.likelihood(way.words + after, last) for way in ways}
        own = scores.pop(words, CLEAR)
        return float(np.clip(own - max(scores.values(), default=-np.inf), -CLEAR, CLEAR))

    def apart_or_joined(self, begin: int, end: int, first: tuple[str, ...], second: tuple[str, ...]) -> list[_Way]:
        """Return two steps as they are and with the words where they meet as one; none if that does not exist."""
        both = first[-1] + second[0]
        if both not in self._lexicon:
            return []
        return list(self._heard(begin, end, [first + second, (*first[:-1], both, *second[1:])]))

    def _settled(self, begin: int, end: int) -> bool:
        """Return whether words exist and were heard for sure."""
        first, last = self._spans[begin][0], self._spans[end - 1][1]
        known = all(word in self._lexicon for word in self._words[begin:end])
        return known and float(self._best[first : last + 1].mean()) > np.log(SURE)

    def _halves(self, word: str) -> list[tuple[str, ...]]:
        """Return two words in place of one: a space was not heard, and maybe a letter of the longer one wrongly."""
        found: list[tuple[str, ...]] = []
        for cut in range(1, len(word)):
            first, second = word[:cut], word[cut:]
            if first not in self._lexicon:
                continue
            if second in self._lexicon:
                found.append((first, second))
            elif word not in self._lexicon and cut <= 3 < len(second):
                found += [(first, each) for each in self._lexicon.near(second, 1, CANDIDATES // 4)]
        return found

    def _heard(self, begin: int, end: int, candidates: Sequence[tuple[str, ...]]) -> Iterator[_Way]:
        if not candidates:
            return
        after = " " if end < len(self._words) else ""
        frames = self._log_probs[self._edges[begin] : self._edges[end]]
        scores = ctc_log_probability(frames, [encode(" ".join(each) + after) for each in candidates])
        for words, score in zip(candidates, scores, strict=True):
            yield _Way(end, words, float(score))


def _edits(word: str) -> int:
    return 1 if len(word) <= 3 else 2 if len(word) <= 7 else 3


def _spans(heard: Sequence[Span], path: _Path) -> list[Span]:
    """Return the frames of the words of a path: those of what they stand for, shared out evenly."""
    found = []
    for begin, end, count in path.ends:
        edges = np.linspace(heard[begin][0], heard[end - 1][1] + 1, count + 1).astype(int).tolist()
        found += [(first, max(first, last - 1)) for first, last in pairwise(edges)]
    return found


def ctc_log_probability(log_probs: NDArray[np.float32], texts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the logarithmic probabilities of texts given all frames, by CTC's forward recursion.

    Args:
        log_probs: (T, symbols) float32 log-probabilities, T >= 1.
        texts: symbols of each text, none of them the blank; not empty.

    Returns:
        (texts,) float64; very low if a text needs more frames than there are.
    """
    states = np.full((len(texts), 2 * max(map(len, texts)) + 1), BLANK)
    for row, text in zip(states, texts, strict=True):
        row[1 : 2 * len(text) : 2] = text
    skips = (states[:, 2:] != BLANK) & (states[:, 2:] != states[:, :-2])
    # Probabilities, scaled now and then, in place of their logarithms: sums of those take ten times as long.
    most = log_probs.max(1)
    said = np.exp(log_probs - most[:, None], dtype=np.float64)[:, states]
    forward, scale = np.zeros(states.shape), np.full(len(texts), most.sum(dtype=np.float64))
    forward[:, :2] = said[0, :, :2]
    for number, frame in enumerate(said[1:]):
        before = forward
        forward = before.copy()
        forward[:, 1:] += before[:, :-1]
        forward[:, 2:] += before[:, :-2] * skips
        forward *= frame
        if number % _SCALED == 0:
            largest = np.maximum(forward.max(1), np.finfo(np.float64).tiny)
            forward /= largest[:, None]
            scale += np.log(largest)
    last = 2 * np.array([len(text) for text in texts])
    rows = np.arange(len(texts))
    ends = forward[rows, last] + forward[rows, last - 1]
    found: NDArray[np.float64] = np.where(ends > 0, np.log(np.maximum(ends, np.finfo(np.float64).tiny)) + scale, _NEVER)
    return found
