# SPDX-License-Identifier: Apache-2.0
"""Make config/demo/*.flac: questions in voices the model never heard, and real commands of held-out speakers.

python -m train.speech.demo_audio --wheels DIR --vocabulary FILE --commands STEM --out config/demo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from edge_nodes.speech.clips import DEV_CLUSTERS
from train.speech.synthesize import HELD_OUT, RATE_HZ, Kokoro

QUESTIONS = (
    ("what_do_you_see_ahead", "bf_emma", "What do you see ahead?"),
    ("is_there_a_person_near_you", "am_michael", "Is there a person near you?"),
    ("how_far_away_is_the_nearest_car", "bf_emma", "How far away is the nearest car?"),
    ("is_it_clear_on_the_left", "am_michael", "Is it clear on the left?"),
)
COMMANDS = (
    ("light_roast_coffee", "0075d273-51bb-47cb-b323-4437bd0de029.wav"),
    ("double_shot_espresso", "febb6093-3cc6-430e-94bc-8c1cfe7fb29e.wav"),
)
NOISE_DB = -58
"""Level of the white noise under a synthetic question, relative to full scale: a quiet room."""


def questions(kokoro: Kokoro, folder: Path) -> list[dict]:
    """Write the synthetic questions; return their records."""
    rng, records = np.random.default_rng(1), []
    for name, voice, text in QUESTIONS:
        assert voice in HELD_OUT
        audio = resample_poly(kokoro.say(text, kokoro.voices[voice], 1.0), 2, 3)
        audio = 0.6 * audio / np.abs(audio).max() + rng.standard_normal(len(audio)) * 10 ** (NOISE_DB / 20)
        soundfile.write(folder / f"{name}.flac", audio, RATE_HZ, "PCM_16")
        source = {"source": "Kokoro-82M (hexgrad), voice packaged by kokoro-js", "licence": "Apache-2.0"}
        records.append({"file": f"{name}.flac", "text": text, "kind": "synthetic", "voice": voice, **source})
    return records


def commands(stem: Path, folder: Path) -> list[dict]:
    """Write the real commands; return their records."""
    found = {r["id"]: r for r in map(json.loads, stem.with_suffix(".jsonl").read_text().splitlines())}
    records = []
    for name, clip in COMMANDS:
        record = found[clip]
        assert record["text_verified_by_slots"] and record["voice_cluster"] in DEV_CLUSTERS
        audio, rate = soundfile.read(
            stem.with_suffix(".flac"), start=record["start"], frames=record["n"], dtype="float32"
        )
        soundfile.write(folder / f"{name}.flac", audio, rate, "PCM_16")
        source = {"source": f"Picovoice speech-to-intent-benchmark, {clip}", "licence": "Apache-2.0"}
        voice = f"crowd-sourced speaker, voice cluster {record['voice_cluster']}"
        records.append({"file": f"{name}.flac", "text": record["text"], "kind": "real", "voice": voice, **source})
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--commands", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    records = questions(Kokoro(args.wheels, args.vocabulary), args.out) + commands(args.commands, args.out)
    (args.out / "audio.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
