# SPDX-License-Identifier: Apache-2.0
"""Log-mel features as Whisper defines them (Radford et al. 2022, section 2.2), in numpy.

80 triangular filters on the Slaney mel scale from 0 to 8 kHz with area normalisation, over the power spectrum of
25 ms Hann windows every 10 ms; log10, limited to 80 dB below the loudest value, scaled to about [-1, 1].
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16000
WINDOW = 400
HOP = 160
MELS = 80


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the features of one utterance.

    Args:
        samples: (n,) float32 in [-1, 1] at 16 kHz, n >= 201 (reflected at both ends).

    Returns:
        (80, n // 160) float32.
    """
    padded = np.pad(samples.astype(np.float32, copy=False), WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: len(samples) // HOP]
    spectrum = np.fft.rfft(frames * _window(), axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    log = np.log10(np.maximum(power.astype(np.float32) @ mel_filters().T, 1e-10))
    scaled = (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0
    return np.ascontiguousarray(scaled.T, dtype=np.float32)


@cache
def mel_filters() -> NDArray[np.float32]:
    """Return the filterbank, (80, 201) float32, rows of equal area."""
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(RATE_HZ / 2), MELS + 2))
    bins = np.linspace(0.0, RATE_HZ / 2, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


@cache
def _window() -> NDArray[np.float32]:
    phase = 2.0 * np.pi * np.arange(WINDOW) / WINDOW
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


# Slaney's scale: linear to 1 kHz (15 mel), then logarithmic with 27 mel to a factor of 6.4.
def _hz_to_mel(hz: float) -> float:
    return hz * 3.0 / 200.0 if hz < 1000.0 else 15.0 + 27.0 * float(np.log(hz / 1000.0) / np.log(6.4))


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))
