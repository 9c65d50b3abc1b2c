# SPDX-License-Identifier: Apache-2.0
"""Random weights in the shape of a model, as a GGUF file: to time what cannot be fetched. It says nothing sensible."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from edge_nodes import models
from edge_nodes.errors import ModelError
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.vocabulary import Vocabulary, extended

Bytes = npt.NDArray[np.uint8]
TYPES = ("TQ1_0", "TQ2_0", "Q4_0", "Q4_1", "Q8_0", "F16", "BF16", "F32")
HEAD_TYPES = ("Q6_K", "Q8_0", "Q4_0", "Q4_1", "F16", "BF16")
_WEIGHTS_AT_ONCE = 1 << 22  # weights that are drawn in one go
_NUMBERS = re.compile(r"\d+(x\d+){4,5}")


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder.

    Attributes:
        architecture: "llama", or "bitnet": sub-norms before the output projections.
        layers, width, hidden, heads, kv_heads, vocabulary, context: sizes.
        head_dim: length of a head's keys.
        rope_base: base of the rotary embedding's frequencies.
    """

    architecture: str
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rope_base: float

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, rows and columns of every matrix of the layers, in the file's order."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for i in range(self.layers):
            for name, rows, cols in (
                ("attn_q", queries, self.width),
                ("attn_k", keys, self.width),
                ("attn_v", keys, self.width),
                ("attn_output", self.width, queries),
                ("ffn_gate", self.hidden, self.width),
                ("ffn_up", self.hidden, self.width),
                ("ffn_down", self.width, self.hidden),
            ):
                yield f"blk.{i}.{name}.weight", rows, cols

    def norms(self) -> Iterator[tuple[str, int]]:
        """Yield name and length of every normalisation's weights."""
        yield "output_norm.weight", self.width
        sizes = {"attn_norm": self.width, "ffn_norm": self.width}
        if self.architecture == "bitnet":
            sizes |= {"attn_sub_norm": self.heads * self.head_dim, "ffn_sub_norm": self.hidden}
        for i in range(self.layers):
            for name, size in sizes.items():
                yield f"blk.{i}.{name}.weight", size


SHAPES: Mapping[str, Shape] = {
    "bitnet-2b": Shape("bitnet", 30, 2560, 6912, 20, 5, 128, 128256, 4096, 500000.0),
    "135m": Shape("llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, 100000.0),
    "1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 500000.0),
}


def read_shape(text: str) -> Shape:
    """Return a shape by name, or from LAYERSxWIDTHxHIDDENxHEADSxKV_HEADS[xVOCABULARY] (Llama architecture).

    Raises:
        LanguageError: BAD_INPUT, neither, or sizes that do not go together.
    """
    if text in SHAPES:
        return SHAPES[text]
    numbers = [int(n) for n in text.split("x")] if _NUMBERS.fullmatch(text) else []
    layers, width, hidden, heads, kv_heads, vocabulary = ([*numbers, 49152] if len(numbers) == 5 else numbers) or [
        0
    ] * 6
    if not all((layers, width, hidden, heads, kv_heads)) or width % heads or heads % kv_heads or width // heads % 2:
        raise LanguageError(
            "no such shape",
            got=text,
            expected="one of "
            + ", ".join(SHAPES)
            + ", or LAYERSxWIDTHxHIDDENxHEADSxKV_HEADS[xVOCABULARY]: heads of even length, a multiple of kv_heads",
        )
    return Shape("llama", layers, width, hidden, heads, kv_heads, width // heads, vocabulary, 8192, 10000.0)


def write_model(
    path: Path,
    shape: Shape,
    *,
    kind: str = "TQ2_0",
    head: str = "Q6_K",
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write a model of random weights; the same seed gives the same file. One tensor is in memory at a time.

    Args:
        path: file to write; it appears when it is complete.
        shape: sizes.
        kind: type of the layers' matrices, one of `TYPES`.
        head: type of the embeddings, which are the output matrix too; one of `HEAD_TYPES`.
        seed: of the weights.
        progress: called with one line of text at each step.

    Raises:
        LanguageError: BAD_INPUT, an unknown type, columns that are no whole number of its blocks, no place to write.
    """
    _check(shape, kind, head)
    part = path.with_name(path.name + ".part")
    try:
        writer = gguf.GGUFWriter(part, shape.architecture)
        _describe(writer, shape, _vocabulary(shape.vocabulary), f"random {kind} weights, seed {seed}")
        matrices = [("token_embd.weight", shape.vocabulary, shape.width, head)]
        matrices += [(name, rows, cols, kind) for name, rows, cols in shape.matrices()]
        for name, rows, cols, type_name in matrices:
            number = gguf.GGMLQuantizationType[type_name]
            size, count = _block(type_name)
            shape_bytes = (rows, cols // count * size)
            writer.add_tensor_info(name, shape_bytes, np.dtype(np.uint8), int(np.prod(shape_bytes)), number)
        for name, length in shape.norms():
            writer.add_tensor_info(name, (length,), np.dtype(np.float32), 4 * length)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        rng = np.random.Generator(np.random.SFC64(seed))
        for done, (name, rows, cols, type_name) in enumerate(matrices):
            progress(f"{name}: {done} of {len(matrices)} matrices")
            writer.write_tensor_data(random_blocks(rng, type_name, rows, cols))
        for _, length in shape.norms():
            writer.write_tensor_data(rng.uniform(0.8, 1.2, length).astype(np.float32))
        writer.close()
        part.replace(path)
    except OSError as error:
        raise LanguageError("the model cannot be written", got=error) from error
    finally:
        part.unlink(missing_ok=True)


def _check(shape: Shape, kind: str, head: str) -> None:
    for name, known in ((kind, TYPES), (head, HEAD_TYPES)):
        if name not in known:
            raise LanguageError("no such type of weights here", got=name, expected="one of " + ", ".join(known))
    for name, cols in [(head, shape.width), *((kind, cols) for _, _, cols in shape.matrices())]:
        if cols % _block(name)[1]:
            raise LanguageError(
                f"{name} does not fit the shape", got=f"{cols} columns", expected=f"a multiple of {_block(name)[1]}"
            )


def _describe(writer: Any, shape: Shape, vocabulary: Vocabulary, name: str) -> None:
    values = {
        writer.add_name: name,
        writer.add_block_count: shape.layers,
        writer.add_context_length: shape.context,
        writer.add_embedding_length: shape.width,
        writer.add_feed_forward_length: shape.hidden,
        writer.add_head_count: shape.heads,
        writer.add_head_count_kv: shape.kv_heads,
        writer.add_key_length: shape.head_dim,
        writer.add_value_length: shape.head_dim,
        writer.add_vocab_size: shape.vocabulary,
        writer.add_layer_norm_rms_eps: 1e-5,
        writer.add_rope_freq_base: shape.rope_base,
        writer.add_rope_dimension_count: shape.head_dim,
        writer.add_tokenizer_model: "gpt2",
        writer.add_tokenizer_pre: vocabulary.pre,
        writer.add_token_list: vocabulary.tokens,
        writer.add_token_types: vocabulary.types,
        writer.add_token_merges: vocabulary.merges,
        writer.add_bos_token_id: vocabulary.bos,
        writer.add_eos_token_id: vocabulary.eos,
        writer.add_add_bos_token: False,
        writer.add_chat_template: vocabulary.chat_template,
    }
    for add, value in values.items():
        add(value)


def _vocabulary(size: int) -> Vocabulary:
    """Return SmolLM2's vocabulary where it is installed and fits, else byte pairs, filled up to `size` tokens."""
    try:
        path = models.find("smollm2-135m", verify=False).path
    except ModelError:
        return extended(None, size)
    from edge_nodes.language.gguf_file import GgufFile

    metadata = GgufFile(path).metadata
    known = Vocabulary.of(metadata)
    return extended(known if len(known.tokens) <= size else None, size)


def _block(kind: str) -> tuple[int, int]:
    count, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return int(size), int(count)


def random_blocks(rng: np.random.Generator, kind: str, rows: int, cols: int) -> Bytes:
    """Return a matrix of random weights of variance 1 / cols: uint8 (rows, bytes of a row)."""
    size, count = _block(kind)
    step = max(1, _WEIGHTS_AT_ONCE // cols)
    found = np.empty((rows, cols // count * size), np.uint8)
    for start in range(0, rows, step):
        part = found[start : start + step]
        blocks = part.size // size
        if kind == "TQ2_0":
            made = _random_ternary(rng, blocks, np.sqrt(1.5 / cols))
        elif kind == "Q6_K":
            made = _random_six_bits(rng, blocks, 1.0 / np.sqrt(cols))
        else:
            made = _quantised(rng, kind, len(part), cols)
        part[:] = made.reshape(part.shape)
    return found


def _random_ternary(rng: np.random.Generator, blocks: int, scale: float) -> Bytes:
    """Return blocks of TQ2_0: 64 bytes of four codes 0..2, then the scale as float16."""
    codes = np.arange(81, dtype=np.uint8)[:, None] // np.array([1, 3, 9, 27], np.uint8) % 3
    table = (codes << np.array([0, 2, 4, 6], np.uint8)).sum(1, dtype=np.uint8)
    out = np.empty((blocks, 66), np.uint8)
    out[:, :64] = table[rng.integers(0, 81, (blocks, 64), np.uint8)]
    out[:, 64:] = np.full((blocks, 1), scale, np.float16).view(np.uint8)
    return out


def _random_six_bits(rng: np.random.Generator, blocks: int, deviation: float) -> Bytes:
    """Return blocks of Q6_K: 256 codes of 6 bits, 16 signed scales of 8 bits, then the scale as float16."""
    out = np.empty((blocks, 210), np.uint8)
    out[:, :192] = rng.integers(0, 256, (blocks, 192), np.uint8)
    out[:, 192:208] = rng.integers(48, 80, (blocks, 16), np.uint8)
    # The codes -32..31 have a deviation of 18.5, the scales a mean of 63.5.
    out[:, 208:] = np.full((blocks, 1), deviation / (18.5 * 63.5), np.float16).view(np.uint8)
    return out


def _quantised(rng: np.random.Generator, kind: str, rows: int, cols: int) -> Bytes:
    if kind.startswith("TQ"):
        values = rng.integers(-1, 2, (rows, cols), np.int8) * np.float32(np.sqrt(1.5 / cols))
    else:
        values = rng.standard_normal((rows, cols), np.float32) * np.float32(cols**-0.5)
    made: Bytes = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]).view(np.uint8)
    return made
