# SPDX-License-Identifier: Apache-2.0
"""Answers of a given form: a JSON schema, a regular expression or a grammar decides which tokens may come next.

Masks are computed by `llguidance` (Earley parser over derivative-based lexing, walked over a trie of the vocabulary).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_nodes.language.errors import LanguageError

if TYPE_CHECKING:
    from edge_nodes.language.tokenizer import Tokenizer

_SEPARATORS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraint(NamedTuple):
    """The form an answer must have.

    Attributes:
        grammar: `llguidance`'s internal form of it.
        source: what the user wrote.
    """

    grammar: str
    source: str

    @classmethod
    def json_schema(cls, schema: str | Mapping[str, Any]) -> Constraint:
        """Return the constraint that the answer is JSON of a schema, on one line.

        Args:
            schema: JSON Schema (2020-12; what `llguidance` knows of it), as text or as an object.

        Raises:
            LanguageError: BAD_INPUT, not JSON.
        """
        from llguidance import LLMatcher

        source = schema if isinstance(schema, str) else json.dumps(schema)
        try:
            return cls(LLMatcher.grammar_from_json_schema(source, defaults=_SEPARATORS), source)
        except ValueError as error:
            raise LanguageError("the JSON schema is not valid", got=error) from error

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Return the constraint that the whole answer matches a regular expression (of Rust's `regex`)."""
        from llguidance import LLMatcher

        return cls(LLMatcher.grammar_from_regex(pattern), pattern)

    @classmethod
    def lark(cls, grammar: str) -> Constraint:
        """Return the constraint that the answer follows a context-free grammar in Lark's notation, rule `start`."""
        from llguidance import LLMatcher

        return cls(LLMatcher.grammar_from_lark(grammar), grammar)

    @classmethod
    def file(cls, path: str | Path) -> Constraint:
        """Return the constraint in a file: a JSON schema (.json), or a grammar (.lark).

        Raises:
            LanguageError: BAD_INPUT, the file cannot be read or has another suffix.
        """
        path = Path(path).expanduser()
        make = {".json": cls.json_schema, ".lark": cls.lark}.get(path.suffix)
        if make is None:
            raise LanguageError("no such kind of grammar", got=path, expected="a file *.json (JSON schema) or *.lark")
        try:
            return make(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise LanguageError("the grammar cannot be read", got=error) from error


class Constrainer:
    """Makes matchers for one vocabulary.

    Args:
        tokenizer: the model's.
        vocabulary: rows of its logits; may be more than the tokenizer has tokens.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        from llguidance import LLTokenizer

        ends = sorted(tokenizer.end_tokens)
        self._tokenizer = LLTokenizer(tokenizer.to_json(), n_vocab=vocabulary, eos_token=ends or None)

    def matcher(self, constraint: Constraint) -> Matcher:
        """Return a matcher for one answer.

        Raises:
            LanguageError: BAD_INPUT, the schema, expression or grammar is not valid.
        """
        from llguidance import LLMatcher

        return Matcher(LLMatcher(self._tokenizer, constraint.grammar, log_level=0), constraint)


class Matcher:
    """Follows one answer.

    Args:
        matcher: `llguidance.LLMatcher`.
        constraint: what it follows.
    """

    def __init__(self, matcher: Any, constraint: Constraint) -> None:
        self._matcher, self._constraint = matcher, constraint
        self._check()

    @property
    def done(self) -> bool:
        """Whether nothing more may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> npt.NDArray[np.uint8]:
        """Return a bit for each token that may come next, the lowest first: uint8 (vocabulary / 8,)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return bits

    def take(self, token: int) -> None:
        """Go on with `token`, one of those that were allowed."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            text = " ".join(str(self._matcher.get_error()).split())
            raise LanguageError(
                "the form of the answer cannot be followed",
                got=text[:200],
                expected="a JSON schema, regular expression or grammar that llguidance knows",
                remedy=f"It was: {self._constraint.source[:200]}",
            )
