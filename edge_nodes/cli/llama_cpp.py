# SPDX-License-Identifier: Apache-2.0
"""llama.cpp to compare with, through the wheel `xllamacpp` (extra [peers])."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_nodes.cli.processes import BenchError

ABSENT = "xllamacpp is not installed: pip install 'edge_nodes[peers]'"


def available() -> bool:
    """Return whether llama.cpp is there."""
    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """A model in llama.cpp, on the CPU, with its own defaults (flash attention, float16 cache, repacked weights).

    Args:
        path: GGUF file.
        threads: for prompt and answer alike.
        context: tokens, of all slots together.
        slots: requests that it answers at once.
    """

    def __init__(self, path: Path, *, threads: int, context: int, slots: int = 1) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = context, slots, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.verbosity, params.cache_ram_mib = -1, 0
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise BenchError("llama.cpp does not load the model", got=error) from error
        self.instructions = " ".join(str(xllamacpp.get_system_info()).split())

    @property
    def address(self) -> str:
        """Return the address of its HTTP server."""
        return str(self._server.listening_address)

    def rates(self, prompt: Sequence[int], decode: int) -> tuple[float, float]:
        """Return tokens a second of the prompt, and of `decode` greedy tokens after the first."""
        request: dict[str, Any] = {"prompt": list(prompt), "n_predict": decode + 1, "ignore_eos": True}
        # The first token comes with the prompt: its time is not in predicted_ms.
        answer = self._server.handle_completions({**request, "temperature": 0.0, "cache_prompt": False})
        found = answer.get("timings", {})
        if found.get("prompt_n") != len(prompt) or found.get("predicted_n") != decode + 1:
            raise BenchError("llama.cpp did not do what was asked", got=str(answer)[:300])
        return len(prompt) / found["prompt_ms"] * 1e3, decode / found["predicted_ms"] * 1e3

    def complete(self, prompt: Sequence[int], tokens: int) -> None:
        """Generate so many greedy tokens; may be called from several threads at once."""
        request: dict[str, Any] = {"prompt": list(prompt), "n_predict": tokens, "ignore_eos": True}
        answer = self._server.handle_completions({**request, "temperature": 0.0, "cache_prompt": False})
        if answer.get("usage", {}).get("completion_tokens") != tokens:
            raise BenchError("llama.cpp did not do what was asked", got=str(answer)[:300])
