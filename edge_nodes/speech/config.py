# SPDX-License-Identifier: Apache-2.0
"""Parameters of speech_node and microphone_node."""

from __future__ import annotations

from dataclasses import dataclass

from edge_nodes.parameters import group, parameter

AUDIO_TYPES = (
    "std_msgs/Int16MultiArray",
    "audio_common_msgs/AudioStamped",
    "audio_common_msgs/AudioData",
    "audio_common_msgs/AudioDataStamped",
)
POLICIES = ("fixed", "words", "confidence", "entropy", "deadline", "load")


@dataclass(frozen=True)
class ExitConfig:
    """Which encoder layer the final words are read from."""

    policy: str = parameter(
        "words",
        "fixed: always exit.layer; words: each word from the first layer sure enough of it, silence before; "
        "confidence, entropy: all from the first that sure; deadline: the last that exit.budget_ms allows; load: "
        "earlier, the longer audio waits; all: exit.layer at the latest",
        choices=POLICIES,
    )
    layer: int = parameter(
        0,
        "Layer of the fixed policy and last of the others: the first from there on with an exit; 0 is the model's last",
        minimum=0,
    )
    threshold: float = parameter(
        0.0,
        "Probability (policy words), confidence or certainty (policy entropy) at which to leave; 0 is the one "
        "stored beside the model's weights, or never without one",
        minimum=0.0,
        maximum=1.0,
    )
    budget_ms: float = parameter(
        20.0, "Deadline policy: time for a second of audio", unit="ms", minimum=0.1, maximum=10000.0
    )
    overload_ms: float = parameter(
        1000.0,
        "Load policy: age of the waiting audio at which exit.earliest is taken; in between in proportion",
        unit="ms",
        minimum=1.0,
        maximum=60000.0,
    )
    earliest: int = parameter(
        0,
        "Load and words policies: layer they do not go below; 0 is the one stored beside the model's weights",
        minimum=0,
    )
    partial_layer: int = parameter(3, "Layer that partial texts are read from; 1 is the cheapest", minimum=1)


@dataclass(frozen=True)
class VadConfig:
    """How speech is told from silence."""

    threshold: float = parameter(0.5, "Probability of speech at which a segment starts", minimum=0.05, maximum=0.95)
    silence_ms: int = parameter(400, "Silence that ends a segment", unit="ms", minimum=64, maximum=5000)
    early_ms: int = parameter(
        224,
        "Silence after which the final text is given already if it is sure; speech that goes on before "
        "vad.silence_ms takes it back, and the next final text replaces it; 0 turns it off",
        unit="ms",
        minimum=0,
        maximum=5000,
    )
    early_confidence: float = parameter(
        0.8, "How sure a text is that is given after vad.early_ms", minimum=0.0, maximum=1.0
    )
    speech_ms: int = parameter(96, "Speech that starts a segment", unit="ms", minimum=32, maximum=1000)
    pad_ms: int = parameter(200, "Audio kept before and after the speech", unit="ms", minimum=0, maximum=1000)


@dataclass(frozen=True)
class WordsConfig:
    """How words are spelled."""

    correct: bool = parameter(
        True, "Spell words like those of the English lexicon, by their sound and by the words before", fixed=True
    )
    own: str = parameter(
        "", "More words that exist, separated by spaces: names, places, things the robot is asked for", fixed=True
    )


@dataclass(frozen=True)
class ReferenceConfig:
    """What the file of a reference: model does not tell."""

    tokenizer: str = parameter(
        "", "SentencePiece file of a reference: model; empty for the *.model beside the checkpoint", fixed=True
    )
    heads: int = parameter(8, "Attention heads of a reference: model", minimum=1, maximum=64, fixed=True)


@dataclass(frozen=True)
class SpeechConfig:
    """Parameters of speech_node."""

    model: str = parameter(
        "speech/splitformer",
        "Model: a shipped or installed name, a folder, or reference:FILE for a checkpoint of the Splitformer's authors",
        fixed=True,
    )
    reference: ReferenceConfig = group(ReferenceConfig)
    device: str = parameter("cpu", "Where the encoder runs: cpu, cuda, cuda:1, ...", fixed=True)
    threads: int = parameter(1, "CPU threads of the encoder", minimum=1, maximum=64, fixed=True)
    beside: bool = parameter(True, "Run the parallel layers on `threads` more cores, if there are", fixed=True)
    exit: ExitConfig = group(ExitConfig)
    vad: VadConfig = group(VadConfig)
    words: WordsConfig = group(WordsConfig)
    partial_interval_ms: int = parameter(
        300, "Longest time between two partial texts; 0 turns them off", unit="ms", minimum=0, maximum=10000
    )
    max_segment_s: float = parameter(
        15.0, "Longer speech is cut at its quietest place", unit="s", minimum=2.0, maximum=29.0
    )
    audio_type: str = parameter(
        "auto",
        "Type of the audio topic; auto takes the one it is published with. audio_common_msgs of either author must be "
        "installed for its types",
        choices=("auto", *AUDIO_TYPES),
        fixed=True,
    )
    sample_rate_hz: int = parameter(
        16000,
        "Rate of the audio topic; the model takes 16 kHz only",
        unit="Hz",
        minimum=8000,
        maximum=192000,
        fixed=True,
    )


@dataclass(frozen=True)
class MicrophoneConfig:
    """Parameters of microphone_node."""

    device: str = parameter("", "Name or number of the input device; empty for the system's default", fixed=True)
    rate_hz: int = parameter(16000, "Rate of the audio topic", unit="Hz", minimum=8000, maximum=192000, fixed=True)
    block_ms: int = parameter(40, "Length of one audio message", unit="ms", minimum=20, maximum=100, fixed=True)
