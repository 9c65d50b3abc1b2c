# SPDX-License-Identifier: Apache-2.0
"""A torch network run block by block within a memory budget, unchanged: PIPELOAD's case of one pass over all layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_nodes.errors import ModelError, State
from edge_nodes.paging.files import TYPES, layout, write_block
from edge_nodes.paging.plan import pin_evenly
from edge_nodes.paging.window import BlockWindow, smallest_budget, whole_pages


class StreamedModule:
    """Streams the parameters of some parts of a network from files; use the network as before, in one thread.

    Each part's parameters are in memory from just before its forward until just after. Buffers, and parameters of no
    part, stay.

    Args:
        network: the network, on the CPU, in evaluation mode; its parameters are moved into files.
        parts: names of the submodules to stream; none within another, each called by its forward.
        example: runs one pass, from which the order of the parts is taken.
        folder: directory for the files, one a part.
        budget_bytes: most memory of parts; 0 for the smallest.
        readers: loading threads.
        direct: read past the page cache.

    Attributes:
        window: the window.
        budget_bytes: most memory of parts.

    Raises:
        ModelError: OUT_OF_MEMORY, the budget is too small; BAD_INPUT, a part is not called.
    """

    def __init__(
        self,
        network: nn.Module,
        parts: Sequence[str],
        example: Callable[[], object],
        folder: Path,
        *,
        budget_bytes: int = 0,
        readers: int = 2,
        direct: bool = True,
    ) -> None:
        modules = {name: network.get_submodule(name) for name in parts}
        order = _order(modules, example)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {name: folder / f"{name}.safetensors" for name in parts}
        for name, module in modules.items():
            tensors = {k: p.detach().numpy().reshape(-1) for k, p in module.named_parameters()}
            write_block(paths[name], tensors)
        sizes = [paths[name].stat().st_size for name in order]
        self.budget_bytes = budget = budget_bytes or smallest_budget(sizes)
        room = max(map(whole_pages, sizes)) * (readers + 1)
        self.window = BlockWindow(
            sizes,
            [paths[name] for name in order],
            budget_bytes=budget,
            readers=readers,
            pinned=pin_evenly(sizes, max(0, budget - room)),
            direct=direct,
        )
        self._order, self._at = [modules[name] for name in order], 0
        self._places = {modules[name]: _places(modules[name], paths[name]) for name in parts}
        self._hooks = [h for m in modules.values() for h in self._hooked(m)]
        for module in modules.values():
            _empty(module)

    def close(self) -> None:
        """End the reading threads; the network cannot be used any more."""
        for hook in self._hooks:
            hook.remove()
        self.window.close()

    def _hooked(self, module: nn.Module) -> tuple[Any, Any]:
        before = module.register_forward_pre_hook(lambda m, _: self._acquire(m))
        return before, module.register_forward_hook(lambda m, _, __: self._release(m), always_call=True)

    def _acquire(self, module: nn.Module) -> None:
        if self._order[self._at] is not module and self._order[0] is module:  # the last pass ended early
            self.window.restart()
            self._at = 0
        if self._order[self._at] is not module:
            raise ModelError("a part of the network was called out of its order", got=type(module).__name__)
        memory = self.window.acquire(self._at)
        for parameter, dtype, shape, offset in self._places[module]:
            values = torch.frombuffer(memory, dtype=dtype, count=shape.numel(), offset=offset)
            parameter.data = values.view(shape)

    def _release(self, module: nn.Module) -> None:
        if self._order[self._at] is module and self.window.native.held:
            _empty(module)
            self.window.release(self._at)
            self._at = (self._at + 1) % len(self._order)


def _order(modules: dict[str, nn.Module], example: Callable[[], object]) -> list[str]:
    """Return the names in the order of their calls."""
    found: list[str] = []
    hooks = [m.register_forward_pre_hook(lambda *_, n=n: found.append(n)) for n, m in modules.items()]
    try:
        with torch.inference_mode():
            example()
    finally:
        for hook in hooks:
            hook.remove()
    if unused := sorted(set(modules) - set(found)):
        raise ModelError("parts of the network are not used", got=", ".join(unused), state=State.BAD_INPUT)
    return found


def _places(module: nn.Module, path: Path) -> list[tuple[nn.Parameter, torch.dtype, torch.Size, int]]:
    header, start = layout(path)
    found = []
    for name, parameter in module.named_parameters():
        entry = header[name]
        dtype = torch.from_numpy(np.empty(0, TYPES[entry["dtype"]])).dtype
        found.append((parameter, dtype, parameter.shape, start + entry["data_offsets"][0]))
    return found


def _empty(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = Tensor()
