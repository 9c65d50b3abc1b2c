# SPDX-License-Identifier: Apache-2.0
"""Packs of recorded speech, their transcripts in the CTC alphabet, and which clips the shipped model learned from.

A pack is STEM.flac with STEM.jsonl: one JSON object a clip, with `start` and `n` in samples of the audio, `text`, and
maybe `text_verified_by_slots` and `voice_cluster`. A record without a text is noise.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge_nodes.speech.errors import SpeechError
from edge_nodes.speech.features import RATE_HZ

LONGEST_S = 15
DEV_CLUSTERS = (2, 8, 10, 32, 49, 55)
"""Voice clusters of the Picovoice commands that are never trained on."""
PER_PHRASE = 15
"""Clips of one keyword phrase that are trained on."""
_KEYWORDS = ("custom_keywords", "wakewords_multi_speaker")
_SENTENCES = ("ljspeech_141", "asterisk_prompts_allison")
# SHA-256 of the .jsonl of each pack that training used a part of: another pack of that name was not seen.
_TRAINED = {
    "picovoice_sti_commands": "1d0c14c7b3e891f72651012a6b62c8dd2fa69a1d1d5e424728abcc533bf00ca6",
    "asterisk_prompts_allison": "bfb9197504104bb163b6cf6988b13420e3e0c3de76fd4e9c832f49cb7d42e1e9",
    "ljspeech_141": "3d1951f4e25f3427942a9026b220fdc36b47ed8363e1bdebc09ea3ffcbda329d",
    "custom_keywords": "6859a1579dcc81cba68635ba9113a6f4262632c1afebb9057ba00526e4325e3a",
    "wakewords_multi_speaker": "7fc33150726a0be72cd91041cd5bd0bafe839f6812d9c6e0224362f7169b9b8a",
    "background_noise": "433787c51491b7627f8ccb3874b39497d9b1fba8291148ea5f4c4d860c49876d",
}

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
    samples: NDArray[np.float32]  # at 16 kHz
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


def records(stem: Path) -> list[dict[str, Any]]:
    """Return the records of a pack.

    Raises:
        SpeechError: there is no such pack, or it is none.
    """
    stem = _stem(stem)
    try:
        frames = soundfile.info(_audio(stem)).frames
        found = [json.loads(line) for line in stem.with_name(stem.name + ".jsonl").read_text().splitlines()]
        if not found or any(r["start"] < 0 or r["start"] + r["n"] > frames for r in found):
            raise ValueError(f"clips that lie outside of the {frames} samples of audio, or none")
    except (OSError, ValueError, KeyError, TypeError, soundfile.SoundFileError) as error:
        raise SpeechError(
            f"{stem} is no pack of clips",
            got=" ".join(str(error).split())[:200],
            expected="STEM.flac, and STEM.jsonl with start and n of each clip",
        ) from None
    return found


def read(stem: Path, record: dict[str, Any]) -> NDArray[np.float32]:
    """Return the samples of one record at 16 kHz, (n,) float32."""
    begin, count = record["start"], record["n"]
    samples, rate = soundfile.read(_audio(_stem(stem)), start=begin, frames=count, dtype="float32")
    if rate != RATE_HZ:
        from scipy.signal import resample_poly  # 60 MB of memory

        samples = resample_poly(samples, RATE_HZ, rate)
    return np.asarray(samples, np.float32)


def trained_on(stem: Path) -> bool:
    """Return whether the shipped model learned from a part of this very pack."""
    stem = _stem(stem)
    digest = hashlib.sha256(stem.with_name(stem.name + ".jsonl").read_bytes()).hexdigest()
    return _TRAINED.get(stem.name) == digest


def usable(stem: Path) -> Iterator[tuple[dict[str, Any], str, bool]]:
    """Yield the records with a text that can be compared, at most 15 s long: record, text, whether it is held out."""
    stem, seen = _stem(stem), Counter[str]()
    rate = soundfile.info(_audio(stem)).samplerate
    for number, record in enumerate(records(stem)):
        text = normalise(record.get("text") or "")
        if text is None or record["n"] > LONGEST_S * rate or not record.get("text_verified_by_slots", True):
            continue
        seen[text] += 1
        yield record, text, _held_out(stem.name, record, number, seen[text])


def clips(stem: Path) -> Iterator[Clip]:
    """Yield the clips that training takes from one pack, and those it holds out."""
    stem, seen = _stem(stem), Counter[str]()
    for record, text, held_out in usable(stem):
        seen[text] += 1
        if stem.name in _KEYWORDS and seen[text] > PER_PHRASE:
            continue
        yield Clip(stem.name, text, read(stem, record), held_out)


def _held_out(source: str, record: dict[str, Any], number: int, repeat: int) -> bool:
    if source == "picovoice_sti_commands":
        return record["voice_cluster"] in DEV_CLUSTERS
    if source == "fsdd_digits_4spk_8k" or source.startswith("held_out"):
        return True
    return (source in _SENTENCES and number % 12 == 0) or (source in _KEYWORDS and repeat > PER_PHRASE)


def _stem(stem: Path) -> Path:
    return stem.with_suffix("") if stem.suffix in (".flac", ".jsonl") else stem


def _audio(stem: Path) -> Path:
    return stem.with_name(stem.name + ".flac")
