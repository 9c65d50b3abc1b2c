# SPDX-License-Identifier: Apache-2.0
"""Whether look-up tables or int8 products are the faster way for ternary weights: measured once on each machine.

Both give the same result, so the choice is one of speed alone. It is kept in a cache file, by processor, instruction
set, version of the kernels and shape; a file that cannot be read is measured anew, one that cannot be written is not.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found", "Choice", "Density")
TABLE_TOKENS = 32  # of a row of a look-up table
MOST_ROWS, MOST_COLS = 1024, 2560  # of the weights that are measured, so that a slow board takes no longer than 0.1 s
REPEATS = 3
COPIES = 40  # of 2560 x 2560 weights, 52 MB at 1.60 bits: more than most caches hold
FROM_MEMORY = COPIES * 2560 * 2560  # so many weights are not in the caches when they are needed again
PROMPT_TOKENS = 64
LEAST_GAIN, LEAST_PROMPT = 1.05, 0.85


@dataclass(frozen=True)
class Choice:
    """What was measured for matrices of one shape with 32 tokens.

    Attributes:
        rows: of the matrix.
        cols: weights of a row.
        dot_gmacs: 10^9 multiply-adds a second of int8 products.
        lut_gmacs: the same of look-up tables.
    """

    rows: int
    cols: int
    dot_gmacs: float
    lut_gmacs: float

    @property
    def tables_from(self) -> int:
        """Return from how many tokens on tables are faster; more than 32 if they never are.

        A table costs the same for 1 to 32 tokens, products cost by the token.
        """
        return max(2, math.ceil(TABLE_TOKENS * self.dot_gmacs / self.lut_gmacs))


@dataclass(frozen=True)
class Density:
    """What was measured for weights at 1.60 and 2.00 bits, 10^9 multiply-adds a second.

    Attributes:
        dense_gmacs, two_bit_gmacs: with one token, whose weights come from memory.
        dense_prompt_gmacs, two_bit_prompt_gmacs: with the 64 tokens of a step of a prompt, by the faster method.
    """

    dense_gmacs: float
    two_bit_gmacs: float
    dense_prompt_gmacs: float
    two_bit_prompt_gmacs: float

    @property
    def dense(self) -> bool:
        """Return whether weights at 1.60 bits are no slower with one token."""
        return self.dense_gmacs >= self.two_bit_gmacs

    @property
    def repacked(self) -> bool:
        """Return whether weights of 2 bits shall be packed at 1.60: answers gain clearly, prompts lose little."""
        gain = self.dense_gmacs >= LEAST_GAIN * self.two_bit_gmacs
        return gain and self.dense_prompt_gmacs >= LEAST_PROMPT * self.two_bit_prompt_gmacs


def tune(model: Any) -> None:
    """Tell a native `Model` with its weights from how many tokens on tables multiply each of its ternary matrices."""
    if model.method == "auto" and (shapes := model.ternary_shapes()):
        found = choices(shapes, model.kernel)
        model.set_table_choices([(c.rows, c.cols, c.tables_from) for c in found])


def choices(shapes: Iterable[tuple[int, int]], kernel: str = "auto") -> list[Choice]:
    """Return the choice for each (rows, columns), measured now if it is not known.

    Args:
        shapes: of ternary matrices.
        kernel: instruction set, see `edge_nodes.native._kernels.supported_kernels`.

    Raises:
        ValueError: this processor has no such kernel.
    """
    from edge_nodes.native import _kernels as native

    def measure(shape: tuple[int, int]) -> Choice:
        rows, cols = shape
        weights = native.random_ternary(min(rows, MOST_ROWS), min(cols, MOST_COLS))
        macs = weights.rows * weights.cols * TABLE_TOKENS
        seconds = [native.time_products([weights], TABLE_TOKENS, kernel, m, 1, REPEATS) for m in ("dot", "lut")]
        return Choice(rows, cols, *(round(macs / s / 1e9, 3) for s in seconds))

    with _Cache(kernel) as cache:
        return [cache.get(f"{s[0]}x{s[1]}", Choice, partial(measure, s)) for s in shapes]


def density(kernel: str = "auto") -> Density:
    """Return how fast tokens are multiplied by weights at 1.60 and at 2.00 bits, measured now if it is not known.

    Raises:
        ValueError: this processor has no such kernel.
    """
    from edge_nodes.native import _kernels as native

    def rate(dense: bool, count: int) -> float:
        weights = native.random_ternary(2560, 2560, dense)
        copies = [weights, *(weights.copy() for _ in range(count - 1))]
        seconds = native.time_products(copies, 1, kernel, "dot", 1, REPEATS if count > 1 else 1)
        return float(round(weights.rows * weights.cols * count / seconds / 1e9, 3))

    def prompt_rate(dense: bool) -> float:
        weights = native.random_ternary(MOST_ROWS, MOST_COLS, dense)
        seconds = (native.time_products([weights], PROMPT_TOKENS, kernel, m, 1, REPEATS) for m in ("dot", "lut"))
        return float(round(weights.rows * weights.cols * PROMPT_TOKENS / min(seconds) / 1e9, 3))

    def measure() -> Density:
        one = (rate(True, 1), rate(False, 1))
        if one[0] >= one[1] / 3:  # otherwise memory cannot make up for it
            one = (rate(True, COPIES), rate(False, COPIES))
        return Density(*one, prompt_rate(True), prompt_rate(False))

    with _Cache(kernel) as cache:
        return cache.get("density", Density, measure)


def known(kernel: str = "auto") -> list[Choice]:
    """Return the choices in the cache file for this processor and instruction set."""
    with _Cache(kernel) as cache:
        return cache.all(Choice)


def cache_file() -> Path:
    """Return where the choices are kept; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edge_nodes" / "kernels.json"


def cpu_name() -> str:
    """Return the processor's name, or its architecture if it has none."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = dict(reversed([(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]))
        parts = [f"{key} {found[key]}" for key in ("CPU implementer", "CPU part") if key in found]
        if name := found.get("model name") or ", ".join(parts):
            return name
    return platform.machine()


class _Cache:
    """The cache file, written back if something was added."""

    def __init__(self, kernel: str) -> None:
        from edge_nodes.native import _kernels as native

        if kernel == "auto":
            kernel = native.supported_kernels()[0]
        self._prefix = f"{cpu_name()} | {kernel} | {native.KERNEL_VERSION} | "
        self._entries: dict[str, Any] = {}
        self._new: dict[str, Any] = {}

    def __enter__(self) -> _Cache:
        self._entries = _read(cache_file())
        return self

    def __exit__(self, *_: object) -> None:
        if self._new:
            _write(cache_file(), {**_read(cache_file()), **self._new})

    def get(self, name: str, kind: type[Found], measure: Callable[[], Found]) -> Found:
        key = self._prefix + name
        found = _parse(kind, self._entries.get(key))
        if found is None:
            found = measure()
            self._entries[key] = self._new[key] = asdict(found)
        return found

    def all(self, kind: type[Found]) -> list[Found]:
        mine = (value for key, value in self._entries.items() if key.startswith(self._prefix))
        return [found for value in mine if (found := _parse(kind, value)) is not None]


def _parse(kind: type[Found], value: object) -> Found | None:
    """Return an object of `kind`, or None if `value` is not what one is made of."""
    if not isinstance(value, Mapping) or set(value) != set(kind.__dataclass_fields__):
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not 0 < v < math.inf for v in value.values()):
        return None
    return kind(**value)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, entries: Mapping[str, Any]) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(entries, indent=1, sort_keys=True))
        part.replace(path)
