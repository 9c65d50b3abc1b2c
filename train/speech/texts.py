# SPDX-License-Identifier: Apache-2.0
"""Sentences to synthesise: a small grammar of what people say to a robot, and plain English sentences."""

# ruff: noqa: E501
from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

# `{name}` is expanded from GRAMMAR, `[x|y|]` picks one alternative.
SENTENCES = (
    "what do you see[| {where}| now| around you| right now]?",
    "what can you see {where}?",
    "tell me what you see[| {where}| now].",
    "describe [the scene|your surroundings|what you see|what is around you|the area {where}].",
    "what is {where}?",
    "what's {where}?",
    "what is that [|thing |object ]{where}?",
    "what is the [nearest|closest] [object|thing|obstacle] [to you|{where}|]?",
    "who is {where}?",
    "is anyone {where}?",
    "is there [{a_thing}|anyone|anything|something|somebody] {where}?",
    "is there [{a_thing}|anyone|anything] {near}?",
    "are there any {things} {where}?",
    "are there [many|any] {things} {near}?",
    "do you see [{a_thing}|anyone|anything|any {things}][| {where}| {near}]?",
    "can you see [{a_thing}|anyone|anything|any {things}][| {where}| {near}]?",
    "how many {things} [are there|do you see|can you see][| {where}| {near}]?",
    "how far [|away ]is the [nearest|closest|next|] {thing}[| {where}]?",
    "how far [|away ]is the {thing} {where}?",
    "how close is the [nearest|] {thing}?",
    "how close are you to the {thing}?",
    "how fast is the {thing} [moving|going|driving|coming]?",
    "how big is the {thing}[| {where}]?",
    "where is the [nearest|closest|] {thing}?",
    "where are the {things}?",
    "is the {thing} [moving|coming closer|getting closer|going away|standing still|parked|approaching]?",
    "is {anything} [moving|coming|approaching][| {where}| towards you| from the left| from the right]?",
    "which way is the {thing} [going|moving|heading]?",
    "is the [way|path|road|lane|street] [ahead |to the left |to the right |behind you |]clear?",
    "is it [clear|safe|free] [ahead|{where}|to go|to move|to turn left|to turn right|to go forward|to back up|to stop here]?",
    "can you [go|move|drive|turn] [forward|ahead|left|right|back|straight ahead]?",
    "can you [go|get|drive] [through|past] the {thing}?",
    "is there [enough|any] [room|space] [|to turn |to pass ][{where}|]?",
    "how much [room|space] [is there|do you have] {where}?",
    "what is blocking [you|the way|the path|the road]?",
    "stop[| now| here| please| moving| the robot| at the {thing}].",
    "wait[| here| for me| a moment| please| for the {thing}].",
    "go [to the {place}|forward|back|left|right|straight|home|ahead|slowly|around the {thing}].",
    "go [forward|back|left|right] {number} [meters|steps|feet].",
    "move [forward|back|backwards|left|right|a little|closer to the {thing}|away from the {thing}].",
    "turn [left|right|around|back|to the left|to the right|{number} degrees|towards the {thing}].",
    "drive [to the {place}|forward|slowly|faster|around the {thing}|{number} meters].",
    "follow [me|the {thing}|that {thing}|the person|the wall|the road].",
    "come [here|back|to me|closer|to the {place}].",
    "look [left|right|up|down|ahead|behind you|around|at the {thing}].",
    "watch [out|the {thing}|the road|your left|for {things}].",
    "slow down[| please| here| near the {thing}].",
    "speed up[| please| a little].",
    "keep [going|left|right|away from the {thing}|your distance].",
    "take me to the {place}.",
    "bring [me|it|this] to the {place}.",
    "find [the|a] {thing}.",
    "please [stop|wait|go ahead|come here|turn around|describe the scene|tell me what you see].",
    "[hello|hi|hey] robot[|, {again}].",
    "robot, {again}.",
    "[thank you|thanks|good|yes|no|okay|never mind|cancel that|repeat that|say that again].",
    "what did you [say|see|hear]?",
    "what is your [battery|name|speed|status|position]?",
    "where are you[| now| going]?",
    "what are you doing?",
    "what time is it?",
    "how are you[| today]?",
    "why did you [stop|turn|slow down|wait]?",
    "[should|can] I [stop|wait|go|cross|move|turn left|turn right][| now| here]?",
    "the [nearest |closest |]{thing} is {number} meters away.",
    "there is {a_thing} {where}.",
    "I see {number} {things} {where}.",
    "is the [door|gate] [open|closed]?",
    "is that [{a_thing}|{a_thing} or {a_thing}]?",
    "what is the distance to the [nearest|closest|] {thing}?",
)
GRAMMAR = {
    "where": "ahead|ahead of you|in front of you|behind you|on your left|on your right|on the left|on the right|to the left"
    "|to your right|to your left|to the right|around you|next to you|beside you|near you|over there|in the way|on the road"
    "|on the left side|on the right side|in the area|nearby|on the sidewalk|straight ahead",
    "near": "near you|nearby|close to you|around|within {number} meters|in front of you|close by|around here",
    "thing": "car|person|wall|truck|vehicle|obstacle|pedestrian|building|tree|bus|bicycle|cyclist|van|door|chair|table|dog"
    "|child|object|pole|sign|box|robot|man|woman|bike|motorcycle|fence|corner|crossing|intersection|traffic light|exit|curb",
    "things": "cars|people|walls|trucks|vehicles|obstacles|pedestrians|buildings|trees|persons|bicycles|cyclists|objects"
    "|doors|chairs|children|poles|robots|animals|things|boxes",
    "a_thing": "a car|a person|a wall|a truck|a vehicle|an obstacle|a pedestrian|a building|a tree|a bus|a bicycle|a van"
    "|a door|a chair|an object|a child|a dog|someone|a man|a woman|a fence|a pole|an animal|a cyclist",
    "anything": "anything|anyone|something|someone|that car|the car|the person|a car",
    "place": "kitchen|door|table|exit|car|office|gate|charging station|corner|parking lot|entrance|elevator|garage|house"
    "|window|street|hallway|room|dock|warehouse|garden|station|desk|lobby|workshop|shelf|next room|main entrance",
    "number": "one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|forty|fifty|ninety|a hundred",
    "again": "stop|what do you see|is the way clear|come here|go to the {place}|where are you|is there {a_thing} {where}"
    "|how far is the {thing}|turn around|what is {where}|wait here|follow me",
}
_WORDS = re.compile(r"[A-Za-z][A-Za-z' ,.?!-]*[A-Za-z.?!]")


def robot_sentence(rng: random.Random) -> str:
    """Return one sentence of the grammar."""
    text = rng.choice(SENTENCES)
    while match := re.search(r"\{(\w+)\}|\[([^\[\]]*)\]", text):
        choices = GRAMMAR[match[1]] if match[1] else match[2]
        # A choice may hold `{...}`, never `[...]`: the innermost bracket is taken first.
        text = text[: match.start()] + rng.choice(choices.split("|")) + text[match.end() :]
    text = re.sub(r"\s+([?.,])", r"\1", re.sub(r"\s+", " ", text)).strip()
    return text[0].upper() + text[1:]


def plain_sentences(folder: Path) -> list[str]:
    """Return short English questions and sentences from the evaluation texts in `folder`, in a stable order.

    Sources: CommonsenseQA (MIT), WinoGrande (CC BY), PIQA (AFL-3.0), COPA (BSD), SQuAD 2.0 (CC BY-SA), LAMBADA.
    """
    found: dict[str, None] = {}
    for text in _texts(folder):
        for part in re.split(r"(?<=[.?!])\s+|\n", text):
            sentence = part.strip().replace("’", "'")
            if 3 <= len(sentence.split()) <= 14 and _WORDS.fullmatch(sentence):
                found[sentence] = None
    return list(found)


def _texts(folder: Path) -> Iterator[str]:
    for name in ("commonsense_qa", "winogrande", "piqa", "copa", "openbook_qa", "lambada_openai"):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt") as file:
            for line in file:
                record = json.loads(line)
                for value in (record.get("query", ""), record.get("context", ""), *record.get("choices", [])):
                    if isinstance(value, str):
                        yield value.replace("Question: ", "").replace("Choices:", "")
    with gzip.open(folder / "squad_v2_dev_part.json.gz", "rt") as file:
        squad = json.load(file)
    for article in squad.get("data", squad):
        for paragraph in article.get("paragraphs", []):
            yield from (qa["question"] for qa in paragraph["qas"])
