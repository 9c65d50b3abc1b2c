# SPDX-License-Identifier: Apache-2.0
"""Sound from an input device, block by block, through the package sounddevice (PortAudio)."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_nodes.errors import State
from edge_nodes.speech.config import MicrophoneConfig
from edge_nodes.speech.errors import SpeechError

_WAIT_S = 2.0
_BLOCKS_KEPT = 100


class Microphone:
    """An open input device: a context manager that iterates over blocks of samples.

    Blocks that are not taken in time are dropped, the oldest first, and counted in `dropped`.

    Args:
        config: device, rate and length of a block.
    """

    def __init__(self, config: MicrophoneConfig) -> None:
        self.config = config
        self.dropped = 0
        self._blocks: queue.Queue[NDArray[np.int16]] = queue.Queue(_BLOCKS_KEPT)
        self._stream: Any = None

    def __enter__(self) -> Microphone:
        """Open the device.

        Raises:
            SpeechError: NO_DEVICE: PortAudio is missing, there is no input device, or it refuses the rate.
        """
        sounddevice = _sounddevice()
        config = self.config
        try:
            self._stream = sounddevice.InputStream(
                samplerate=config.rate_hz,
                blocksize=config.rate_hz * config.block_ms // 1000,
                device=_device(config.device),
                channels=1,
                dtype="int16",
                callback=self._heard,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            self._close()
            raise SpeechError(
                "the microphone cannot be opened",
                got=f"device {config.device or 'default'!r} at {config.rate_hz} Hz ({error})",
                expected="an input device",
                remedy="Connect one, or choose one of `python -m sounddevice` with the parameter `device`.",
                state=State.NO_DEVICE,
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        """Yield blocks, (rate_hz * block_ms / 1000,) int16.

        Raises:
            SpeechError: NO_DEVICE: the device has stopped giving sound.
        """
        while self._stream is not None:
            try:
                yield self._blocks.get(timeout=_WAIT_S)
            except queue.Empty:
                raise SpeechError(
                    f"the microphone has given no sound for {_WAIT_S:g} s",
                    got=f"device {self.config.device or 'default'!r}",
                    remedy="Check that it is still connected.",
                    state=State.NO_DEVICE,
                ) from None

    def _heard(self, block: NDArray[np.int16], frames: int, time: object, status: object) -> None:
        while True:
            try:
                self._blocks.put_nowait(block[:, 0].copy())
            except queue.Full:
                self._blocks.get_nowait()
                self.dropped += 1
            else:
                return

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _sounddevice() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise SpeechError(
            "sound cannot be captured",
            got=str(error),
            expected="the package sounddevice and the PortAudio library",
            remedy="Run: apt install libportaudio2 (and pip install sounddevice).",
            state=State.NO_DEVICE,
        ) from error
    return sounddevice


def _device(name: str) -> str | int | None:
    return int(name) if name.isdigit() else name or None
