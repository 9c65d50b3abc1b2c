# SPDX-License-Identifier: Apache-2.0
"""Speech: audio to words through an early-exit encoder. Importing this loads neither torch nor sounddevice."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_nodes.speech.config import ExitConfig, MicrophoneConfig, ReferenceConfig, SpeechConfig, VadConfig, WordsConfig
from edge_nodes.speech.errors import SpeechError

if TYPE_CHECKING:
    from edge_nodes.speech.features import log_mel
    from edge_nodes.speech.microphone import Microphone
    from edge_nodes.speech.model import Hypothesis, SpeechModel
    from edge_nodes.speech.recognizer import Recognizer, SpeechEvent

__all__ = [
    "ExitConfig",
    "Hypothesis",
    "Microphone",
    "MicrophoneConfig",
    "Recognizer",
    "ReferenceConfig",
    "SpeechConfig",
    "SpeechError",
    "SpeechEvent",
    "SpeechModel",
    "VadConfig",
    "WordsConfig",
    "log_mel",
]
_LAZY = {
    "Hypothesis": "model",
    "Microphone": "microphone",
    "Recognizer": "recognizer",
    "SpeechEvent": "recognizer",
    "SpeechModel": "model",
    "log_mel": "features",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
