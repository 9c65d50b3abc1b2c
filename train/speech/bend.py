# SPDX-License-Identifier: Apache-2.0
"""Other voices, tempi and microphones out of the features of a clip, cheap enough to do anew whenever it is drawn.

A shorter or longer vocal tract moves the formants: frequencies are stretched (vocal tract length perturbation, Jaitly
and Hinton 2013). Tempo is linear interpolation in time; a microphone is a smooth gain over the bands.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from edge_nodes.speech.features import MELS, mel_filters

TRACT = (0.85, 1.18)
TEMPO = (0.85, 1.2)
GAIN_DB = 5.0
DB = 0.025  # log_mel is log10 of the power over 4
RANGE = 2.0  # and holds 80 dB


def bend(mel: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return (80, T') float32 of log-mel features (80, T) as another voice, tempo and microphone give them."""
    top = mel.max()
    x = functional.interpolate(mel[None], size=round(mel.shape[1] / rng.uniform(*TEMPO)), mode="linear")[0]
    below, share = _bands(rng.uniform(*TRACT))
    x = torch.lerp(x[below], x[below + 1], share[:, None])
    knots = torch.from_numpy(rng.normal(0.0, GAIN_DB * DB, (1, 1, 6)).astype(np.float32))
    x = x + functional.interpolate(knots, size=MELS, mode="linear", align_corners=True)[0, 0][:, None]
    return x.clamp(min=float(top) - RANGE)


def _bands(factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the band below, (80,) int64, and the share of the next, (80,), where each band's sound comes from."""
    sources = np.interp(_CENTRES_HZ * factor, _CENTRES_HZ, np.arange(MELS))
    below = np.minimum(sources.astype(np.int64), MELS - 2)
    return torch.from_numpy(below), torch.from_numpy((sources - below).astype(np.float32))


# The mean frequency of each filter.
_CENTRES_HZ = mel_filters() @ np.linspace(0.0, 8000.0, mel_filters().shape[1]) / mel_filters().sum(axis=1)
