# SPDX-License-Identifier: Apache-2.0
"""Clips, their transcripts in the CTC alphabet, which of them are held out, and their augmentation."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import fftconvolve, resample_poly

RATE_HZ = 16000
DEV_CLUSTERS = (2, 8, 10, 32, 49, 55)
"""Voice clusters of the Picovoice commands that are never trained on."""
PER_PHRASE = 15
"""Clips of one keyword phrase that are trained on."""

# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on


class Clip(NamedTuple):
    """A clip with its normalised text; `dev` if it is never trained on."""

    source: str
    text: str
    samples: np.ndarray  # float32 at 16 kHz
    dev: bool


def words(number: int) -> str:
    """Return 0..99 in words."""
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10 - 2] + (f" {_ONES[number % 10]}" if number % 10 else "")


def normalise(text: str) -> str | None:
    """Return a transcript in the alphabet, or None if how it is spoken cannot be told (long numbers, symbols)."""
    text = re.sub(r"\b\d{1,2}\b", lambda m: words(int(m[0])), text.lower().replace("’", "'"))
    if re.search(r"[^a-z',.?!;:\"()\s-]|(?<!')\b[b-hj-z]\b(?!')", text):
        return None
    return " ".join(re.sub(r"[^a-z']|(?<![a-z])'|'(?![a-z])", " ", text).split()) or None


def clips(stem: Path) -> Iterator[Clip]:
    """Yield the usable clips of one pack: at most 15 s long, with a text."""
    seen: Counter[str] = Counter()
    rate = soundfile.info(stem.with_suffix(".flac")).samplerate
    with stem.with_suffix(".jsonl").open() as file, soundfile.SoundFile(stem.with_suffix(".flac")) as audio:
        for number, line in enumerate(file):
            record = json.loads(line)
            text = normalise(record["text"])
            if text is None or record["n"] > 15 * rate or not record.get("text_verified_by_slots", True):
                continue
            seen[text] += 1
            if stem.name in ("custom_keywords", "wakewords_multi_speaker") and seen[text] > PER_PHRASE:
                continue
            audio.seek(record["start"])
            samples = audio.read(record["n"], dtype="float32")
            if rate != RATE_HZ:
                samples = resample_poly(samples, RATE_HZ, rate).astype(np.float32)
            yield Clip(stem.name, text, samples, _held_out(stem.name, record, number))


def _held_out(source: str, record: dict, number: int) -> bool:
    if source == "picovoice_sti_commands":
        return record["voice_cluster"] in DEV_CLUSTERS
    if source == "fsdd_digits_4spk_8k" or source.startswith("held_out"):
        return True
    return source in ("ljspeech_141", "asterisk_prompts_allison") and number % 12 == 0


class Augmenter:
    """Speed, room, noise and silence around a clip."""

    def __init__(self, noise: Path, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise, _ = soundfile.read(noise, dtype="float32")

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return a changed copy."""
        rng = self._rng
        up, down = [(1, 1), (1, 1), (10, 9), (10, 11), (20, 19), (20, 21)][rng.integers(6)]
        audio = resample_poly(samples, up, down)
        if rng.random() < 0.35:
            audio = self._room(audio)
        before, after = rng.integers(0, 6000, 2)
        audio = np.pad(audio, (before, after))
        level = np.sqrt(np.mean(samples**2)) + 1e-6
        snr_db = rng.uniform(5, 25) if rng.random() < 0.6 else rng.uniform(30, 60)
        start = rng.integers(0, len(self._noise) - len(audio))
        noise = self._noise[start : start + len(audio)]
        audio = audio + noise * (level / (np.sqrt(np.mean(noise**2)) + 1e-6) * 10 ** (-snr_db / 20))
        return audio.astype(np.float32)

    def noises(self, count: int) -> Iterator[np.ndarray]:
        """Yield pieces of noise of 0.5 to 4 s, some of them nearly silent."""
        for _ in range(count):
            size = self._rng.integers(8000, 64000)
            start = self._rng.integers(0, len(self._noise) - size)
            level = 10 ** self._rng.uniform(-3, 0)
            yield self._noise[start : start + size] * np.float32(level)

    def _room(self, audio: np.ndarray) -> np.ndarray:
        """Convolve with exponentially decaying noise: a room of 0.1 to 0.5 s reverberation time."""
        rng, seconds = self._rng, self._rng.uniform(0.1, 0.5)
        time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
        response = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds) * rng.uniform(0.02, 0.1)
        response[0] = 1.0
        return fftconvolve(audio, response)[: len(audio)]
