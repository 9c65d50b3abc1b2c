# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edge_nodes.errors import State
from edge_nodes.speech import Microphone, MicrophoneConfig, SpeechError


class PortAudioError(Exception):
    pass


class Stream:
    def __init__(self, *, blocksize, channels, dtype, callback, **options):
        assert (channels, dtype) == (1, "int16")
        self.options, self.blocksize, self.callback, self.closed = options, blocksize, callback, False

    def start(self):
        for value in range(3):
            self.callback(np.full((self.blocksize, 1), value, np.int16), self.blocksize, None, None)

    def close(self):
        self.closed = True


@pytest.fixture
def backend(monkeypatch):
    module = SimpleNamespace(InputStream=Stream, PortAudioError=PortAudioError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_gives_blocks(backend):
    with Microphone(MicrophoneConfig(device="3", block_ms=20)) as microphone:
        stream = microphone._stream
        blocks = [block for _, block in zip(range(3), microphone, strict=False)]
    assert [b[0] for b in blocks] == [0, 1, 2]
    assert all(b.shape == (320,) and b.dtype == np.int16 for b in blocks)
    assert stream.options == {"samplerate": 16000, "device": 3}
    assert stream.closed


def test_late_reader_loses_the_oldest_blocks(backend):
    with Microphone(MicrophoneConfig()) as microphone:
        for value in range(200):
            microphone._heard(np.full((640, 1), value, np.int16), 640, None, None)
        assert microphone.dropped == 103
        assert next(iter(microphone))[0] == 100


def test_no_device(backend):
    def refuse(**_):
        raise PortAudioError("no such device")

    backend.InputStream = refuse
    with pytest.raises(SpeechError, match="python -m sounddevice") as error, Microphone(MicrophoneConfig()):
        pass
    assert error.value.state is State.NO_DEVICE


def test_a_silent_device(backend, monkeypatch):
    monkeypatch.setattr("edge_nodes.speech.microphone._WAIT_S", 0.01)
    monkeypatch.setattr(Stream, "start", lambda self: None)
    with pytest.raises(SpeechError, match="still connected"), Microphone(MicrophoneConfig()) as microphone:
        next(iter(microphone))


def test_no_portaudio(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SpeechError, match="libportaudio2") as error, Microphone(MicrophoneConfig()):
        pass
    assert error.value.state is State.NO_DEVICE


def test_importing_speech_is_light():
    code = (
        "import sys, edge_nodes.speech, edge_nodes.pipelines.speech as p; p.SpeechPipeline(p.SpeechConfig());"
        "sys.exit(bool({'torch', 'sounddevice', 'rclpy', 'silero_vad'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
