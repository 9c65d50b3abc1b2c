# SPDX-License-Identifier: Apache-2.0
"""Byte-pair vocabularies of a wanted size, for files of random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edge_nodes.language.bpe import CONTROL, NORMAL, byte_letters
from edge_nodes.language.errors import LanguageError

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Vocabulary(NamedTuple):
    """The tokenizer's part of a GGUF file.

    Attributes:
        tokens, types, merges: as the file lists them.
        pre: name of the pre-tokenizer.
        bos, eos: ids of the tokens that begin a text and end an answer.
        chat_template: jinja.
    """

    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    pre: str
    bos: int
    eos: int
    chat_template: str

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Vocabulary:
        """Return the vocabulary of a file with a byte-pair tokenizer and a chat template."""
        keys = ("tokens", "token_type", "merges", "pre", "bos_token_id", "eos_token_id")
        return cls._make([*(metadata[f"tokenizer.ggml.{key}"] for key in keys), metadata["tokenizer.chat_template"]])


def bytes_only() -> Vocabulary:
    """Return a vocabulary of the 256 bytes, in the letters that GPT-2 writes them with, and three control tokens."""
    tokens = [*_SPECIAL, *byte_letters()]
    types = [CONTROL] * len(_SPECIAL) + [NORMAL] * 256
    return Vocabulary(tokens, types, [], "gpt-2", 1, 2, _CHAT)


def extended(known: Vocabulary | None, size: int) -> Vocabulary:
    """Return `known`, or the bytes, with as many merges of letters after its own as make `size` tokens.

    Raises:
        LanguageError: BAD_INPUT, `size` is too small.
    """
    known = known or bytes_only()
    if size < len(known.tokens):
        raise LanguageError("the vocabulary is too small", got=size, expected=f"at least {len(known.tokens)}")
    tokens, types, merges = list(known.tokens), list(known.types), list(known.merges)
    present = set(tokens)
    for left, right in _pairs():
        if len(tokens) == size:
            break
        if left + right not in present:
            tokens.append(left + right)
            types.append(NORMAL)
            merges.append(f"{left} {right}")
    return known._replace(tokens=tokens, types=types, merges=merges)


def _pairs() -> Iterator[tuple[str, str]]:
    """Yield pairs whose left side is a letter or an earlier pair, shortest first."""
    words = list(_LETTERS)
    while True:
        for word in words:
            yield from ((word, letter) for letter in _LETTERS)
        words = [word + letter for word in words for letter in _LETTERS]
