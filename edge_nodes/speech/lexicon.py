# SPDX-License-Identifier: Apache-2.0
"""Spelling: words that a CTC head spells by sound become words that exist.

A word that is not in the lexicon is replaced by the lexicon's word of at most two edits that explains the same frames
best: CTC probability of its letters (Graves et al. 2006, section 4.1) and how common it is. What the sound does not
bear out stays as it was heard, so the vocabulary stays open.
"""

from __future__ import annotations

import importlib.resources
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import extract

from edge_nodes.speech.alphabet import BLANK, SYMBOLS, encode

COMMONNESS = 0.3
"""Weight of a word's logarithmic frequency beside the logarithmic probability of its letters."""
FURTHEST = -12.0
"""Lowest sum of both, compared with the letters that were heard, at which a word is taken."""
CANDIDATES = 40
_REACH = 25
"""Frames beyond its first and last letter that a word may be looked for in, at most."""
_ENDINGS = frozenset(("s", "d", "m", "t", "ll", "re", "ve"))
_ROBOTS = ("lidar", "ok")
"""Words that robots hear and the list has not."""
_NEVER = -1e9
_LETTERS = frozenset(SYMBOLS[2:])


class Lexicon:
    """English words and how common they are, from the package symspellpy (MIT), and words of the robot's own.

    Args:
        own: more words; they count as common ones.
    """

    def __init__(self, own: Iterable[str] = ()) -> None:
        counts = dict(_english())
        most = max(counts.values())
        more = " ".join((*_ROBOTS, *own)).lower().split()
        counts |= {word: most for word in more if _LETTERS.issuperset(word)}
        total = sum(counts.values())
        self._log_share = {word: float(np.log(count / total)) for word, count in counts.items()}
        self._by_length: dict[int, list[str]] = defaultdict(list)
        for word in counts:
            self._by_length[len(word)].append(word)

    def __contains__(self, word: str) -> bool:
        stem, apostrophe, ending = word.partition("'")
        return word in self._log_share or bool(apostrophe and ending in _ENDINGS and stem in self._log_share)

    def spell(
        self, words: Sequence[str], spans: Sequence[tuple[int, int]], log_probs: NDArray[np.float32]
    ) -> list[str]:
        """Return the words, those that are not in the lexicon replaced where the sound bears it out.

        Args:
            words: as they were decoded.
            spans: first and last frame of each.
            log_probs: (T, 29) float32 log-probabilities of `alphabet.SYMBOLS`.
        """
        found = list(words)
        for i, word in enumerate(words):
            if word not in self:
                begin = spans[i][0] - _REACH if i == 0 else (spans[i - 1][1] + spans[i][0]) // 2 + 1
                end = spans[i][1] + _REACH if i + 1 == len(words) else (spans[i][1] + spans[i + 1][0]) // 2 + 1
                begin, end = max(begin, spans[i][0] - _REACH, 0), min(end, spans[i][1] + _REACH)
                found[i] = self._best(word, log_probs[begin:end])
        return found

    def _best(self, word: str, log_probs: NDArray[np.float32]) -> str:
        edits = 1 if len(word) <= 4 else 2
        near = [each for n in range(len(word) - edits, len(word) + edits + 1) for each in self._by_length.get(n, ())]
        close = extract(word, near, scorer=Levenshtein.distance, score_cutoff=edits, limit=CANDIDATES)
        candidates = [word, *(each for each, _, _ in close)]
        scores = ctc_log_probability(log_probs, [encode(each) for each in candidates])
        scores[1:] += [COMMONNESS * self._log_share[each] - scores[0] for each in candidates[1:]]
        scores[0] = FURTHEST
        return candidates[int(scores.argmax())]


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
    skips = np.full(states.shape, False)
    skips[:, 2:] = (states[:, 2:] != BLANK) & (states[:, 2:] != states[:, :-2])
    forward = np.full(states.shape, _NEVER)
    forward[:, :2] = log_probs[0][states[:, :2]]
    before = np.full((len(texts), states.shape[1] + 2), _NEVER)
    for frame in log_probs[1:]:
        before[:, 2:] = forward
        forward = np.logaddexp(forward, before[:, 1:-1])
        forward = np.logaddexp(forward, np.where(skips, before[:, :-2], _NEVER)) + frame[states]
    last = 2 * np.array([len(text) for text in texts])
    rows = np.arange(len(texts))
    found: NDArray[np.float64] = np.logaddexp(forward[rows, last], forward[rows, last - 1])
    return found


def _english() -> Iterable[tuple[str, int]]:
    file = importlib.resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        word, _, count = line.partition(" ")
        if _LETTERS.issuperset(word):
            yield word, int(count)
