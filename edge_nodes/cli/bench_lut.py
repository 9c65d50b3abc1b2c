# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes bench lut`: products of ternary weights by every kernel, beside the machine's own bounds.

The machine may be shared: bounds and products are timed in turn, several rounds of each, and the best of all counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edge_nodes import __version__
from edge_nodes.cli.report import machine

SHAPES = ((2560, 2560), (6912, 2560), (2560, 6912), (4096, 14336))  # rows, columns
TOKENS = (1, 8, 32, 128, 512)
THREADS = (1, 2)
STREAMED_BYTES = 1 << 28  # weights a single token reads, more than the caches hold
MACS_PER_ROW = 4 * 32  # weights of one index, tokens of a row
METHODS = ("dot", "lut")


def lut_bench(console: Console, *, quick: bool) -> dict[str, Any]:
    """Return the figures: {name, version, machine, config, results, targets}.

    Args:
        console: for progress.
        quick: one shape and three token counts.
    """
    from edge_nodes.native import _kernels as native

    shapes, tokens, rounds = (SHAPES[:1], (1, 32, 128), 3) if quick else (SHAPES, TOKENS, 5)
    kernels = [k for k in native.supported_kernels() if k != "portable"] or ["portable"]
    bounds: dict[tuple[Any, ...], float] = {}
    rates: dict[tuple[Any, ...], float] = {}
    for shape in shapes:
        matrices = _matrices(native, *shape)
        with console.status(f"products of {shape[0]} x {shape[1]}"):
            for _ in range(rounds):
                for kernel in kernels:
                    for threads in THREADS:
                        _bounds(native, kernel, threads, bounds)
                        for n in tokens:
                            _products(native, matrices, (shape, n, threads, kernel), rates)
    found = {"bounds": _bound_rows(bounds), "products": _product_rows(rates)}
    return {
        "name": "lut",
        "version": __version__,
        "machine": machine(),
        "config": {"quick": quick, "rounds": rounds, "kernels": kernels},
        "results": found,
        "targets": targets(found),
    }


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the figures."""
    found = result["results"]
    table = Table("kernel", "threads", "product peak", "table rows", "memory", box=None, pad_edge=False)
    for b in found["bounds"]:
        cells = (b["product_peak_gmacs"], b["table_rows_gmacs"], b["memory_gb_s"])
        table.add_row(b["kernel"], str(b["threads"]), *(f"{cell:.1f}" for cell in cells))
    console.print("bounds: GMAC/s, GMAC/s, GB/s", table, sep="\n")
    table = Table("rows x columns", "N", "threads", "kernel", "method", "GMAC/s", box=None, pad_edge=False)
    for p in found["products"]:
        shape = f"{p['rows']} x {p['cols']}"
        table.add_row(shape, str(p["n"]), str(p["threads"]), p["kernel"], p["method"], f"{p['gmacs']:.1f}")
    console.print(table)
    for target in result["targets"]:
        value = "none" if target["value"] is None else f"{target['value']:.2f}"
        mark = "[green]met[/]" if target["met"] else "[bold red]missed[/]"
        console.print(f"{mark} {target['name']}: {value} (wanted {target['target']:g})")


def targets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return {name, value, target, met} of each target; the value is the worst over the shapes and token counts."""
    bounds = {(b["kernel"], b["threads"]): b for b in found["bounds"]}
    kernels = list(dict.fromkeys(b["kernel"] for b in found["bounds"]))
    rates = {(p["rows"], p["cols"], p["n"], p["threads"], p["kernel"], p["method"]): p for p in found["products"]}

    def worst(kernel: str, method: str, bound: str) -> float | None:
        limit = bounds[kernel, 1][bound]
        many = [p["gmacs"] for key, p in rates.items() if key[2] >= 32 and key[3:] == (1, kernel, method)]
        return min(many) / limit if many and limit else None

    out = [_target(f"{kernels[0]}: int8 products / product peak, N >= 32", worst(kernels[0], "dot", PEAK), 0.8)]
    names = {kernel: f"{kernel}: tables / table-row bound, N >= 32" for kernel in kernels}
    out += [_target(name, worst(kernel, "lut", ROWS), 0.45) for kernel, name in names.items()]
    if "avx2" in kernels:
        ratios = [
            p["gmacs"] / rates[(*key[:5], "dot")]["gmacs"]
            for key, p in rates.items()
            if key[2] >= 32 and key[3:] == (1, "avx2", "lut")
        ]
        out.append(_target("avx2: tables / int8 products, N >= 32", min(ratios), 1.4))
    memory = bounds[kernels[0], 1]["memory_gb_s"]
    ones = [p["weight_gb_s"] for p in found["products"] if (p["n"], p["threads"], p["kernel"]) == (1, 1, kernels[0])]
    out.append(_target("N = 1: weights read / memory bandwidth", min(ones) / memory if ones else None, 0.9))
    pairs = [
        rates[(*key[:3], 2, *key[4:])]["gmacs"] / p["gmacs"]
        for key, p in rates.items()
        if key[2] >= 32 and key[3:] == (1, kernels[0], "dot")
    ]
    out.append(_target("2 threads / 1 thread, int8 products, N >= 32", min(pairs) if pairs else None, 1.85))
    peaks = [bounds[kernels[0], threads][PEAK] for threads in THREADS]
    out.append(_target("2 threads / 1 thread of the machine itself", peaks[1] / peaks[0] if peaks[0] else None, 1.85))
    return out


PEAK, ROWS = "product_peak_gmacs", "table_rows_gmacs"


def _matrices(native: Any, rows: int, cols: int) -> list[Any]:
    """As many copies of one random matrix as a single token must read to stream them from memory."""
    weights = np.random.default_rng(0).integers(-1, 2, (rows, cols), np.int8)
    first = native.Matrix("TRITS", weights.view(np.uint8), cols)
    return [first, *(first.copy() for _ in range(STREAMED_BYTES // first.bytes))]


def _bounds(native: Any, kernel: str, threads: int, best: dict[tuple[Any, ...], float]) -> None:
    _note(best, (kernel, threads, PEAK), native.product_peak(kernel, threads, 3) / 1e9)
    _note(best, (kernel, threads, ROWS), native.table_rows(kernel, threads, 3) * MACS_PER_ROW / 1e9)
    _note(best, (kernel, threads, "memory_gb_s"), native.memory_bandwidth(kernel, threads, 1) / 1e9)


def _products(native: Any, matrices: list[Any], case: tuple[Any, ...], best: dict[tuple[Any, ...], float]) -> None:
    (rows, cols), n, threads, kernel = case
    for method in METHODS[:1] if n == 1 else METHODS:  # a single token has a path of its own
        chosen = matrices if n == 1 else matrices[:1]
        macs = rows * cols * n * len(chosen)
        repeats = max(2, min(50, int(4e9 / macs)))  # some 10 ms, so that the second thread is awake
        seconds = native.time_products(chosen, n, kernel, method, threads, repeats)
        _note(best, (rows, cols, n, threads, kernel, method), macs / seconds / 1e9)


def _note(best: dict[tuple[Any, ...], float], key: tuple[Any, ...], value: float) -> None:
    best[key] = max(value, best.get(key, 0.0))


def _bound_rows(bounds: Mapping[tuple[Any, ...], float]) -> list[dict[str, Any]]:
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for (kernel, threads, name), value in bounds.items():
        rows.setdefault((kernel, threads), {"kernel": kernel, "threads": threads})[name] = round(value, 2)
    return list(rows.values())


def _product_rows(rates: Mapping[tuple[Any, ...], float]) -> list[dict[str, Any]]:
    out = []
    for key, value in rates.items():
        names = ("rows", "cols", "n", "threads", "kernel", "method")
        row = {**dict(zip(names, key, strict=True)), "gmacs": round(value, 2)}
        if row["n"] == 1:
            row["weight_gb_s"] = round(value / 4, 2)  # 4 weights to a byte
        out.append(row)
    return out


def _target(name: str, value: float | None, target: float) -> dict[str, Any]:
    return {"name": name, "value": value, "target": target, "met": value is not None and value >= target}
