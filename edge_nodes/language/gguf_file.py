# SPDX-License-Identifier: Apache-2.0
"""A GGUF file of the Llama or BitNet b1.58 architecture: checked metadata, and weights packed into the native model.

Block formats: ggml's GGUF specification (types Q4_0, Q4_1, Q8_0, Q6_K, TQ1_0, TQ2_0) and bitnet.cpp's I2_S; the file is
memory-mapped by `gguf`.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, overload

import gguf
import numpy as np

from edge_nodes.errors import State
from edge_nodes.language import rope
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.rope import Rope

TERNARY = ("TQ1_0", "TQ2_0", "I2_S")
PACKED = ("Q4_0", "Q4_1", "Q6_K", "Q8_0", *TERNARY)  # kept as they are; ternary types at 1.60 or 2.00 bits
CONVERTED = ("F32", "F16", "BF16")  # matrices become 8 bits per weight at load
BITNET = ("bitnet", "bitnet-b1.58")
ARCHITECTURES = ("llama", *BITNET)
_VALUES_AT_ONCE = 1 << 18  # weights that are converted in one go
I2_S = 36  # bitnet.cpp's number, unknown to `gguf`


class _Reader(gguf.GGUFReader):
    """The reader with arrays read at once: a vocabulary of 49,152 strings takes 0.05 s instead of 2 s."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        kind = gguf.GGUFValueType
        if raw_type != kind.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        inner, start = kind(int(item[0])), orig_offs + 12
        scalar = self.gguf_scalar_to_np.get(inner)
        if inner == kind.STRING and self.byte_order == "I":
            view: Any = self.data
            strings = Strings(memoryview(view), start, int(length[0]))
            return strings.end - orig_offs, [item, length, strings], [2], [kind.ARRAY, inner]
        if scalar is None:
            return super()._get_field_parts(orig_offs, raw_type)
        values = self._get(start, scalar, length[0])
        return 12 + values.nbytes, [item, length, values], [2], [kind.ARRAY, inner]

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
        known = {int(t) for t in gguf.GGMLQuantizationType}
        super()._build_tensors(start_offs, [f for f in fields if int(f.parts[4][0]) in known])
        self.tensors += [self._foreign(start_offs, f) for f in fields if int(f.parts[4][0]) not in known]

    def _foreign(self, start: int, field: Any) -> Any:
        _, name, _, dims, kind, offset = field.parts
        number, scale = int(kind[0]), 1.0
        data: np.ndarray = np.empty(0, np.uint8)
        if number == I2_S:  # 4 weights to a byte, then one float32 for the tensor
            cols, rows, at = int(dims[0]), int(np.prod(dims[1:])), int(start + offset[0])
            data = self._get(at, np.uint8, rows * cols // 4).reshape(rows, -1)
            scale = float(self._get(at + data.size, np.float32)[0])
        kind_name = "I2_S" if number == I2_S else f"number {number}"
        return SimpleNamespace(
            name=str(bytes(name), "utf-8"),
            tensor_type=SimpleNamespace(name=kind_name),
            shape=dims,
            data=data,
            scale=scale,
        )


class Strings(Sequence[str]):
    """The strings of an array in a file, each read when it is asked for.

    As objects, those of 128,256 tokens would take 24 MB, of which a part is never given back.

    Args:
        view: of the file.
        start: where the first string's length is.
        count: of strings.

    Raises:
        ValueError, struct.error: a string is not UTF-8, or the file ends before them.
    """

    def __init__(self, view: memoryview, start: int, count: int) -> None:
        self._view, self._start, self._ends = view, start, array("Q")
        self.end = start
        for _ in range(count):
            (size,) = struct.unpack_from("<Q", view, self.end)
            self.end += 8 + size
            if self.end > len(view):
                raise ValueError(f"a string ends at byte {self.end} of {len(view)}")
            str(view[self.end - size : self.end], "utf-8")
            self._ends.append(self.end)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        begin = self._start
        for end in self._ends:
            yield str(self._view[begin + 8 : end], "utf-8")
            begin = end

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        begin = self._ends[index - 1] if index else self._start
        return str(self._view[begin + 8 : self._ends[index]], "utf-8")


def _contents(field: Any) -> Any:
    """Return the value of a field of the file's description."""
    last = field.parts[-1]
    return last if isinstance(last, Strings) else field.contents()


def _eight_bits(tensor: Any) -> np.ndarray:
    """Return a matrix as Q8_0, uint8 (rows, bytes of a row): rounded as the native packing rounds F32.

    A few rows at a time: all of them as float32 would take four times the memory.
    """
    rows, cols = int(np.prod(tensor.shape[1:])), int(tensor.shape[0])
    source = tensor.data.reshape(rows, -1)
    out = np.empty((rows, cols // 32, 34), np.uint8)
    step = max(1, _VALUES_AT_ONCE // cols)
    for start in range(0, rows, step):
        part = gguf.dequantize(source[start : start + step], tensor.tensor_type)
        values = np.array(part, np.float32).reshape(-1, 32)
        largest = np.abs(values)
        for half in (16, 8, 4, 2, 1):  # five wide passes take a third of one narrow maximum's time
            largest = np.maximum(largest[:, :half], largest[:, half:])
        scale = (largest / np.float32(127)).astype(np.float16)
        divisor = scale.astype(np.float32)
        values /= np.where(divisor > 0, divisor, np.float32(np.inf))
        block = out[start : start + step].reshape(-1, 34)
        block[:, :2] = scale.view(np.uint8)
        block[:, 2:] = np.clip(np.rint(values, out=values), -128, 127, out=values).astype(np.int8).view(np.uint8)
    return out.reshape(rows, -1)


class GgufFile:
    """An open model file.

    Args:
        path: the file.
        changes: keys that the file lacks or has wrong, and their values.

    Attributes:
        metadata: {key: value} of everything the file says but its tensors.

    Raises:
        LanguageError: MODEL_BAD, not a GGUF file, truncated, or of an architecture that is not supported.
    """

    def __init__(self, path: Path, changes: Mapping[str, Any] | None = None) -> None:
        self.path = path
        try:
            reader = _Reader(path)
            self.metadata: Mapping[str, Any] = {k: _contents(f) for k, f in reader.fields.items()} | dict(changes or {})
        except (ValueError, IndexError, struct.error, UnicodeDecodeError, KeyError) as error:
            raise LanguageError(
                f"{path} is not a GGUF file, or a part of one",
                got=error,
                remedy="Fetch it again.",
                state=State.MODEL_BAD,
            ) from error
        self._data: Any = reader.data
        self.tensors = {t.name: t for t in reader.tensors}
        self.architecture = str(self.metadata.get("general.architecture"))
        if self.architecture not in ARCHITECTURES:
            raise self.bad("unsupported architecture", self.architecture, "one of " + ", ".join(ARCHITECTURES))

    @property
    def name(self) -> str:
        """Return the file's name without its suffix."""
        return self.path.stem

    def bad(self, what: str, got: object, expected: str = "") -> LanguageError:
        """Return the error that this file is not usable."""
        return LanguageError(f"{self.path.name}: {what}", got=got, expected=expected, state=State.MODEL_BAD)

    def number(self, key: str, default: float | None = None) -> float:
        """Return the value of `<architecture>.<key>`."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, int | float):
            raise self.bad(f"no number {self.architecture}.{key}", value)
        return value

    def sizes(self) -> dict[str, Any]:
        """Return the native model's sizes: vocabulary, width, hidden, layers, heads, kv_heads, head_dim, ..."""
        heads, width = int(self.number("attention.head_count")), int(self.number("embedding_length"))
        head_dim = int(self.number("attention.key_length", width // heads))
        if self.number("attention.value_length", head_dim) != head_dim:
            raise self.bad("keys and values of different length", self.number("attention.value_length"))
        magnitude = self._rope(head_dim).magnitude
        return {
            "vocabulary": len(self.metadata.get("tokenizer.ggml.tokens", ())),
            "width": width,
            "hidden": int(self.number("feed_forward_length")),
            "layers": int(self.number("block_count")),
            "heads": heads,
            "kv_heads": int(self.number("attention.head_count_kv", heads)),
            "head_dim": head_dim,
            "rope_dim": int(self.number("rope.dimension_count", head_dim)),
            "bitnet": self.architecture in BITNET,
            "epsilon": float(self.number("attention.layer_norm_rms_epsilon", 1e-5)),
            "column_unit": self._column_unit(),
            **({"rope_magnitude": magnitude} if magnitude != 1.0 else {}),
        }

    def _column_unit(self) -> int:
        from edge_nodes.language.blocks.shards import column_unit

        down = (tensor.tensor_type.name for name, tensor in self.tensors.items() if name.endswith("ffn_down.weight"))
        blocked = not {"TQ1_0", "TQ2_0", "Q6_K"}.isdisjoint(down)
        return column_unit(int(self.number("feed_forward_length")), blocked=blocked)

    def rope_frequencies(self) -> np.ndarray:
        """Return float32 (rope_dim / 2): radians per position of each rotated pair, scaled as the file says."""
        frequencies = self._rope(int(self.sizes()["head_dim"])).frequencies
        if "rope_freqs.weight" in self.tensors:
            frequencies = frequencies / self.tensors["rope_freqs.weight"].data.astype(np.float64)
        return frequencies.astype(np.float32)

    def _rope(self, head_dim: int) -> Rope:
        base = self.number("rope.freq_base", 10000.0)
        found = rope.plain(int(self.number("rope.dimension_count", head_dim)), base)
        factor = self.number("rope.scaling.factor", 0.0) or self.number("rope.scale_linear", 0.0) or 1.0
        kind = self.metadata.get(f"{self.architecture}.rope.scaling.type", "linear")
        if kind == "linear":
            return rope.linear(found, factor)
        if kind == "yarn":
            trained = self.number("rope.scaling.original_context_length", self.number("context_length", 2048))
            return rope.yarn(found, factor, base=base, trained_context=trained)
        if kind != "none":
            raise self.bad("unsupported RoPE scaling", kind, "none, linear, yarn, or a tensor rope_freqs.weight")
        return found

    def fill(self, model: Any, progress: Callable[[str], None] = lambda _: None) -> None:
        """Pack every weight into the native `model`.

        Raises:
            LanguageError: MODEL_BAD, a tensor is missing, has another shape, or a type that is not supported.
        """
        self.check_types()
        model.set_rope(self.rope_frequencies())
        for done, tensor in enumerate(self.tensors.values()):
            if done % 64 == 0:
                progress(f"packing weights: {done} of {len(self.tensors)} tensors")
            self._set(model, tensor)
            self._leave(tensor.data)
        for name in (n for n in self.tensors if n.endswith(".scale")):
            if not model.scale_matrix(name.removesuffix(".scale"), float(self.tensors[name].data[0])):
                raise self.bad("scale of no ternary tensor", name)
        if missing := model.missing():
            raise self.bad("missing tensors", ", ".join(missing[:5]))

    @property
    def dense(self) -> bool:
        """Return whether there are weights of less than 2 bits (TQ1_0)."""
        return any(t.tensor_type.name == "TQ1_0" for t in self.tensors.values())

    @property
    def ternary_weights(self) -> int:
        """Return how many weights are ternary."""
        return sum(int(np.prod(t.shape)) for t in self.tensors.values() if t.tensor_type.name in TERNARY)

    def rows_of(self, tensor: Any) -> tuple[str, Any, int, float]:
        """Return a matrix as the kernels pack it: type, bytes (rows, bytes of a row), columns, scale of the tensor."""
        cols = int(tensor.shape[0])
        if tensor.tensor_type.name in PACKED:
            return tensor.tensor_type.name, tensor.data, cols, float(getattr(tensor, "scale", 1.0))
        if cols % 32 == 0:
            return "Q8_0", _eight_bits(tensor), cols, 1.0
        values = np.ascontiguousarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        return "F32", values.view(np.uint8), cols, 1.0

    def check_types(self) -> None:
        """Raise LanguageError (MODEL_BAD) if a tensor is of a type that is not supported."""
        for t in self.tensors.values():
            known = t.tensor_type.name in (*PACKED, *CONVERTED) if len(t.shape) > 1 else t.tensor_type.name == "F32"
            if not known:
                expected = "one of " + ", ".join((*PACKED, *CONVERTED)) if len(t.shape) > 1 else "F32"
                raise self.bad(f"unsupported weight type in tensor {t.name}", t.tensor_type.name, expected)

    def _leave(self, data: Any) -> None:
        """Unmap the pages of a tensor: packed, it must not be in memory twice; the file's cache keeps it."""
        page = mmap.ALLOCATIONGRANULARITY
        start = data.__array_interface__["data"][0] - self._data.__array_interface__["data"][0]
        first, end = start // page * page, start + data.nbytes
        if hasattr(mmap, "MADV_DONTNEED") and data.nbytes:
            self._data.base.madvise(mmap.MADV_DONTNEED, first, end - first)

    def _set(self, model: Any, tensor: Any) -> None:
        name = tensor.name.removesuffix(".weight")
        if name == "rope_freqs" or name.endswith(".scale"):
            return
        try:
            if len(tensor.shape) == 1:
                known = model.set_vector(name, tensor.data)
            else:
                known = model.set_matrix(name, *self.rows_of(tensor))
        except ValueError as error:
            raise self.bad("tensor of the wrong shape", error) from error
        if not known:
            raise self.bad("unknown tensor", tensor.name)
