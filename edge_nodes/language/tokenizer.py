# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, and the chat template, all from what a GGUF file says."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import decoders

from edge_nodes.errors import State
from edge_nodes.language import bpe
from edge_nodes.language.errors import LanguageError

# Texts of control tokens that end a turn, whatever the file names as its own end.
_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>")


class Tokenizer:
    """A byte-pair tokenizer with the model's special tokens and chat template.

    It is over bytes (model "gpt2") or of SentencePiece's kind (model "llama").

    Args:
        metadata: the `tokenizer.*` keys of a GGUF file.

    Raises:
        LanguageError: MODEL_BAD for a kind of tokenizer that is not known, or a missing key.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        tokens: Sequence[str] = _list(metadata, "tokens")
        types: Sequence[int] = metadata.get("tokenizer.ggml.token_type", [bpe.NORMAL] * len(tokens))
        self._bpe = _build(metadata, tokens, types)
        self.size = len(tokens)
        bos, eos = (1, 2) if metadata.get("tokenizer.ggml.model") == "llama" else (None, None)  # SentencePiece's own
        self.bos: int | None = metadata.get("tokenizer.ggml.bos_token_id", bos)
        self.eos: int | None = metadata.get("tokenizer.ggml.eos_token_id", eos)
        self._adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", _adds_bos(metadata)))
        ends = {self.eos, metadata.get("tokenizer.ggml.eot_token_id")}
        controls = [(tokens[i], i) for i, kind in enumerate(types) if kind == bpe.CONTROL]
        ends |= {i for t, i in controls if t in _ENDS}
        self.end_tokens = frozenset(i for i in ends if i is not None)
        self._controls = re.compile("|".join(re.escape(t) for t, _ in sorted(controls, reverse=True)) or r"(?!)")
        self._ids = dict(controls)
        self._control_ids = frozenset(self._ids.values())
        self._byte_level = metadata.get("tokenizer.ggml.model") == "gpt2"
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
        if not self._byte_level:
            stream = decoders.DecodeStream(skip_special_tokens=True)
            return lambda token: stream.step(self._bpe, token) or ""
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: characters.decode(self._bytes(token))

    def _bytes(self, token: int) -> bytes:
        """Return the bytes that a token of a tokenizer over bytes stands for; none for control tokens."""
        # The library's stream decodes some tokens again with each: 50 us after a step that filled the caches.
        letters = None if token in self._control_ids else self._bpe.id_to_token(token)
        return b"" if letters is None else bpe.token_bytes(letters)

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
        for run in self._runs(self._render(marked, reply), [m["content"] for m in messages]):
            ids += [run] if isinstance(run, int) else self.encode(run, special=False)
        starts = not self._adds_bos or self.bos is None or ids[:1] == [self.bos]
        return ids if starts else [self.bos, *ids]  # type: ignore[list-item]

    def _runs(self, text: str, contents: Sequence[str]) -> Iterator[int | str]:
        """Yield the control tokens of a rendered template, and the texts between them with their contents put in."""
        run = ""
        for number, part in enumerate(text.split("\ue000")):
            index, found, fixed = part.partition("\ue001")
            marked = bool(number and found)
            run += contents[int(index)] if marked else ""
            start, fixed = 0, fixed if marked else part
            for match in self._controls.finditer(fixed):
                run += fixed[start : match.start()]
                if run:
                    yield run
                yield self._ids[match.group()]
                run, start = "", match.end()
            run += fixed[start:]
        if run:
            yield run

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


def _list(metadata: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise LanguageError(f"the file has no tokenizer.ggml.{name}", state=State.MODEL_BAD)
    return found


def _pre(metadata: Mapping[str, Any]) -> str:
    """Return the pre-tokenizer's name; bitnet.cpp's files leave it out, and Llama 3's vocabulary tells."""
    if "tokenizer.ggml.pre" in metadata:
        return str(metadata["tokenizer.ggml.pre"])
    return "llama-bpe" if "<|begin_of_text|>" in metadata.get("tokenizer.ggml.tokens", ()) else "default"


def _adds_bos(metadata: Mapping[str, Any]) -> bool:
    """Return whether text begins with the token for it where the file does not say: as llama.cpp takes it."""
    return metadata.get("tokenizer.ggml.model") == "llama" or _pre(metadata) in bpe.LLAMA3


def _build(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Any:
    kind, pre = metadata.get("tokenizer.ggml.model"), _pre(metadata)
    if kind == "llama":
        prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        return bpe.sentence_piece(tokens, types, _list(metadata, "scores"), prefix=prefix)
    if kind == "gpt2" and pre in bpe.PRE_TOKENIZERS:
        return bpe.byte_level(tokens, types, _list(metadata, "merges"), pre)
    raise LanguageError(
        "the file's tokenizer is not supported",
        got=f"model {kind!r}, pre-tokenizer {pre!r}",
        expected="model 'llama', or 'gpt2' with a pre-tokenizer of " + ", ".join(bpe.PRE_TOKENIZERS),
        state=State.MODEL_BAD,
    )
