# SPDX-License-Identifier: Apache-2.0
"""The two kinds of byte-pair tokenizers that GGUF files carry, built with the library `tokenizers`.

A pre-tokenizer cuts text into the pieces that merges stay within; GGUF names it, and its expression is the one that
the model was trained with: GPT-2's (its encoder.py), Llama 3's and Qwen2's (their published tokenizer.json).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # values of tokenizer.ggml.token_type
LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "falcon3", "dbrx", "smaug-bpe")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPACE = "\u2581"  # SentencePiece's sign for it


def byte_letters() -> list[str]:
    """Return the letters that GPT-2's vocabulary writes the bytes 0 to 255 with."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


# For str.translate: letters to the characters of their bytes, those that are no such letters to one that is no byte.
_BYTES: dict[int, int] = dict.fromkeys(range(256), 0xFFFF) | {ord(a): b for b, a in enumerate(byte_letters())}


def token_bytes(letters: str) -> bytes:
    """Return the bytes of a token over bytes; of another text, which a vocabulary may add, those of UTF-8."""
    try:
        return letters.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        return letters.encode()


def _cut(*expressions: str) -> Callable[[], Any]:
    """Return what makes a pre-tokenizer that cuts by each expression in turn."""

    def make() -> Any:
        cuts = [pre_tokenizers.Split(Regex(e), "isolated") for e in expressions]
        return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    return make


PRE_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "default": _cut(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo"), _cut(_GPT2)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), _cut(r"\p{N}", _GPT2)),
    **dict.fromkeys(LLAMA3, _cut(_WORDS % r"\p{N}{1,3}")),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _cut(_WORDS % r"\p{N}")),
}


def byte_level(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre: str) -> Any:
    """Return a tokenizer over bytes, which GPT-2's alphabet writes as letters.

    Args:
        tokens: in the order of their ids.
        types: of the tokens.
        merges: "left right", first ones first.
        pre: one of `PRE_TOKENIZERS`.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre in LLAMA3))
    bpe.pre_tokenizer = PRE_TOKENIZERS[pre]()
    bpe.decoder = decoders.ByteLevel()
    return _with_added(bpe, tokens, types)


def sentence_piece(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float], *, prefix: bool) -> Any:
    """Return a tokenizer of SentencePiece's byte-pair kind: the pair whose token scores best is merged first.

    Args:
        tokens: in the order of their ids; a character that is none of them becomes tokens of its bytes.
        types: of the tokens.
        scores: of the tokens.
        prefix: whether text begins with a space.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    merges = _merges(tokens, types, scores, vocabulary)
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, byte_fallback=True, fuse_unk=True))
    start = [normalizers.Prepend(_SPACE)] if prefix else []
    bpe.normalizer = normalizers.Sequence([*start, normalizers.Replace(" ", _SPACE)])
    end = [decoders.Strip(" ", 1, 0)] if prefix else []
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *end]
    bpe.decoder = decoders.Sequence(parts)
    return _with_added(bpe, tokens, types)


def _merges(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float], vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return every way to join two tokens to a third, those of the best scores first."""
    found = []
    for token, kind, score in zip(tokens, types, scores, strict=True):
        if kind != NORMAL:
            continue
        for i in range(1, len(token)):
            left, right = vocabulary.get(token[:i]), vocabulary.get(token[i:])
            if left is not None and right is not None:
                found.append((-score, left, right))
    return [(tokens[left], tokens[right]) for _, left, right in sorted(found)]


def _with_added(bpe: Any, tokens: Sequence[str], types: Sequence[int]) -> Any:
    for add, kind in ((bpe.add_special_tokens, CONTROL), (bpe.add_tokens, USER_DEFINED)):
        add([AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=True) if k == kind])
    return bpe
