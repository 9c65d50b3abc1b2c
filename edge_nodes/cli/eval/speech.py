# SPDX-License-Identifier: Apache-2.0
"""`edge-nodes eval speech`: word error rate of every exit and policy on packs of clips; false words in noise."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_nodes import models
from edge_nodes.cli import figures
from edge_nodes.cli.figures import target
from edge_nodes.cli.peers import SPHINX, WHISPER, peers
from edge_nodes.speech import calibration as calibration_file
from edge_nodes.speech import streaming
from edge_nodes.speech.calibrating import LOSS, USABLE, WORDS_GRID, crossed, fit
from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.clips import Clip, read, records, trained_on, usable
from edge_nodes.speech.config import ExitConfig, SpeechConfig
from edge_nodes.speech.evaluation import (
    THRESHOLDS,
    Heard,
    false_words,
    listen,
    listen_by_words,
    summary,
    under,
    word_error_rate,
)
from edge_nodes.speech.features import RATE_HZ
from edge_nodes.speech.lexicon import Lexicon
from edge_nodes.speech.model import SpeechModel
from edge_nodes.speech.noises import varied
from edge_nodes.speech.recognizer import Recognizer

QUICK_CLIPS, QUICK_NOISE_S, NOISE_S = 24, 60, 3600
PAUSES_S = (0.15, 0.45)
COMPARISON = "comparison.json"
"""Beside the weights: what train.speech.compare found of an early-exit Conformer, trained alike."""
_NEW, _SEEN = "not trained on", "trained on"


def speech(
    console: Console, stems: Sequence[Path], *, model: str, whisper: str, quick: bool, calibrate: bool = False
) -> dict[str, Any]:
    """Return the figures of a speech model.

    Args:
        console: for progress.
        stems: packs, see `edge_nodes.speech.clips`; records without a text are noise.
        model: see `models.find`.
        whisper: name or directory of the Whisper model to compare with, if faster-whisper is installed.
        quick: only some clips of each pack, and a third of those for the others.
        calibrate: choose the policies' thresholds on the clips that were not trained on, and store them beside the
            weights; the clips that were trained on are left alone.

    Raises:
        EdgeNodesError: bad data, no such model, or nothing to calibrate with.
    """
    loaded = SpeechModel(model, lexicon=Lexicon())
    heard: dict[str, tuple[list[tuple[Clip, Heard]], int]] = {}
    for stem in stems:
        with console.status(f"{loaded.name} on {stem.name}"):
            clips, left_out = _clips(stem, max(1, QUICK_CLIPS // len(stems)) if quick else None, only_new=calibrate)
            heard[stem.name] = list(zip(clips, listen(loaded, clips), strict=True)), left_out
    results: dict[str, Any] = {}
    if calibrate:
        new = [pair for pairs, _ in heard.values() for pair in pairs if pair[0].dev]
        with console.status("thresholds"):
            loaded.calibration, results["calibration"] = _calibrate(loaded, model, new)
    with console.status("word by word"):
        heard = {name: (_by_words(loaded, pairs, quick), left_out) for name, (pairs, left_out) in heard.items()}
    new = [pair for pairs, _ in heard.values() for pair in pairs if pair[0].dev]
    results["packs"] = {name: _pack(*found, loaded.calibration) for name, found in heard.items() if found[0]}
    results["noise"] = {}
    for stem in stems:
        with console.status(f"noise of {stem.name}"):
            if (noise := _noise(stem, model, quick)) is not None:
                results["noise"][stem.name] = noise
    if new:
        results["all not trained on"] = summary([h for _, h in new], loaded.calibration)
        with console.status("the same as streams"):
            results["streams"] = _streams([clip for clip, _ in new[: QUICK_CLIPS // 3 if quick else None]], model)
        with console.status("the others"):
            # They take longer than all the rest.
            results["others"] = _others(new[:: 3 if quick else 1], whisper, loaded.calibration)
    comparison = models.find(model).path.parent / COMPARISON
    if comparison.is_file():
        results["comparison"] = json.loads(comparison.read_text())
    about = {"data": [s.name for s in stems], "model": loaded.name, "quick": quick, "threads": 1}
    return figures.result("speech", about, results, targets(results))


def targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted and whether it was reached, of clips that were not trained on."""
    found = []
    if everything := results.get("all not trained on"):
        policies, others = everything["policies"], results["others"]
        shipped = policies["as shipped"]
        last = [p for name, p in policies.items() if name.startswith("exit")][-1]
        for name, peer, share in (("half of pocketsphinx's", SPHINX, 0.5), ("1.5x Whisper tiny.en's", WHISPER, 1.5)):
            theirs, ours = (others[peer].get(wer) for wer in ("wer", "ours_wer"))
            wanted = None if theirs is None else round(share * theirs, 2)
            found.append(target(f"WER %, {name}", shipped["wer"] if ours is None else ours, "<=", wanted))
        worse = round(shipped["wer"] - last["wer"], 2)
        saved = round(100 * (1 - shipped["gflop_per_s"] / last["gflop_per_s"]), 1)
        found.append(target("WER of the shipped policy over the last exit's, points", worse, "<=", 0.5))
        found.append(target("encoder operations the shipped policy saves, %", saved, ">=", 40.0))
        for name in ("clips", "pause between two", "pause within one"):
            early, late = (results["streams"][f"{name}, {way}"]["wer"] for way in ("as shipped", "after silence only"))
            if early is not None and late is not None:
                found.append(target(f"WER %, early final texts, {name}", early, "<=", late))
    found += _beside_conformer(results.get("comparison"))
    for name, noise in results["noise"].items():
        found.append(target(f"false accepts an hour, {name}", noise["false_accepts_per_hour"], "<=", 0.0))
    return found


def _beside_conformer(comparison: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the targets of the encoder with and without its parallel layers, trained alike."""
    worse, better = None, None
    if comparison is not None:
        doubt = np.array(comparison.get("better_within", 0.0))  # half of the 95 % interval over the runs
        pairs = [np.subtract(comparison["without"]["wer"][s], wer) for s, wer in comparison["with"]["wer"].items()]
        worse = float(sum((pair - doubt < 0).sum() for pair in pairs))
        better = round(float(min((pair - doubt)[:2].min() for pair in pairs)), 2)
    return [
        target("exits that may be worse than a same-size early-exit Conformer's, trained alike", worse, "<=", 0.0),
        target("points of WER better than it at the two lowest exits, at least", better, ">=", 1.0),
    ]


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
            [
                n,
                *(p[key] for key in ("wer", "wer_as_heard", "layers", "gflop_per_s", "seconds_per_s")),
                " ".join(f"{e:.0%}" for e in p["ends_at"]),
            ]
            for n, p in everything["policies"].items()
        )
        titles = ("", "WER %", "as heard", "layers", "GFLOP/s", "s/s", "audio ending at each exit")
        figures.show_table(console, f"{everything['clips']} clips not trained on, a second of audio", titles, rows)
        streams = (
            [n, s["wer"], s["finals"], s["withdrawn"], *(s["end_to_final_ms"][k] for k in ("p50", "p95"))]
            for n, s in found["streams"].items()
        )
        heads = ("", "WER %", "finals", "withdrawn", "end to final ms, p50", "p95")
        figures.show_table(console, "the same clips as streams; pauses of 150 to 450 ms", heads, streams)
        others = found["others"].items()
        figures.show_table(
            console,
            "others on the same clips",
            ("", "clips", "WER %", "ours", "s/s", ""),
            ([n, *map(o.get, ("clips", "wer", "ours_wer", "seconds_per_s")), o.get("absent", "")] for n, o in others),
        )
    columns = ("recorded_minutes", "minutes", "segments", "false_accepts", "false_accepts_per_hour")
    noise = [[n, *(v[c] for c in columns), _SEEN if v["trained_on"] else _NEW] for n, v in found["noise"].items()]
    if noise:
        figures.show_table(console, "noise", ("", *columns, ""), noise)
    if comparison := found.get("comparison"):
        of_both = [
            [f"{source}, {kind}", comparison[kind]["parameters"], *wer]
            for kind in ("with", "without")
            for source, wer in comparison[kind]["wer"].items()
        ]
        differences = (
            ("points better with them", "better"),
            ("+- (95 %)", "better_within"),
            ("loss lower with them, %", "loss_lower_percent"),
            ("+- (95 %)", "loss_lower_percent_within"),
        )
        of_both += [[name, "", *comparison[key]] for name, key in differences if key in comparison]
        title = f"WER % with and without parallel layers, trained alike for {comparison['steps']} steps"
        exits = (f"exit {i + 1}" for i in range(len(next(iter(comparison["with"]["wer"].values())))))
        figures.show_table(console, title, ("", "parameters", *exits), of_both)
    if calibration := found.get("calibration"):
        rows = ([name, calibration[name]] for name in ("words", "confidence", "entropy", "earliest", "file"))
        figures.show_table(console, "calibration", ("", "value"), rows)
    figures.show_targets(console, result["targets"])


def _pack(pairs: Sequence[tuple[Clip, Heard]], left_out: int, calibration: Calibration) -> dict[str, Any]:
    """Return the figures of one pack's clips, apart for those that were trained on and those that were not."""
    found: dict[str, Any] = {
        kind: summary(chosen, calibration)
        for kind, wanted in ((_NEW, True), (_SEEN, False))
        if (chosen := [heard for clip, heard in pairs if clip.dev is wanted])
    }
    return {**found, "left_out": left_out}


def _by_words(model: SpeechModel, pairs: Sequence[tuple[Clip, Heard]], quick: bool) -> list[tuple[Clip, Heard]]:
    """Add the policy `words` as calibrated, and at more thresholds on clips that were not trained on."""
    found: list[tuple[Clip, Heard]] = []
    for clip, heard in pairs:
        thresholds = {model.calibration.words, *(THRESHOLDS["words"] if clip.dev and not quick else ())}
        found += zip([clip], listen_by_words(model, [clip], [heard], thresholds), strict=True)
    return found


def _calibrate(
    loaded: SpeechModel, model: str, new: Sequence[tuple[Clip, Heard]]
) -> tuple[Calibration, dict[str, Any]]:
    """Store the thresholds found on clips that were not trained on; return them, and what is known of them."""
    if not new:
        raise figures.DataError(
            "nothing to calibrate with", got="no clip that was not trained on", expected="such a pack with --data"
        )
    found = models.find(model)
    if "sha256" not in found.manifest:
        raise figures.DataError("this model has no manifest to calibrate", got=found.path, expected="a model's folder")
    # The earliest layer that words may leave at is known first.
    loaded.calibration = fit([h for _, h in new], loaded.calibration)
    heard = listen_by_words(loaded, [c for c, _ in new], [h for _, h in new], WORDS_GRID)
    calibration, folder = fit(heard, loaded.calibration), found.path.parent
    about = {
        "clips": dict(Counter(clip.source for clip, _ in new)),
        "loss_allowed_points": LOSS,
        "usable_wer": USABLE,
        "thresholds_of_the_other_half": crossed(heard),
    }
    try:
        path = calibration_file.save(folder, found.manifest["sha256"], calibration, about)
    except OSError as error:
        raise figures.DataError(
            "the calibration cannot be stored beside the weights",
            got=error,
            remedy="Copy the model's folder to where you may write, and name the copy with --model.",
        ) from error
    return calibration, {**asdict(calibration), **about, "file": path.name}


def _clips(stem: Path, limit: int | None, only_new: bool) -> tuple[list[Clip], int]:
    """Return the clips, evenly spread if limited, `dev` if training did not see them; and how many were unusable."""
    speech = [r for r in records(stem) if r.get("text")]
    found = list(usable(stem))
    seen = trained_on(stem)
    left_out = len(speech) - len(found)
    if limit is not None:
        held_out = [item for item in found if item[2] or not seen]
        found = (held_out or found)[:: max(1, len(held_out or found) // limit)][:limit]
    if only_new and seen:
        found = [item for item in found if item[2]]
    return [Clip(stem.name, text, read(stem, r), held or not seen) for r, text, held in found], left_out


def _streams(clips: Sequence[Clip], model: str) -> dict[str, Any]:
    """Return what early final texts change on clips as they come, and with a pause between two and within one."""
    random = np.random.default_rng(0)
    pauses = [float(p) for p in random.uniform(*PAUSES_S, len(clips))]
    sets = {
        "clips": [(clip.text, clip.samples) for clip in clips],
        "pause between two": [
            (f"{a.text} {b.text}", streaming.joined([a.samples, b.samples], [pause]))
            for a, b, pause in zip(clips[::2], clips[1::2], pauses, strict=False)
        ],
        "pause within one": [
            (clip.text, streaming.with_pause(clip.samples, pause)) for clip, pause in zip(clips, pauses, strict=True)
        ],
    }
    config = replace(SpeechConfig(), model=model)
    recognizer = Recognizer(config)
    recognizer.load()
    ways = {"as shipped": config, "after silence only": replace(config, vad=replace(config.vad, early_ms=0))}
    found = {}
    for name, items in sets.items():
        for way, recognizer.config in ways.items():
            told = [streaming.live(recognizer, samples, partials=False) for _, samples in items]
            texts = [" ".join(each.event.text for each in streaming.finals(stream)) for stream in told]
            delays = [delay for stream in told for delay in streaming.final_delays_ms(stream)]
            found[f"{name}, {way}"] = {
                "wer": word_error_rate([text.split() for text, _ in items], texts),
                **streaming.figures(told),
                "end_to_final_ms": figures.spread(delays),
            }
    return found


def _noise(stem: Path, model: str, quick: bool) -> dict[str, Any] | None:
    """Return what is heard in an hour of the records without a text and variations of them, None if there are none."""
    found = [r for r in records(stem) if not r.get("text") and r["n"]]
    if not found:
        return None
    if quick:
        found = [{**r, "n": min(r["n"], QUICK_NOISE_S * RATE_HZ // len(found))} for r in found]
    recordings = [read(stem, r) for r in found]
    noise = varied(recordings, QUICK_NOISE_S if quick else NOISE_S)
    heard = false_words(noise, replace(SpeechConfig(), model=model))
    recorded = sum(map(len, recordings)) / RATE_HZ / 60
    return {**heard, "recorded_minutes": round(recorded, 2), "trained_on": trained_on(stem)}


def _others(pairs: Sequence[tuple[Clip, Heard]], whisper: str, known: Calibration) -> dict[str, Any]:
    """Return the figures of each peer beside our word error rate on the same clips, or why it is absent."""
    found: dict[str, Any] = {}
    clips = [clip for clip, _ in pairs]
    audio = sum(len(clip.samples) for clip in clips) / RATE_HZ
    ours = under([heard for _, heard in pairs], ExitConfig(), known)["wer"]
    for name, transcribe in peers(whisper):
        if isinstance(transcribe, str):
            found[name] = {"absent": transcribe}
            continue
        begin = time.perf_counter()
        heard = [transcribe(clip.samples) for clip in clips]
        seconds = time.perf_counter() - begin
        wer = word_error_rate([clip.text.split() for clip in clips], heard)
        spent = round(seconds / audio, 4)
        found[name] = {"clips": len(clips), "wer": wer, "ours_wer": ours, "seconds_per_s": spent}
    return found
