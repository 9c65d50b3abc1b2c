# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, and the chat template, all from what a GGUF file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Bpe

from edge_nodes.errors import State
from edge_nodes.language.errors import LanguageError

CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _byte_level(use_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _smollm() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level(True)])


def _llama3() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3), "isolated"), _byte_level(False)])


_PRE_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "smollm": _smollm,
    "gpt-2": lambda: _byte_level(True),
    "default": lambda: _byte_level(True),
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "llama-v3": _llama3,
}


class Tokenizer:
    """A byte-pair tokenizer with the model's special tokens and chat template.

    Args:
        metadata: the `tokenizer.*` keys of a GGUF file.

    Raises:
        LanguageError: MODEL_BAD for a kind of tokenizer that is not known, or a missing key.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        kind, pre = metadata.get("tokenizer.ggml.model"), str(metadata.get("tokenizer.ggml.pre", "default"))
        if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
            raise LanguageError(
                "the file's tokenizer is not supported",
                got=f"model {kind!r}, pre-tokenizer {pre!r}",
                expected="model 'gpt2', pre-tokenizer one of " + ", ".join(_PRE_TOKENIZERS),
                state=State.MODEL_BAD,
            )
        for key in ("tokens", "merges"):
            if not isinstance(metadata.get(f"tokenizer.ggml.{key}"), list):
                raise LanguageError(f"the file has no tokenizer.ggml.{key}", state=State.MODEL_BAD)
        tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
        types: Sequence[int] = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
        self._bpe = _build(tokens, types, metadata["tokenizer.ggml.merges"], _PRE_TOKENIZERS[pre]())
        self.size = len(tokens)
        self.bos: int | None = metadata.get("tokenizer.ggml.bos_token_id")
        self.eos: int | None = metadata.get("tokenizer.ggml.eos_token_id")
        self._adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", False))
        ends = {self.eos, metadata.get("tokenizer.ggml.eot_token_id")}
        ends |= {i for i, t in enumerate(tokens) if types[i] == CONTROL and t in ("<|im_end|>", "<|eot_id|>")}
        self.end_tokens = frozenset(i for i in ends if i is not None)
        self._texts = {"bos_token": _text(tokens, self.bos), "eos_token": _text(tokens, self.eos)}
        self._template = str(metadata.get("tokenizer.chat_template", ""))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the token ids of `text`.

        Args:
            text: any text.
            special: read special tokens such as <|im_start|> as such; with False they are plain text, as text
                that a user said must be.
        """
        self._bpe.encode_special_tokens = not special
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return [self.bos, *ids] if self._adds_bos and special and self.bos is not None else ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of token ids, with special tokens if `special`."""
        return str(self._bpe.decode(list(ids), skip_special_tokens=not special))

    def to_json(self) -> str:
        """Return the tokenizer as the `tokenizers` library writes it."""
        return str(self._bpe.to_str())

    def stream(self) -> Callable[[int], str]:
        """Return a function from the next token id to the text it completes ("" within a character)."""
        stream = decoders.DecodeStream(skip_special_tokens=True)
        return lambda token: stream.step(self._bpe, token) or ""

    def chat(self, messages: Sequence[Mapping[str, str]], *, reply: bool = True) -> list[int]:
        """Return the token ids of a conversation in the model's chat format.

        Args:
            messages: dicts of "role" and "content"; special tokens inside the content stay plain text.
            reply: end with the start of the assistant's reply.

        Raises:
            LanguageError: MODEL_BAD, the file has no chat template, or one that fails.
        """
        # Contents travel through the template as private-use marks, so that nobody can forge a role in them.
        marked = [{**m, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        ids: list[int] = []
        for number, part in enumerate(self._render(marked, reply).split("\ue000")):
            index, found, fixed = part.partition("\ue001")
            if number and found:
                content = messages[int(index)]["content"]
                ids += self._join(content, fixed)
            else:
                ids += self.encode(part)
        return ids

    def _join(self, content: str, fixed: str) -> list[int]:
        return self.encode(content, special=False) + (self.encode(fixed) if fixed else [])

    def _render(self, messages: Sequence[Mapping[str, str]], reply: bool) -> str:
        if not self._template:
            raise LanguageError("the model file has no chat template", state=State.MODEL_BAD)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        try:
            template = environment.from_string(self._template)
            return str(template.render(messages=messages, add_generation_prompt=reply, **self._texts))
        except TemplateError as error:
            raise LanguageError("the model's chat template failed", got=error, state=State.MODEL_BAD) from error


def _raise(message: str) -> None:
    raise TemplateError(message)


def _text(tokens: Sequence[str], token: int | None) -> str:
    return "" if token is None else tokens[token]


def _build(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre_tokenizer: Any) -> Any:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    bpe = Bpe(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=False))
    bpe.pre_tokenizer = pre_tokenizer
    bpe.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, types, strict=True))
    bpe.add_special_tokens([AddedToken(t, normalized=False) for t, k in kinds if k == CONTROL])
    bpe.add_tokens([AddedToken(t, normalized=False) for t, k in kinds if k == USER_DEFINED])
    return bpe
