# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes eval speech`: word error rate of every exit and policy on packs of clips; false words in noise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_nodes.cli import figures
from edge_nodes.cli.figures import target
from edge_nodes.cli.peers import SPHINX, WHISPER, peers
from edge_nodes.speech.clips import Clip, read, records, trained_on, usable
from edge_nodes.speech.config import SpeechConfig
from edge_nodes.speech.evaluation import Heard, false_words, listen, summary, word_error_rate
from edge_nodes.speech.features import RATE_HZ
from edge_nodes.speech.model import SpeechModel

QUICK_CLIPS, QUICK_NOISE_S = 24, 60
_NEW, _SEEN = "not trained on", "trained on"


def speech(console: Console, stems: Sequence[Path], *, model: str, whisper: str, quick: bool) -> dict[str, Any]:
    """Return the figures of a speech model.

    Args:
        console: for progress.
        stems: packs, see `edge_nodes.speech.clips`; records without a text are noise.
        model: see `models.find`.
        whisper: name or directory of the Whisper model to compare with, if faster-whisper is installed.
        quick: only some clips of each pack.

    Raises:
        EdgeNodesError: bad data or no such model.
    """
    loaded = SpeechModel(model)
    packs: dict[str, Any] = {}
    new: list[tuple[Clip, Heard]] = []
    noise: dict[str, Any] = {}
    for stem in stems:
        with console.status(f"{loaded.name} on {stem.name}"):
            clips, left_out = _clips(stem, max(1, QUICK_CLIPS // len(stems)) if quick else None)
            heard = listen(loaded, clips)
            pairs = list(zip(clips, heard, strict=True))
            new += [pair for pair in pairs if pair[0].dev]
            if pairs:
                packs[stem.name] = {
                    kind: summary(chosen)
                    for kind, wanted in ((_NEW, True), (_SEEN, False))
                    if (chosen := [h for clip, h in pairs if clip.dev is wanted])
                }
                packs[stem.name]["left_out"] = left_out
        with console.status(f"noise of {stem.name}"):
            if (found := _noise(stem, model, quick)) is not None:
                noise[stem.name] = found
    results: dict[str, Any] = {"packs": packs, "noise": noise}
    if new:
        results["all not trained on"] = summary([heard for _, heard in new])
        with console.status("the others"):
            results["others"] = _others([clip for clip, _ in new], whisper)
    about = {"data": [s.name for s in stems], "model": loaded.name, "quick": quick, "threads": 1}
    return figures.result("speech", about, results, targets(results))


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached, of clips that were not trained on."""
    found = []
    if everything := results.get("all not trained on"):
        policies, others = everything["policies"], results["others"]
        shipped = policies["as shipped"]
        last = [p for name, p in policies.items() if name.startswith("exit")][-1]
        if (sphinx := others[SPHINX].get("wer")) is not None:
            found.append(target("WER %, half of pocketsphinx's", shipped["wer"], "<=", round(sphinx / 2, 2)))
        if (whisper := others[WHISPER].get("wer")) is not None:
            found.append(target("WER %, 1.5x Whisper tiny.en's", shipped["wer"], "<=", round(1.5 * whisper, 2)))
        worse = round(shipped["wer"] - last["wer"], 2)
        saved = round(100 * (1 - shipped["gflop_per_s"] / last["gflop_per_s"]), 1)
        found.append(target("WER of the shipped policy over the last exit's, points", worse, "<=", 0.5))
        found.append(target("encoder operations the shipped policy saves, %", saved, ">=", 40.0))
    for name, noise in results["noise"].items():
        found.append(target(f"false accepts an hour, {name}", noise["false_accepts_per_hour"], "<=", 0.0))
    return found


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the figures."""
    found = result["results"]
    kinds = [(pack, kind) for pack, sets in found["packs"].items() for kind in (_NEW, _SEEN) if kind in sets]
    sets = {f"{pack}, {kind}": found["packs"][pack][kind] for pack, kind in kinds}
    if sets:
        names = [n for n in next(iter(sets.values()))["policies"] if n.startswith("exit")]
        rows = ([n, s["clips"], s["words"], *(s["policies"][e]["wer"] for e in names)] for n, s in sets.items())
        figures.show_table(console, "WER %", ("", "clips", "words", *names), rows)
    if everything := found.get("all not trained on"):
        rows = (
            [n, p["wer"], p["layers"], p["gflop_per_s"], p["seconds_per_s"], " ".join(f"{e:.0%}" for e in p["ends_at"])]
            for n, p in everything["policies"].items()
        )
        titles = ("", "WER %", "layers", "GFLOP/s", "s/s", "audio ending at each exit")
        figures.show_table(console, f"{everything['clips']} clips not trained on, a second of audio", titles, rows)
        others = found["others"].items()
        figures.show_table(
            console,
            "others on the same clips",
            ("", "WER %", "s/s", ""),
            ([n, o.get("wer"), o.get("seconds_per_s"), o.get("absent", "")] for n, o in others),
        )
    columns = ("minutes", "segments", "false_accepts", "false_accepts_per_hour")
    noise = [[n, *(v[c] for c in columns), _SEEN if v["trained_on"] else _NEW] for n, v in found["noise"].items()]
    if noise:
        figures.show_table(console, "noise", ("", *columns, ""), noise)
    figures.show_targets(console, result["targets"])


def _clips(stem: Path, limit: int | None) -> tuple[list[Clip], int]:
    """Return the clips, evenly spread if limited, `dev` if training did not see them; and how many were unusable."""
    speech = [r for r in records(stem) if r.get("text")]
    found = list(usable(stem))
    seen = trained_on(stem)
    left_out = len(speech) - len(found)
    if limit is not None:
        held_out = [item for item in found if item[2] or not seen]
        found = (held_out or found)[:: max(1, len(held_out or found) // limit)][:limit]
    return [Clip(stem.name, text, read(stem, r), held or not seen) for r, text, held in found], left_out


def _noise(stem: Path, model: str, quick: bool) -> dict[str, Any] | None:
    """Return what is heard in the records without a text, None if there are none."""
    found = [r for r in records(stem) if not r.get("text")]
    if not found:
        return None
    if quick:
        found = [{**r, "n": min(r["n"], QUICK_NOISE_S * RATE_HZ // len(found))} for r in found]
    config = replace(SpeechConfig(), model=model)
    return {**false_words((read(stem, r) for r in found), config), "trained_on": trained_on(stem)}


def _others(clips: Sequence[Clip], whisper: str) -> dict[str, Any]:
    """Return word error rate and seconds per second of audio of each peer, or why it is absent."""
    found: dict[str, Any] = {}
    audio = sum(len(clip.samples) for clip in clips) / RATE_HZ
    for name, transcribe in peers(whisper):
        if isinstance(transcribe, str):
            found[name] = {"absent": transcribe}
            continue
        begin = time.perf_counter()
        heard = [transcribe(clip.samples) for clip in clips]
        seconds = time.perf_counter() - begin
        wer = word_error_rate([clip.text.split() for clip in clips], heard)
        found[name] = {"wer": wer, "seconds_per_s": round(seconds / audio, 4)}
    return found
