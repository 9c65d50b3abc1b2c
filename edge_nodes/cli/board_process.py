# SPDX-License-Identifier: Apache-2.0
"""A board of `edge-nodes bench boards`, in a process of its own: `python -m edge_nodes.cli.board_process '{...}'`."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT, PROMPT = 96, 32
CHAIN = 4  # allreduces of a sample


def main() -> None:
    """Do what the first argument says and print one line of JSON."""
    task = json.loads(sys.argv[1])
    print(json.dumps(_exchange(task) if task["kind"] == "exchange" else _model(task)))


def _exchange(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return milliseconds of allreduces, the least of some, by algorithm and size."""
    from edge_nodes.language.boards.costs import ALGORITHMS
    from edge_nodes.language.boards.join import open_store
    from edge_nodes.language.boards.link import Link
    from edge_nodes.language.boards.probe import turns

    rank, ranks = task["rank"], task["ranks"]
    store = open_store(task["address"], task["port"], rank, ranks, patience_s=60.0)
    link = Link(store, rank, ranks, deadline_s=60.0)
    rows = []
    for size in task["sizes"]:
        values = np.zeros(size // 4, np.float32)
        taken: dict[str, list[float]] = {name: [] for name in ALGORITHMS}
        for _ in range(task["rounds"]):
            link.measure_again()  # as an idle group does
            for name, seconds in turns(link, ALGORITHMS, values, chain=CHAIN).items():
                taken[name].append(1e3 * seconds)
        network = link.network
        chosen = network.choose(size)
        about = {"bytes": size, "chosen": chosen, "predicted_ms": round(1e3 * network.predicted_s(chosen, size), 3)}
        about["form_ms"] = round(1e3 * network.form_s(chosen, size), 3)
        rows.append({**about, **{a: round(min(t), 3) for a, t in taken.items()}})
    found = asdict(link.network)
    link.close()
    return {"network": found, "rows": rows}


def _model(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return greedy tokens, times, bytes and memory of this board."""
    import psutil

    from edge_nodes.language.blocks.directory import BlockDirectory
    from edge_nodes.language.blocks.streaming import stream
    from edge_nodes.language.boards.worker import serve
    from edge_nodes.language.engine import Engine, make_model
    from edge_nodes.language.tokenizer import Tokenizer

    folder, process = Path(task["folder"]), psutil.Process()
    directory = BlockDirectory(folder)
    if task["rank"]:
        _warm_up()
        made: dict[str, Any] = {}

        def make(settings: Mapping[str, Any]) -> Any:
            made["before"] = _own_bytes(process)
            native = make_model(directory.sizes, threads=1, kernel="auto", **settings)
            made["fixed"] = native.cache_bytes + native.work_bytes
            model = stream(directory, native)
            step = model.forward_states

            def watched(*args: Any) -> None:
                step(*args)
                made["after"] = _own_bytes(process)

            model.forward_states = watched  # type: ignore[method-assign]
            return model

        serve(directory, make, address=task["address"], port=task["port"], once=True)
        return _memory(made, directory)
    from edge_nodes.language.boards.master import share
    from edge_nodes.language.config import BoardsConfig

    _warm_up()
    tokenizer = Tokenizer(directory.metadata)
    gc.collect()
    before = _own_bytes(process)
    native = make_model(directory.sizes, CONTEXT, slots=1, kv_cache="f16", threads=1, kernel="auto")
    if task["ranks"] > 1:
        config = BoardsConfig(enabled=True, address=task["address"], port=task["port"], deadline_s=60.0)
        model: Any = share(directory, native, config)
    else:
        model = stream(directory, native)
    engine = Engine(model, tokenizer, name=directory.name)
    prompt = np.random.default_rng(0).integers(300, 2000, PROMPT).tolist()
    begin = time.perf_counter()
    logits, _ = engine.prefill(prompt)
    prefill_s, tokens, taken = time.perf_counter() - begin, [int(np.argmax(logits))], []
    link = getattr(engine.model, "link", None)
    sent = link.bytes_sent if link else 0
    for _ in range(task["tokens"]):
        begin = time.perf_counter()
        tokens.append(int(np.argmax(engine.step(tokens[-1]))))
        taken.append(time.perf_counter() - begin)
    found = {
        "tokens": tokens,
        "prefill_ms": round(1e3 * prefill_s, 1),
        "token_ms": round(1e3 * float(np.median(taken)), 2),
        "bytes_per_token": (link.bytes_sent - sent) // task["tokens"] if link else 0,
        "reduced": dict(link.reduced) if link else {},
    }
    fixed = engine.model.cache_bytes + engine.model.work_bytes
    memory = {"before": before, "after": _own_bytes(process), "fixed": fixed}
    engine.close()
    return {**found, **_memory(memory, directory)}


def _own_bytes(process: Any) -> int:
    """Return the memory that is this process's alone: not that of libraries, which are mapped files."""
    found = process.memory_info()
    return int(found.rss - found.shared)


def _warm_up() -> None:
    """Have the library's own memory before the model's is measured."""
    import torch
    import torch.distributed as dist

    from edge_nodes.language.boards import join, master  # noqa: F401

    join.open_store("127.0.0.1", 0, 0, 1, patience_s=10.0)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    dist.destroy_process_group()


def _memory(found: Mapping[str, int], directory: Any) -> dict[str, float]:
    """Return what the model took in this process, and its share of the weights with cache and work space, MiB."""
    share = sum(file.bytes for file in directory.order())
    return {
        "growth_mb": round((found["after"] - found["before"]) / 2**20, 2),
        "share_mb": round(share / 2**20, 2),
        "fixed_mb": round(found["fixed"] / 2**20, 2),
    }


if __name__ == "__main__":
    main()
