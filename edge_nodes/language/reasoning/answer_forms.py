# SPDX-License-Identifier: Apache-2.0
"""The answer that a text arrives at, in a form that can be compared: a number, a choice, or free text."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

FORMS = ("number", "choice", "text")
ASKED = {
    "number": 'End with a line "The answer is N", where N is a number.',
    "choice": 'End with a line "The answer is (X)", where X is the letter of the choice.',
    "text": "Give only the answer.",
}
"""What a question is told of the form its answer must have."""

_NUMBER = re.compile(r"-?\$?-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?%?")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_SAID = re.compile(r"(?:answer|result)(?:\s+is|\s*:|\s*=)+\s*", re.IGNORECASE)
_LETTER = re.compile(r"\(([A-Z])\)|\b([A-Z])[.):]|^\s*([A-Z])\s*$", re.MULTILINE)
_BARE_LETTER = re.compile(r"\(?([A-Z])\b")
_ARTICLES = frozenset(("a", "an", "the"))


def parse_answer(text: str, form: str) -> str | None:
    """Return the final answer of a text in a canonical form; None if it has none.

    What follows the last "answer is" (or stands in the last box) counts; without that the last number, or the first
    letter that stands alone as a choice does.

    Args:
        text: what was said.
        form: "number", "choice" (capital letters) or "text" (normalised: lower case, no punctuation, no articles).
    """
    return _PARSERS[form](text)


def _number(text: str) -> str | None:
    for part in (*_final_parts(text), text):
        found = [n for m in _NUMBER.finditer(part) if (n := _plain_number(m.group())) is not None]
        if found:
            return found[0] if part is not text else found[-1]
    return None


def _plain_number(text: str) -> str | None:
    digits = re.sub(r"[$,%]", "", text)
    if not re.search(r"\d", digits):
        return None
    try:
        value = Fraction(digits)
    except (ValueError, ZeroDivisionError):
        return None
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _choice(text: str) -> str | None:
    for part in _final_parts(text):
        if found := _BARE_LETTER.match(part.lstrip()):
            return found.group(1)
    found = _LETTER.search(text)
    return next(g for g in found.groups() if g) if found else None


def _text(text: str) -> str | None:
    words = re.findall(r"[a-z0-9]+(?:[.'][a-z0-9]+)*", text.lower())
    return " ".join(w for w in words if w not in _ARTICLES) or None


def _final_parts(text: str) -> list[str]:
    """Return what stands in the last box and after the last "answer is", as far as they are there."""
    boxes, said = _BOXED.findall(text), list(_SAID.finditer(text))
    return [*boxes[-1:], *(text[m.end() :].partition("\n")[0] for m in said[-1:])]


_PARSERS: dict[str, Callable[[str], str | None]] = {"number": _number, "choice": _choice, "text": _text}
