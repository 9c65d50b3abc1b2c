# SPDX-License-Identifier: Apache-2.0
"""Messages that the language pipeline receives, as it sees them."""

from __future__ import annotations

import json
from types import SimpleNamespace

OUTPUTS = ("language/token", "language/reply", "language/event")
SECOND = 1_000_000_000


def message(content):
    return SimpleNamespace(data=content if isinstance(content, str) else json.dumps(content))


def scene(sequence=0, alarm=None, distance=3.2):
    person = {"id": 1, "class": "person", "range_m": distance, "bearing_deg": 0.0, "center_m": [distance, 0, 0]}
    person |= {"size_m": [0.5, 0.5, 1.7], "speed_mps": 0.0, "confidence": 0.9}
    content = {"stamp_ns": 10 * SECOND, "sequence": sequence, "objects": [person], "text": "A person."}
    return message(content | {"free_m": {"ahead": 3.0, "left": 9.0, "right": 9.0}, "alarm": alarm})


def speech(kind, text, end_ns=11 * SECOND):
    return message({"kind": kind, "text": text, "stamp_ns": 10 * SECOND, "start_ns": 0, "end_ns": end_ns})
