# SPDX-License-Identifier: Apache-2.0
"""Other recognisers to compare with, where they are installed (extra [peers])."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech.clips import normalise

Transcribe = Callable[[NDArray[np.float32]], str]
SPHINX, WHISPER = "pocketsphinx", "faster-whisper"


def peers(whisper: str) -> Iterator[tuple[str, Transcribe | str]]:
    """Yield each peer's name with a function from 16 kHz samples to normalised text, or why it cannot be had.

    Args:
        whisper: name or directory of the Whisper model.
    """
    for name, module, build in ((SPHINX, "pocketsphinx", _sphinx), (WHISPER, "faster_whisper", _whisper)):
        if find_spec(module) is None:
            yield name, "not installed: pip install 'edge_nodes[peers]'"
            continue
        try:
            made = build(whisper)
        except Exception as error:  # noqa: BLE001  # a peer that does not load is no reason to stop
            yield name, f"does not load: {' '.join(str(error).split())[:120]}"
        else:
            yield name, made


def _sphinx(_: str) -> Transcribe:
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, loglevel="FATAL")

    def transcribe(samples: NDArray[np.float32]) -> str:
        decoder.start_utt()
        decoder.process_raw((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        found: Any = decoder.hyp()
        return _plain(found.hypstr if found else "")

    return transcribe


def _whisper(model: str) -> Transcribe:
    from faster_whisper import WhisperModel

    loaded = WhisperModel(model, device="cpu", cpu_threads=1, num_workers=1, compute_type="int8")

    def transcribe(samples: NDArray[np.float32]) -> str:
        segments, _ = loaded.transcribe(samples, language="en", beam_size=1, condition_on_previous_text=False)
        return _plain(" ".join(segment.text for segment in segments))

    return transcribe


def _plain(text: str) -> str:
    return normalise(text) or " ".join("".join(c for c in text.lower() if c.isalpha() or c in "' ").split())
