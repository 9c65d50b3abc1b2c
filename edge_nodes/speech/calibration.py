# SPDX-License-Identifier: Apache-2.0
"""Thresholds of the exit policies, chosen on development data and kept beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_nodes.errors import ModelError, State
from edge_nodes.speech.sureness import Weights

FILE = "calibration.json"
FORMAT = 3


@dataclass(frozen=True)
class Calibration:
    """What the policies go by where the configuration leaves it to the model.

    Attributes:
        confidence: threshold of the policy of that name, 0..1; 1 leaves at the last exit only.
        entropy: likewise, of the certainty.
        earliest: first layer, from 1, whose words are of use; an overloaded node does not go below it.
        words: threshold of that policy, 0..1.
        sureness: by which an exit knows how sure its words are, by its layer; without them it is their confidence.
    """

    confidence: float = 1.0
    entropy: float = 1.0
    earliest: int = 1
    words: float = 1.0
    sureness: Mapping[int, Weights] = field(default_factory=dict)


def load(folder: Path, weights_sha256: str) -> Calibration:
    """Return the calibration beside a model's weights, one that leaves at the last exit if there is none.

    Args:
        folder: the model's directory.
        weights_sha256: hash of the weights, from the manifest.

    Raises:
        ModelError: MODEL_BAD: the file cannot be read, or was made for other weights.
    """
    path = folder / FILE
    if not path.is_file():
        return Calibration()
    try:
        stored = json.loads(path.read_text())
        if stored["format"] != FORMAT or stored["weights_sha256"] != weights_sha256:
            raise ValueError(f"format {stored['format']}, for the weights {stored['weights_sha256'][:12]}...")
        thresholds = {name: float(stored[name]) for name in ("confidence", "entropy", "words")}
        sureness = {int(layer): Weights(**weights) for layer, weights in stored["sureness"].items()}
        found = Calibration(**thresholds, earliest=int(stored["earliest"]), sureness=sureness)
        if not all(0.0 <= each <= 1.0 for each in thresholds.values()) or found.earliest < 1:
            raise ValueError(f"out of range: {found}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not the calibration of the weights beside it",
            got=" ".join(str(error).split())[:200],
            expected=f"format {FORMAT}, for the weights {weights_sha256[:12]}...",
            remedy="Delete it; edge-nodes eval speech --calibrate makes a new one.",
            state=State.MODEL_BAD,
        ) from error
    return found


def save(folder: Path, weights_sha256: str, found: Calibration, about: Mapping[str, Any]) -> Path:
    """Write the calibration beside a model's weights and return its path.

    Args:
        folder: the model's directory.
        weights_sha256: hash of the weights, from the manifest.
        found: what to store.
        about: what it was found on, for people.
    """
    path = folder / FILE
    entries = {
        "format": FORMAT,
        "weights_sha256": weights_sha256,
        "confidence": found.confidence,
        "entropy": found.entropy,
        "words": found.words,
        "earliest": found.earliest,
        "sureness": {str(layer): asdict(weights) for layer, weights in found.sureness.items()},
        "found_on": dict(about),
    }
    path.write_text(json.dumps(entries, indent=1) + "\n")
    return path
