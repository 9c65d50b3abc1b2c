# SPDX-License-Identifier: Apache-2.0
"""Samples from audio messages: std_msgs, and the two packages that are both called audio_common_msgs.

mgonzs13's publishes AudioStamped (samples with their rate and channels), ros-drivers' AudioData and AudioDataStamped
(bytes) with an AudioInfo beside them every few seconds. Neither package is needed: messages are told apart by the
name of their type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_nodes.speech import SpeechError
from edge_nodes.speech.config import AUDIO_TYPES

TYPES = AUDIO_TYPES
INFO_TYPE, INFO_TOPIC = "audio_common_msgs/AudioInfo", "audio_info"
"""What tells the format of ros-drivers' AudioData."""
AUTO = "auto"
Samples = NDArray[np.int16]


def needs_info(kind: str) -> bool:
    """Return whether the format of a type's messages is told by an `INFO_TYPE`."""
    return kind in ("audio_common_msgs/AudioData", "audio_common_msgs/AudioDataStamped")


def choose(wanted: str, published: Collection[str]) -> str:
    """Return the message type to subscribe to.

    Args:
        wanted: one of `TYPES`, or "auto".
        published: types that the topic is published with now, package/msg/Name.

    Raises:
        SpeechError: "auto", and it is published with none of `TYPES`.
    """
    if wanted != AUTO:
        return wanted
    names = {name.replace("/msg/", "/") for name in published}
    found = [kind for kind in TYPES if kind in names]
    if names and not found:
        raise SpeechError(
            "the audio topic has a type that is not known here",
            got=", ".join(sorted(names)),
            expected="one of " + ", ".join(TYPES),
            remedy="Remap audio to another topic.",
        )
    return found[0] if found else TYPES[0]


def samples_of(message: Any, rate_hz: int, kind: str = TYPES[0], info: Any = None) -> Samples:
    """Return the samples of a message, (n,) int16.

    Args:
        message: of the type `kind`.
        rate_hz: the rate they must have.
        kind: one of `TYPES`.
        info: the last message of `INFO_TYPE`; without one, AudioData is taken to be right.

    Raises:
        SpeechError: samples of another type, another rate or channel count, sizes that do not fit the data.
    """
    return _READERS[kind](message, rate_hz, info)


def _multi_array(message: Any, rate_hz: int, _: Any) -> Samples:
    """Read a std_msgs/Int16MultiArray.

    The layout may hold the dimensions "samples" (size n), "channels" (size 1) and "rate_hz" (size: the rate); what it
    does not hold is taken to be right.
    """
    samples = _int16(message.data)
    layout = getattr(message, "layout", None)
    sizes = {dim.label: int(dim.size) for dim in layout.dim} if layout is not None else {}
    rate, channels = sizes.get("rate_hz", rate_hz), sizes.get("channels", 1)
    _check(rate, channels, rate_hz, "e.g. the parameter rate_hz of microphone_node")
    offset = int(getattr(layout, "data_offset", 0) or 0)
    count = sizes.get("samples", len(samples) - offset)
    if offset + count > len(samples):
        raise SpeechError(
            "an audio message is truncated", got=f"{len(samples)} samples", expected=f"{offset + count} samples"
        )
    return samples[offset : offset + count]


def _audio_stamped(message: Any, rate_hz: int, _: Any) -> Samples:
    """Read mgonzs13's AudioStamped; its newer versions call the samples `audio_data`."""
    audio = message.audio
    data = audio.audio_data if hasattr(audio, "audio_data") else audio.audio
    _check(int(audio.info.rate), int(audio.info.channels), rate_hz, "the parameters rate and channels")
    samples = _int16(data.int16_data)
    names = ("float32_data", "int32_data", "int24_data", "int8_data", "uint8_data")
    others = [name for name in names if len(getattr(data, name, ()))]
    if others:
        raise SpeechError(
            "audio has another format than int16",
            got=others[0],
            expected="int16_data",
            remedy="Set the parameter format of audio_capturer_node to 8 (16-bit integers).",
        )
    return samples


def _audio_data(message: Any, rate_hz: int, info: Any) -> Samples:
    """Read ros-drivers' AudioData: bytes, little endian."""
    if info is not None:
        coding, form = str(info.coding_format), str(info.sample_format)
        if coding.lower() != "wave" or form.upper() != "S16LE":
            raise SpeechError(
                "audio has another format than int16",
                got=f"{coding} {form}",
                expected="wave S16LE",
                remedy="Set the parameters of audio_capture: format to wave, sample_format to S16LE.",
            )
        _check(int(info.sample_rate), int(info.channels), rate_hz, "the parameters sample_rate and channels")
    data = bytes(message.data)
    if len(data) % 2:
        raise SpeechError(
            "audio is no row of 16-bit samples",
            got=f"{len(data)} bytes",
            expected="an even number",
            remedy="Set the parameter format of audio_capture to wave; mp3 is its default.",
        )
    return np.frombuffer(data, "<i2").astype(np.int16, copy=False)


def _audio_data_stamped(message: Any, rate_hz: int, info: Any) -> Samples:
    return _audio_data(message.audio, rate_hz, info)


_READERS: dict[str, Callable[[Any, int, Any], Samples]] = dict(
    zip(TYPES, (_multi_array, _audio_stamped, _audio_data, _audio_data_stamped), strict=True)
)


def audio_fields(block: NDArray[np.int16], rate_hz: int) -> dict[str, Any]:
    """Return the fields of the std_msgs/Int16MultiArray for one channel of samples, (n,) int16."""
    sizes = {"samples": len(block), "channels": 1, "rate_hz": rate_hz}
    dim = [{"label": label, "size": size, "stride": size} for label, size in sizes.items()]
    return {"layout": {"dim": dim, "data_offset": 0}, "data": block}


def _int16(data: Any) -> NDArray[np.int16]:
    if isinstance(data, bytes | bytearray | memoryview):
        raise SpeechError("audio is not of type Int16MultiArray", got=type(data).__name__, expected="int16 samples")
    try:
        samples = np.asarray(data)
    except ValueError:
        samples = np.array([data], object)
    exact = samples.dtype == np.int16
    # A list from a test or another client: integers that fit are as good.
    fits = samples.size == 0 or (samples.dtype.kind in "iu" and samples.min() >= -32768 and samples.max() <= 32767)
    if samples.ndim != 1 or not (exact or (isinstance(data, list | tuple) and fits)):
        raise SpeechError(
            "audio is not of type Int16MultiArray",
            got=f"{samples.dtype} of shape {samples.shape}",
            expected="int16 samples, one channel",
            remedy="Publish std_msgs/Int16MultiArray.",
        )
    return samples.astype(np.int16, copy=False)


def _check(rate: int, channels: int, rate_hz: int, parameters: str) -> None:
    if rate != rate_hz:
        raise SpeechError(
            "audio has another rate than the node was told",
            got=f"{rate} Hz",
            expected=f"{rate_hz} Hz",
            remedy=f"Set the source's rate to that: {parameters}.",
        )
    if channels != 1:
        raise SpeechError(
            "audio has more than one channel",
            got=channels,
            expected="1",
            remedy=f"Publish one channel; microphone_node does. Else: {parameters}.",
        )
