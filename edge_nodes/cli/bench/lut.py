# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench lut`: products of low-bit weights by every kernel, beside the machine's own bounds.

The machine may be shared: bounds and products are timed in turn, several rounds of each, and the best of all counts.
A product is compared with the bounds of its own matrices' rounds. One thread is timed by the processor time it got,
more by the clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from edge_nodes.cli import figures
from edge_nodes.language import kernel_choice
from edge_nodes.language.synthetic import random_blocks

SHAPES = ((2560, 2560), (6912, 2560), (2560, 6912), (4096, 14336))  # rows, columns
TOKENS = (1, 2, 4, 8, 12, 16, 32, 128, 512)
THREADS = (1, 2)
STREAMED_BYTES = 1 << 27  # weights a single token reads, more than the caches hold
MACS_PER_ROW = 4 * 32  # weights of one index, tokens of a row
BYTES = {"2.00": 2 / 8, "1.60": 1.6 / 8, "Q4_0": 18 / 32, "Q6_K": 210 / 256, "Q8_0": 34 / 32}  # a weight
TERNARY = ("2.00", "1.60")  # bits of a weight; the others are GGUF's types of 4, 6 and 8 bits
MANY = 32  # tokens from which on products are bound by instructions
STREAMING_ROUNDS = 4  # times as many for one token and for two threads: what other programs disturb most

PEAK, ROWS, MEMORY = "product_peak_gmacs", "table_rows_gmacs", "memory_gb_s"


class Case(NamedTuple):
    """One product."""

    rows: int
    cols: int
    type: str
    n: int
    threads: int
    kernel: str
    method: str


Rates = dict[Case, float]  # 10^9 multiply-adds a second, best of all rounds
Bounds = dict[tuple[str, int, str], float]  # by kernel, threads and name


def bench(console: Console, *, quick: bool) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        quick: one shape and three token counts.
    """
    from edge_nodes.native import _kernels as native

    shapes, tokens, rounds = (SHAPES[:1], (1, 32, 128), 3) if quick else (SHAPES, TOKENS, 5)
    kernels = [k for k in native.supported_kernels() if k != "portable"] or ["portable"]
    bounds: Bounds = defaultdict(float)
    products = []
    for shape in shapes:
        for kind in BYTES if shape == shapes[0] else TERNARY:
            matrices = _matrices(native, *shape, kind)
            cases = list(_cases(shape, kind, tokens, kernels))
            here: Bounds = defaultdict(float)
            rates: Rates = defaultdict(float)
            with console.status(f"products of {shape[0]} x {shape[1]}, {kind}"):
                for turn in range(rounds * STREAMING_ROUNDS):
                    _bounds(native, matrices, kernels, here, streaming=turn >= rounds)
                    for case in cases:
                        if turn < rounds or case.n == 1 or _scales(case, kernels[0]):
                            _product(native, matrices, case, rates)
            products += _product_rows(rates, here)
            bounds.update({key: max(bounds[key], value) for key, value in here.items()})
    found = {
        "bounds": _bound_rows(bounds),
        "products": products,
        "bits_of_tq1_0": 1.6 if kernel_choice.density(kernels[0]).dense else 2.0,
    }
    about = {"quick": quick, "rounds": rounds, "kernels": kernels}
    return figures.result("lut", about, found, targets(found))


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    found = result["results"]
    rows: list[tuple[Any, ...]] = [(b["kernel"], b["threads"], b[PEAK], b[ROWS], b[MEMORY]) for b in found["bounds"]]
    columns: tuple[str, ...] = ("kernel", "threads", "int8 products, GMAC/s", "table rows, GMAC/s", "memory, GB/s")
    figures.show_table(console, "bounds", columns, rows)
    names = ("type", "n", "threads", "kernel", "method", "gmacs", "share")
    rows = [(f"{p['rows']} x {p['cols']}", *(p[name] for name in names)) for p in found["products"]]
    columns = ("rows x columns", "type", "N", "threads", "kernel", "method", "GMAC/s", "of the bound")
    figures.show_table(console, "products", columns, rows)
    figures.show_targets(console, result["targets"])


def targets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached; the value is the worst over shapes and token counts."""
    kernels = list(dict.fromkeys(b["kernel"] for b in found["bounds"]))
    rates = {Case(*(p[name] for name in Case._fields)): p["gmacs"] for p in found["products"]}
    shares = {Case(*(p[name] for name in Case._fields)): p["share"] for p in found["products"]}
    best = kernels[0]

    def worst(values: Mapping[Case, float], **wanted: Any) -> float | None:
        many = (v for c, v in values.items() if all(getattr(c, name) == w for name, w in wanted.items()))
        return min((v for v in many if v), default=None)

    def ratios(over: Mapping[str, Any], under: Mapping[str, Any], least: int = MANY) -> dict[Case, float]:
        cases = (c for c in rates if c.n >= least and all(getattr(c, name) == w for name, w in over.items()))
        return {c: rates[c] / rates[c._replace(**under)] for c in cases if c._replace(**under) in rates}

    ternary = {c: v for c, v in shares.items() if c.type == "2.00" and c.threads == 1}
    many = {c: v for c, v in ternary.items() if c.n >= MANY}
    out = []
    for kernel in kernels:
        if kernel != "avx2":  # where tables are the way, as the target after the next says
            value = worst(many, kernel=kernel, method="dot")
            out.append(figures.target(f"{kernel}: int8 products / product peak, N >= {MANY}", value, ">=", 0.8))
    for kernel in kernels:
        value = worst(many, kernel=kernel, method="lut")
        out.append(figures.target(f"{kernel}: tables / table-row bound, N >= {MANY}", value, ">=", 0.45))
    if "avx2" in kernels:
        two = {"kernel": "avx2", "method": "lut", "threads": 1, "type": "2.00"}
        value = worst(ratios(two, {"method": "dot"}))
        out.append(figures.target(f"avx2: tables / int8 products, N >= {MANY}", value, ">=", 1.4))
    value = worst(ternary, n=1, kernel=best)
    out.append(figures.target("N = 1: weights read / memory bandwidth", value, ">=", 0.9))
    kept = found["bits_of_tq1_0"] == 1.6
    one = {"kernel": best, "threads": 1, "n": 1, "type": "1.60"}
    value = worst(ratios(one, {"type": "2.00"}, 1)) if kept else 1.0
    how = "kept" if kept else "repacked to 2.00 at load"
    out.append(figures.target(f"N = 1: weights of 1.60 bits ({how}) / 2.00 bits", value, ">=", 1.0))
    pair = {"kernel": best, "threads": 2, "method": "dot", "type": "2.00"}
    value = worst(ratios(pair, {"threads": 1}))
    out.append(figures.target(f"2 threads / 1 thread, int8 products, N >= {MANY}", value, ">=", 1.85))
    peaks = {b["threads"]: b[PEAK] for b in found["bounds"] if b["kernel"] == best}
    value = peaks[2] / peaks[1] if peaks[1] else None
    out.append(figures.target("2 threads / 1 thread of the machine itself", value, ">=", 1.85))
    return out


def _scales(case: Case, kernel: str) -> bool:
    """Return whether a case is one of those that say what a second thread gains."""
    return case.n >= MANY and case.type == "2.00" and (case.kernel, case.method) == (kernel, "dot")


def _cases(shape: tuple[int, int], kind: str, tokens: Iterable[int], kernels: Iterable[str]) -> Iterable[Case]:
    for kernel in kernels:
        for threads in THREADS:
            for n in tokens:
                # Few tokens do not fill a row of a table; other weights than ternary ones have no tables.
                for method in ("dot", "lut") if n >= 8 and kind in TERNARY else ("dot",):
                    yield Case(*shape, kind, n, threads, kernel, method)


def _matrices(native: Any, rows: int, cols: int, kind: str) -> list[Any]:
    """Return as many copies of one random matrix as a single token must read to stream them from memory."""
    if kind in TERNARY:
        first = native.random_ternary(rows, cols, kind == "1.60")
    else:
        first = native.Matrix(kind, random_blocks(np.random.default_rng(0), kind, rows, cols), cols)
    return [first, *(first.copy() for _ in range(STREAMED_BYTES // first.bytes))]


def _bounds(native: Any, matrices: list[Any], kernels: Iterable[str], best: Bounds, *, streaming: bool) -> None:
    size = sum(m.parts()["codes"].nbytes for m in matrices)
    for kernel in kernels:
        for threads in THREADS:
            found = {MEMORY: size / native.time_reading(matrices, kernel, threads)}
            if not streaming:
                found[PEAK] = native.product_peak(kernel, threads, 2)
                found[ROWS] = native.table_rows(kernel, threads, 2) * MACS_PER_ROW
            for name, value in found.items():
                best[kernel, threads, name] = max(best[kernel, threads, name], value / 1e9)


def _product(native: Any, matrices: list[Any], case: Case, best: Rates) -> None:
    chosen = matrices if case.n == 1 else matrices[:1]
    macs = case.rows * case.cols * case.n * len(chosen)
    repeats = 1 if case.n == 1 else max(2, min(50, int(4e9 / macs)))  # some 10 ms, so that both threads are awake
    seconds = native.time_products(chosen, case.n, case.kernel, case.method, case.threads, repeats)
    best[case] = max(best[case], macs / seconds / 1e9)


def _bound_rows(bounds: Bounds) -> list[dict[str, Any]]:
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for (kernel, threads, name), value in bounds.items():
        rows.setdefault((kernel, threads), {"kernel": kernel, "threads": threads})[name] = round(value, 2)
    return list(rows.values())


def _product_rows(rates: Rates, bounds: Bounds) -> list[dict[str, Any]]:
    return [
        {**case._asdict(), "gmacs": round(rate, 2), "share": round(rate / bound, 4) if bound else None}
        for case, rate in rates.items()
        for bound in (_bound(case, bounds),)
    ]


def _bound(case: Case, bounds: Bounds) -> float:
    """Return what memory, tables or instructions allow, 10^9 multiply-adds a second."""

    def of(name: str) -> float:
        return bounds[case.kernel, case.threads, name]

    if case.n == 1:
        return of(MEMORY) / BYTES[case.type]
    if case.method == "lut":
        return of(ROWS) * (5 / 4 if case.type == "1.60" else 1.0)
    return of(PEAK)
