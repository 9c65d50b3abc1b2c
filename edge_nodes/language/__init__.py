# SPDX-License-Identifier: Apache-2.0
"""Scene and speech to prompt, prompt to words: low-bit language models on the CPU, without torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Constraint": "constraint",
    "Deliberation": "reasoning.deliberation",
    "Engine": "engine",
    "FusionConfig": "config",
    "FusionEngine": "fusion.loop",
    "Generation": "engine",
    "LanguageConfig": "config",
    "LanguageError": "errors",
    "Priority": "fusion.request",
    "PromptComposer": "prompt",
    "QueueFullError": "fusion.admission",
    "ReasoningConfig": "config",
    "SamplingConfig": "config",
    "Scene": "prompt",
    "Token": "engine",
    "Tokenizer": "tokenizer",
    "load": "engine",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
