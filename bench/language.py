# SPDX-License-Identifier: Apache-2.0
"""Speed of the language engine: load, prefill and decode, for each kernel and thread count.

    python -m bench.language --model smollm2-135m --json language.json

Rates are the best of several runs: other work on the machine only ever makes them smaller.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from edge_nodes.native._kernels import supported_kernels

from edge_nodes.language import load


def measure(model: str, kernel: str, *, threads: int, prompt: int, decode: int, runs: int) -> dict[str, Any]:
    """Return load time, prefill and decode rates of one configuration."""
    begin = time.perf_counter()
    engine = load(model, kernel=kernel, threads=threads, context_tokens=prompt + decode + 1)
    load_s = time.perf_counter() - begin
    tokens = np.random.default_rng(0).integers(100, engine.model.vocabulary, prompt).tolist()
    prefill, rates = [], []
    for _ in range(runs):
        engine.reset()
        begin = time.perf_counter()
        logits, _ = engine.prefill(tokens)
        prefill.append(prompt / (time.perf_counter() - begin))
        begin = time.perf_counter()
        for _ in range(decode):
            logits = engine.step(int(logits.argmax()))
        rates.append(decode / (time.perf_counter() - begin))
    return {
        "kernel": engine.kernel,
        "threads": threads,
        "load_s": round(load_s, 3),
        "prefill_tokens_per_s": round(max(prefill), 1),
        "decode_tokens_per_s": round(max(rates), 1),
        "weights_mb": round(engine.model.weight_bytes / 1e6, 1),
        "cache_mb": round(engine.model.cache_bytes / 1e6, 1),
    }


def main() -> None:
    """Measure every kernel this processor has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--kernels", nargs="+", default=supported_kernels())
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--decode", type=int, default=64, help="tokens that are generated")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    for kernel in options.kernels:
        for threads in options.threads:
            sizes = {"prompt": options.prompt, "decode": options.decode, "runs": options.runs}
            results.append(measure(options.model, kernel, threads=threads, **sizes))
            print(" ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"model": options.model, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
