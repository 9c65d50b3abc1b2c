# SPDX-License-Identifier: Apache-2.0
"""A native model whose blocks come through a window: output as with all weights in memory, bit for bit."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np

from edge_nodes.language.blocks.directory import FIXED, BlockDirectory
from edge_nodes.paging.files import ARRAYS, BlockFile, layout, views
from edge_nodes.paging.plan import Plan
from edge_nodes.paging.window import BlockWindow, Load

_IN = {"attn": ("attn_q", "attn_k", "attn_v"), "ffn": ("ffn_gate", "ffn_up")}
_OUT = {"attn": "attn_output", "ffn": "ffn_down", "head": "output"}


class StreamedModel:
    """A native model and the window its blocks come through; does what the model does, and closes the window.

    Args:
        model: `edge_nodes.native._kernels.Model` of the directory's sizes.
        directory: where the blocks are.
        plan: readers, pinned blocks and budget.
        load: fills the memory of a block in place of reading its file; called by several threads.
        direct: read past the page cache.

    Attributes:
        window: the window.
        plan: the plan.
        width: of the hidden states.

    Raises:
        ModelError: the budget is too small, or a file is not a block.
    """

    def __init__(
        self, model: Any, directory: BlockDirectory, plan: Plan, *, load: Load | None = None, direct: bool = True
    ) -> None:
        order, head = directory.order(), directory.head()
        self.plan, self.name = plan, directory.name
        self.window = BlockWindow(
            [file.bytes for file in order],
            load or [file.path for file in order],
            budget_bytes=plan.budget_bytes,
            readers=plan.readers,
            pinned=plan.pinned,
            direct=direct,
        )
        self._model, self._headed, self.width = model, bool(head), int(directory.sizes["width"])
        fixed = views(directory.files[FIXED].path)
        model.set_rope(fixed["rope_frequencies"][: int(directory.sizes["rope_dim"]) // 2])
        model.set_vector("output_norm", fixed["output_norm"][: int(directory.sizes["width"])])
        model.set_source(self.window.native, [_spans(file) for file in order], len(head))
        if pieces := directory.embedding():
            model.set_embedding([(str(f.path), _matrices(*layout(f.path))[_embedding_name(f)]) for f in pieces])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def weight_bytes(self) -> int:
        """Bytes of blocks in memory at most."""
        return self.plan.budget_bytes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run a step, see the native model.

        Raises:
            LanguageError: MODEL_BAD, a block cannot be read; the next step begins anew.
        """
        return self._run(self._model.forward, *args, **kwargs)

    def forward_states(self, *args: Any) -> Any:
        """Run a step from states, see the native model; raises as `forward`."""
        return self._run(self._model.forward_states, *args)

    def probe(self, position: int) -> None:
        """Run one token at a position of slot 0, for its time only."""
        if self._headed:
            self.forward(np.zeros(1, np.int32), position)
        else:
            self.forward_states(np.ones((1, self.width), np.float32), [(0, position, 1)])

    def close(self) -> None:
        """End the reading threads."""
        self.window.close()

    def _run(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with self.window.errors():
                return step(*args, **kwargs)
        except BaseException:
            if not self.window.native.between_passes:
                self.window.restart()
            raise


def reserve(model: Any, directory: BlockDirectory) -> None:
    """Let a native model have all the work space that blocks need, so that `work_bytes` counts it."""
    if any(parts["bits"] == 2 for file in directory.order() for parts in _matrices(*layout(file.path)).values()):
        model.use_ternary()


def _embedding_name(file: BlockFile) -> str:
    return "output" if file.name.startswith("head.") else "token_embd"


def _spans(file: BlockFile) -> dict[str, Any]:
    """Return where the arrays of a block are in its file, as the native model wants them."""
    kind = file.name.rpartition(".")[2] if file.name.startswith("blk.") else "head"
    header, start = layout(file.path)
    found: dict[str, Any] = {"norm": _span(header, start, "norm"), "sub_norm": _span(header, start, "sub_norm")}
    matrices = _matrices(header, start)
    return {**found, "in": [matrices[name] for name in _IN.get(kind, ())], "out": matrices[_OUT[kind]]}


def _matrices(header: dict[str, Any], start: int) -> dict[str, dict[str, Any]]:
    found = {name: json.loads(text) for name, text in header["__metadata__"].items()}
    for name, parts in found.items():
        parts |= {part: _span(header, start, f"{name}.{part}") for part in ARRAYS}
    return found


def _span(header: dict[str, Any], start: int, name: str) -> tuple[int, int]:
    """Return the byte offset and the items of an array; (0, 0) if there is none."""
    if name not in header:
        return 0, 0
    return start + header[name]["data_offsets"][0], prod(header[name]["shape"])
