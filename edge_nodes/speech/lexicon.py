# SPDX-License-Identifier: Apache-2.0
"""English words: which exist, how common they and their pairs are, and which are spelled much alike."""

from __future__ import annotations

import importlib.resources
from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import extract

from edge_nodes.speech.alphabet import SYMBOLS

_PAIR_SHARE = 0.6
"""Weight of a word's probability after the one before against its own share (Jelinek-Mercer interpolation)."""
_CONTRACTION = 0.05
"""Share of a word's occurrences that a contraction of it counts for."""
_ENDINGS = frozenset(("s", "d", "m", "t", "ll", "re", "ve"))
_ROBOTS = ("lidar", "ok")
"""Words that robots hear and the list has not."""
_LETTERS = frozenset(SYMBOLS[2:])
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


class Lexicon:
    """Words and pairs of words with their counts, from the package symspellpy (MIT), and words of the robot's own.

    Args:
        own: more words; they count as common ones.
    """

    def __init__(self, own: Iterable[str] = ()) -> None:
        counts = {word: int(count) for word, count in _table("frequency_dictionary_en_82_765.txt")}
        most = max(counts.values())
        more = " ".join((*_ROBOTS, *own)).lower().split()
        counts |= {word: most for word in more if _LETTERS.issuperset(word)}
        self._words = sorted(counts, key=len)
        self._numbers = {word: number for number, word in enumerate(self._words)}
        found = np.array([counts[word] for word in self._words], np.float64)
        self._counts, self._total = found, found.sum()
        self._letters = np.array([_letters(word) for word in self._words], np.uint32)
        self._first = np.searchsorted([len(word) for word in self._words], np.arange(40))
        self._pairs, self._rarest = self._read_pairs()
        self.near = lru_cache(4096)(self._near)
        self._after = lru_cache(8192)(self._share_after)

    def __contains__(self, word: str) -> bool:
        return self._count(word) > 0

    def log_probability(self, word: str, before: str | None = None) -> float:
        """Return the logarithm of how likely a word of the lexicon is, after another one if that is given."""
        return self._after(word, before)

    def log_bound(self, word: str, before: str | None = None) -> float:
        """Return `log_probability`, but of a pair that is not known at most that of the rarest one that is.

        It is low of common words that do not follow one another ("a had"), which their own shares do not tell.
        """
        first, second = (self._numbers.get(each or "") for each in (before, word))
        found = self.log_probability(word, before)
        if first is None or second is None or self._pair(first, second) > 0:
            return found
        return min(found, float(np.log(self._rarest[first])))

    def _share_after(self, word: str, before: str | None) -> float:
        share = self._count(word) / self._total
        first, second = (self._numbers.get(each or "") for each in (before, word))
        pair = 0.0
        if first is not None and second is not None:
            pair = self._pair(first, second)
        return float(np.log(_PAIR_SHARE * pair + (1 - _PAIR_SHARE) * share))

    def _near(self, word: str, edits: int, limit: int) -> tuple[str, ...]:
        """Return at most `limit` words that so many edits make of one, the closest first, without itself."""
        ends = np.clip([len(word) - edits, len(word) + edits + 1], 0, len(self._first) - 1)
        begin, end = (int(self._first[each]) for each in ends)
        # An edit changes at most two of the letters that occur: few words are left to be compared in full.
        changed = _BITS[(self._letters[begin:end] ^ _letters(word)).view(np.uint8)].reshape(-1, 4).sum(1)
        likely = [self._words[begin + i] for i in np.flatnonzero(changed <= 2 * edits)]
        close = extract(word, likely, scorer=Levenshtein.distance, score_cutoff=edits, limit=limit + 1)
        return tuple([each for each, _, _ in close if each != word][:limit])

    def _count(self, word: str) -> float:
        number = self._numbers.get(word)
        if number is not None:
            return float(self._counts[number])
        stem, _, ending = word.partition("'")
        number = self._numbers.get(stem) if ending in _ENDINGS else None
        return 0.0 if number is None else _CONTRACTION * float(self._counts[number])

    def _pair(self, first: int, second: int) -> float:
        keys, shares = self._pairs
        key = first * len(self._words) + second
        place = int(np.searchsorted(keys, key))
        return float(shares[place]) if place < len(keys) and keys[place] == key else 0.0

    def _read_pairs(self) -> tuple[tuple[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]:
        """Return the pairs, and the share that the rarest of all would have in those of each first word, 1 at most.

        Of the pairs: first word's number * words + second's, sorted; share of each in those of its first word.
        """
        keys, counts = array("q"), array("d")
        for pair, count in _table("frequency_bigramdictionary_en_243_342.txt"):
            first, second = (self._numbers.get(word) for word in pair.split())
            if first is not None and second is not None:
                keys.append(first * len(self._words) + second)
                counts.append(float(count))
        order = np.argsort(np.frombuffer(keys, np.int64))
        pairs, found = np.frombuffer(keys, np.int64)[order], np.frombuffer(counts)[order]
        firsts = pairs // len(self._words)
        totals = np.bincount(firsts, found, len(self._words))
        rarest = np.minimum(1.0, found.min() / np.maximum(1.0, totals))
        return (pairs, (found / totals[firsts]).astype(np.float32)), rarest.astype(np.float32)


def _letters(word: str) -> int:
    return sum({1 << (ord(letter) - ord("a")) for letter in word if letter != "'"})


def _table(name: str) -> Iterator[tuple[str, str]]:
    """Yield what symspellpy counted, words of our alphabet only, and how often."""
    with (importlib.resources.files("symspellpy") / name).open(encoding="utf-8-sig") as file:
        for line in file:  # in pieces: the whole would stay in memory
            what, _, count = line.rpartition(" ")
            if _LETTERS.issuperset(what.replace(" ", "")):
                yield what, count
