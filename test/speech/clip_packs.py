# SPDX-License-Identifier: Apache-2.0
"""Small packs of clips."""

from __future__ import annotations

import json

import numpy as np
import soundfile


def clip_pack(stem, texts, rate=16000, seconds=1.0, **extra):
    """One clip of noise a text; None is a record without one. Writes STEM.flac and STEM.jsonl."""
    n = int(rate * seconds)
    audio = np.random.default_rng(0).normal(0, 0.05, n * len(texts)).astype(np.float32)
    soundfile.write(stem.with_name(stem.name + ".flac"), audio, rate)
    lines = [
        {"id": str(i), "start": i * n, "n": n, **extra, **({} if text is None else {"text": text})}
        for i, text in enumerate(texts)
    ]
    stem.with_name(stem.name + ".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return stem
