# SPDX-License-Identifier: Apache-2.0
"""JSON Schemas of the `.../event` topics: what the three domains tell each other and the user.

An event is one JSON object in a std_msgs/String. docs/events.md is generated from here. Times are integer
nanoseconds of the ROS clock, lengths metres in the sensor's frame (x ahead, y left, z up), bearings degrees from
ahead, positive to the left.
"""

from __future__ import annotations

import json
from typing import Any

_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_STRING = {"type": "string"}
_TRIPLE = {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3}
_MS = {"type": "object", "additionalProperties": _NUMBER, "description": "latency of each stage in ms"}


def _event(name: str, doc: str, required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    common = {
        "schema": {"const": f"edge_nodes/{name}/1"},
        "stamp_ns": {**_INTEGER, "description": "stamp of the input this is about"},
        "sequence": {**_INTEGER, "description": "counts up by one from 0 with each event of the node"},
        "latency_ms": _MS,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{name}/event",
        "description": doc,
        "type": "object",
        "properties": common | properties,
        "required": [*common, *required],
    }


_OBJECT = {
    "type": "object",
    "properties": {
        "id": {**_INTEGER, "description": "stable while the object is tracked"},
        "class": {"enum": ["vehicle", "person", "wall", "obstacle"]},
        "range_m": _NUMBER,
        "bearing_deg": _NUMBER,
        "center_m": _TRIPLE,
        "size_m": {**_TRIPLE, "description": "length, width, height of the box"},
        "yaw_deg": {**_NUMBER, "description": "heading of the box's length, degrees from ahead"},
        "speed_mps": _NUMBER,
        "velocity_mps": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
        "confidence": {**_NUMBER, "minimum": 0, "maximum": 1},
        "age_s": {**_NUMBER, "description": "time since it was first seen"},
    },
    "required": ["id", "class", "range_m", "bearing_deg", "center_m", "size_m", "speed_mps", "confidence"],
}

SCENE = _event(
    "scene",
    "What is around the robot at one stamp.",
    ("frame_id", "objects", "free_m", "text", "alarm"),
    frame_id=_STRING,
    objects={"type": "array", "items": _OBJECT, "description": "nearest first"},
    free_m={
        "type": "object",
        "properties": {"ahead": _NUMBER, "left": _NUMBER, "right": _NUMBER, "behind": _NUMBER},
        "required": ["ahead", "left", "right"],
        "description": "distance to the first occupied cell in a corridor of the robot's width",
    },
    text={**_STRING, "description": "the same in a few short sentences, as on scene/text"},
    alarm={
        "type": ["object", "null"],
        "properties": {"text": _STRING, "object": {"type": ["integer", "null"]}},
        "required": ["text"],
        "description": "something that needs attention now (a person close ahead, an object closing in)",
    },
)

SPEECH = _event(
    "speech",
    "Speech starts, a partial hypothesis, the final words, or speech that held no words (final, empty text).",
    ("kind", "text", "start_ns", "end_ns"),
    kind={"enum": ["start", "partial", "final"]},
    text=_STRING,
    start_ns={**_INTEGER, "description": "start of the speech segment"},
    end_ns={**_INTEGER, "description": "end of the audio this text is from; of the speech, when final"},
    exit={
        "type": "object",
        "properties": {"layer": _INTEGER, "of": _INTEGER, "policy": _STRING},
        "required": ["layer", "of", "policy"],
        "description": "the encoder layer the text was read from",
    },
    confidence={**_NUMBER, "minimum": 0, "maximum": 1},
    cost={
        "type": "object",
        "additionalProperties": _NUMBER,
        "description": "what it took: encoder_ms, encoder_gflop, layers, mean_layers, ...",
    },
    replaces={
        "type": "boolean",
        "description": "final only: takes the place of the one before with this start_ns, whose speech went on",
    },
)

_ATTEMPT = {
    "type": "object",
    "properties": {
        "text": _STRING,
        "answer": {"type": ["string", "null"], "description": "the form that is voted on; null if it has none"},
        "entropy_bits": {**_NUMBER, "description": "mean entropy of the distributions of its tokens"},
        "weight": _NUMBER,
        "tokens": _INTEGER,
        "finish_reason": _STRING,
    },
    "required": ["text", "answer", "entropy_bits", "weight", "tokens", "finish_reason"],
}
_REASONING = {
    "type": "object",
    "description": "attempts and vote, unless reasoning.mode is single",
    "properties": {
        "mode": {"enum": ["parallel", "sequential"]},
        "vote": {**_STRING, "description": "the rule"},
        "answer": {"type": ["string", "null"], "description": "what was elected"},
        "totals": {"type": "object", "additionalProperties": _NUMBER, "description": "weight of each answer"},
        "attempts": {"type": "array", "items": _ATTEMPT},
        "decided_early": {"type": "boolean", "description": "attempts were spared that could not change the vote"},
    },
    "required": ["mode", "vote", "answer", "totals", "attempts", "decided_early"],
}

LANGUAGE = _event(
    "language",
    "A request to the language model has ended.",
    ("kind", "request", "text", "finish_reason", "tokens"),
    kind={"enum": ["reply", "narration", "cancelled", "error"]},
    request={
        "type": "object",
        "properties": {
            "id": {**_INTEGER, "description": "counts up by one with each request; answers may end in another order"},
            "source": {"enum": ["speech", "prompt", "narration"]},
            "text": _STRING,
        },
        "required": ["id", "source", "text"],
    },
    text=_STRING,
    finish_reason={"enum": ["stop", "length", "cancelled", "deadline", "error"]},
    error={**_STRING, "description": "what went wrong, with kind error"},
    reasoning=_REASONING,
    scene_sequence={"type": ["integer", "null"], "description": "sequence of the scene event in the prompt"},
    tokens={
        "type": "object",
        "properties": {"prompt": _INTEGER, "cached": _INTEGER, "generated": _INTEGER},
        "required": ["prompt", "cached", "generated"],
    },
    tokens_per_s=_NUMBER,
    attention={
        "type": "object",
        "description": "with delta attention: shares of score multiply-adds that were skipped, mean over the layers",
        "properties": {
            "prefill_sparsity": _NUMBER,
            "decode_sparsity": _NUMBER,
            "sparsity": {**_NUMBER, "description": "of both stages"},
            "running_sparsity": {**_NUMBER, "description": "folded as the paper's program does, prompt only"},
            "key_bytes": {**_INTEGER, "description": "what the keys take"},
        },
        "required": ["prefill_sparsity", "decode_sparsity", "sparsity", "running_sparsity", "key_bytes"],
    },
    model=_STRING,
    kernel=_STRING,
    model_memory_mb={"type": "number", "description": "weights and cache, in MB of 2^20 bytes"},
)

SCHEMAS = {"scene/event": SCENE, "speech/event": SPEECH, "language/event": LANGUAGE}


def encode(event: dict[str, Any]) -> str:
    """Return an event as one line of JSON."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False)
