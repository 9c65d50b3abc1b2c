# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import torch

from edge_nodes.speech.features import log_mel, mel_filters

# faster-whisper 1.2's feature extractor on `chirp()`: every 8th mel of frames 0, 50 and 99.
CHIRP = [
    [1.05495, -0.66397, -0.34814],
    [0.91556, -0.66397, -0.34537],
    [0.56438, -0.66397, -0.3378],
    [0.38688, -0.66397, -0.32611],
    [0.24657, -0.45291, -0.30992],
    [0.12468, 1.278, -0.25681],
    [-0.01161, -0.66397, -0.16743],
    [-0.1314, -0.66397, 1.23552],
    [-0.24013, -0.66397, -0.24821],
    [-0.32573, -0.66397, -0.42349],
]
# The same package's filterbank: (bin of the peak, peak) of every 13th filter.
PEAKS = [
    (1, 0.024863),
    (13, 0.025881),
    (25, 0.022114),
    (41, 0.011487),
    (68, 0.008653),
    (112, 0.005212),
    (185, 0.003406),
]


def chirp():
    t = np.arange(16000) / 16000
    return (0.3 * np.sin(2 * np.pi * (200 + 1500 * t) * t)).astype(np.float32)


def test_numbers_of_another_implementation():
    assert np.abs(log_mel(chirp())[::8, [0, 50, 99]] - np.array(CHIRP)).max() < 2e-5
    rows = mel_filters()[::13]
    assert [int(r.argmax()) for r in rows] == [p for p, _ in PEAKS]
    assert np.allclose(rows.max(1), [p for _, p in PEAKS], atol=1e-6)


def test_against_torch_stft():
    samples = (np.random.default_rng(0).standard_normal(12345) * 0.1).astype(np.float32)
    window = torch.hann_window(400)
    power = torch.stft(torch.from_numpy(samples), 400, 160, window=window, return_complex=True).abs()[:, :-1] ** 2
    log = (torch.from_numpy(mel_filters()) @ power).clamp(min=1e-10).log10()
    expected = (log.maximum(log.max() - 8) + 4) / 4
    found = log_mel(samples)
    assert found.shape == (80, 77)
    assert found.dtype == np.float32
    assert np.abs(found - expected.numpy()).max() < 1e-4


def test_silence_is_finite():
    assert np.isfinite(log_mel(np.zeros(640, np.float32))).all()
