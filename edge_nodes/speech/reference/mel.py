# SPDX-License-Identifier: Apache-2.0
"""The reference's features: raw mel power, without logarithm or normalisation.

20 ms periodic Hann windows every 10 ms, zero-padded to an FFT of 1024; 80 triangles on the HTK mel scale from 0 to
8 kHz, without normalisation. Window and filters are rounded to float32 as the reference's are; the rest is in double
precision, so that what differs from the reference is its own rounding (powers reach hundreds).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_nodes.speech.errors import SpeechError

RATE_HZ = 16000
FFT = 1024
WINDOW = 320
HOP = 160
MELS = 80


def features(wave: Tensor | NDArray[Any]) -> Tensor:
    """Return the features of one utterance.

    Args:
        wave: (n,) or (1, n) float in [-1, 1] at 16 kHz, torch or numpy, n > 512 (reflected at both ends).

    Returns:
        (80, 1 + n // 160) float32 on the wave's device.

    Raises:
        SpeechError: not floating point, more than one channel, or too short.
    """
    samples = torch.as_tensor(wave)
    one_channel = samples.dim() == 1 or (samples.dim() == 2 and samples.shape[0] == 1)
    if not samples.is_floating_point() or not one_channel or samples.shape[-1] <= FFT // 2:
        raise SpeechError(
            "audio cannot be turned into features",
            got=f"{str(samples.dtype).removeprefix('torch.')} of shape {tuple(samples.shape)}",
            expected=f"floats in [-1, 1] of shape (n,) or (1, n), n > {FFT // 2}",
        )
    samples = samples.reshape(-1).double()
    window = torch.hann_window(WINDOW, device=samples.device).double()
    spectrum = torch.stft(samples, FFT, HOP, WINDOW, window, center=True, pad_mode="reflect", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return (mel_filters().to(samples).T @ power).float()


@cache
def mel_filters() -> Tensor:
    """Return the filterbank, (513, 80) float32: triangles of height 1."""
    edges = 700.0 * (10.0 ** (torch.linspace(_mel(0.0), _mel(RATE_HZ / 2), MELS + 2) / 2595.0) - 1.0)
    bins = torch.linspace(0, RATE_HZ // 2, FFT // 2 + 1)
    slopes = edges - bins[:, None]
    widths = edges.diff()
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


def _mel(hz: float) -> float:
    return float(2595.0 * torch.log10(torch.tensor(1.0 + hz / 700.0, dtype=torch.float64)))
