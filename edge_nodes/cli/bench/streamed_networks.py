# SPDX-License-Identifier: Apache-2.0
"""Rows of `edge-nodes bench pager` for the published perception and speech networks, run block by block in a budget."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_nodes.cli.processes import seconds

SHARES = (0.0, 0.25, 0.5)  # of the parts' bytes; the first is the smallest budget
ROUNDS = 3
HEADER_BYTES = 16384  # more than a file has beside the parameters, to whole pages


def rows(quick: bool) -> dict[str, Any]:
    """Return {rows}: name, parts, budget, peak, time of a pass beside the whole network's, and whether both agree.

    Args:
        quick: the smallest budget only, once.
    """
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = []
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        for name, network, kinds, x in _networks(quick):
            for share in SHARES[:1] if quick else SHARES:
                folder = Path(scratch) / f"{name}-{share}"
                rounds = 1 if quick else ROUNDS
                found.append({"network": name, "share": share, **_row(network, kinds, x, share, folder, rounds)})
    return {"rows": found}


def _networks(quick: bool) -> Iterator[tuple[str, Any, tuple[str, ...], Any]]:
    """Yield name, network of random weights, classes of the parts to stream, and an input of each."""
    import torch

    from edge_nodes.perception.reference.networks import ReconstructionNetwork, SegmentationNetwork
    from edge_nodes.speech.reference.network import Network, Sizes

    maps = (torch.rand(1, 16, 104, 104) < 0.1).float()
    convolutions = ("Conv2d", "ConvTranspose2d")
    if not quick:  # it is made as the other one is
        yield "PPN segmentation", SegmentationNetwork(prune=False).eval(), convolutions, maps
    yield "PPN reconstruction", ReconstructionNetwork().eval(), convolutions, maps
    yield "Splitformer", Network(Sizes()).eval(), ("_ConformerLayer",), torch.randn(1, 80, 400)


def _row(network: Any, kinds: Sequence[str], x: Any, share: float, folder: Path, rounds: int) -> dict[str, Any]:
    import torch

    from edge_nodes.paging.modules import StreamedModule

    parts = _called(network, kinds, lambda: network(x))
    sizes = [sum(p.nbytes for p in network.get_submodule(name).parameters()) for name in parts]
    total, least = sum(sizes), max(sizes) + HEADER_BYTES
    streamed_network = copy.deepcopy(network)
    budget = max(int(share * total), least) if share else 0
    streamed = StreamedModule(streamed_network, parts, lambda: streamed_network(x), folder, budget_bytes=budget)
    expected, best, outputs = network(x), [float("inf")] * 2, [streamed_network(x)]
    runs = (lambda: network(x), lambda: outputs.append(streamed_network(x)))
    for _ in range(rounds):  # in turns
        for i, run in enumerate(runs):
            best[i] = min(best[i], seconds(run))
    same = all(torch.equal(output, expected) for output in outputs)
    peak = streamed.window.stats().peak_bytes
    streamed.close()
    return {
        "parts": len(parts),
        "parts_mb": round(total / 2**20, 2),
        "budget_mb": round(streamed.budget_bytes / 2**20, 2),
        "peak_mb": round(peak / 2**20, 2),
        "whole_ms": round(1e3 * best[0], 2),
        "streamed_ms": round(1e3 * best[1], 2),
        "same": same,
    }


def _called(network: Any, kinds: Sequence[str], run: Callable[[], object]) -> list[str]:
    """Return the submodules of some classes that a pass uses: published networks have some that none reaches."""
    modules = {name: m for name, m in network.named_modules() if type(m).__name__ in kinds}
    seen: set[str] = set()
    hooks = [m.register_forward_pre_hook(lambda *_, n=n: seen.add(n)) for n, m in modules.items()]
    run()
    for hook in hooks:
        hook.remove()
    return [name for name in modules if name in seen]
