# SPDX-License-Identifier: Apache-2.0
"""English words: which exist, how common they and their pairs are, and which are spelled much alike."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_nodes.errors import State
from edge_nodes.native import _kernels
from edge_nodes.speech.alphabet import SYMBOLS
from edge_nodes.speech.errors import SpeechError

_WORDS = "frequency_dictionary_en_82_765.txt"
_PAIRS = "frequency_bigramdictionary_en_243_342.txt"
_ROBOTS = ("lidar", "ok")
"""Words that robots hear and the list has not."""
_LETTERS = frozenset(SYMBOLS[2:])


class Lexicon:
    """Words and pairs of words with their counts, from the package symspellpy (MIT), and words of the robot's own.

    A contraction of a word ("robot's") exists as the word does, and counts for a twentieth of it.

    Args:
        own: more words; they count as common ones.

    Raises:
        SpeechError: the package's lists are missing.
    """

    def __init__(self, own: Iterable[str] = ()) -> None:
        more = " ".join((*_ROBOTS, *own)).lower().split()
        folder = _lists()
        self.native: Any = _kernels.Lexicon(
            (folder / _WORDS).read_bytes(),
            (folder / _PAIRS).read_bytes(),
            [word for word in more if _LETTERS.issuperset(word)],
        )
        """The lexicon as `spelling` takes it."""

    def __contains__(self, word: str) -> bool:
        return word in self.native

    def log_probability(self, word: str, before: str | None = None) -> float:
        """Return the logarithm of how likely a word of the lexicon is, after another one if that is given."""
        return float(self.native.log_probability(word, before))

    def log_bound(self, word: str, before: str | None = None) -> float:
        """Return `log_probability`, but of a pair that is not known at most that of the rarest one that is.

        It is low of common words that do not follow one another ("a had"), which their own shares do not tell.
        """
        return float(self.native.log_bound(word, before))

    def near(self, word: str, edits: int, limit: int) -> tuple[str, ...]:
        """Return at most `limit` words that 1 to 3 edits make of one, the closest first, without itself.

        Of words as close the shorter ones come first, and of those the commoner.
        """
        return tuple(self.native.near(word, edits, limit))


def _lists() -> Path:
    # Only its lists are wanted: imported, the package would take memory.
    found = find_spec("symspellpy")
    folder = Path(found.origin).parent if found is not None and found.origin is not None else Path()
    if found is None or not all((folder / name).is_file() for name in (_WORDS, _PAIRS)):
        raise SpeechError(
            "the words of English are missing",
            got=f"no {_WORDS} and {_PAIRS} in {folder}",
            expected="those of the package symspellpy",
            remedy="pip install 'symspellpy>=6.7,<7', or set the parameter words.correct to false.",
            state=State.MODEL_MISSING,
        )
    return folder
