# SPDX-License-Identifier: Apache-2.0
"""A speech model on its device: one utterance in, its words out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edge_nodes import models
from edge_nodes.errors import ModelError, State
from edge_nodes.speech import calibration
from edge_nodes.speech.beside import Beside, spare_cores
from edge_nodes.speech.calibration import Calibration
from edge_nodes.speech.costs import LayerCosts
from edge_nodes.speech.encoder import FRAME_MS, Encoder, Shape
from edge_nodes.speech.errors import SpeechError
from edge_nodes.speech.exits import Leave, Reading, Rest, read, sounds
from edge_nodes.speech.features import HOP, RATE_HZ, log_mel
from edge_nodes.speech.lexicon import Lexicon
from edge_nodes.speech.spelling import spell
from edge_nodes.speech.stretches import Stretches
from edge_nodes.speech.sureness import probability, traits

FORMAT = 1
_SHORTEST = 4 * HOP


@dataclass(frozen=True)
class Hypothesis:
    """The words of an utterance.

    Attributes:
        text: lower case, without punctuation; empty if there are none.
        confidence: 0..1, see `exits.read`.
        layer: encoder layer it was read from, from 1; the last one of those if parts of it left earlier.
        layers: layers of the model.
        cost: features_ms, encoder_ms, spelling_ms, layers, and audio_ms for comparison; encoder_gflop and
            mean_layers that the frames were read from, if the model tells.
        spans: when each word begins and ends, s from the first sample; None if the model does not tell.
        as_heard: the words before they were spelled right.
        shares: share of the frames that were read from each exit, in order.
    """

    text: str
    confidence: float
    layer: int
    layers: int
    cost: Mapping[str, float]
    spans: Sequence[tuple[float, float]] | None = None
    as_heard: str = ""
    shares: Sequence[float] = ()


class ExitModel(ABC):
    """A network with early exits on its device.

    Args:
        device: "cpu", "cuda", "cuda:1", ...
        threads: CPU threads of each call.

    Raises:
        SpeechError: there is no such device (NO_DEVICE).
    """

    name: str
    calibration = Calibration()
    """Thresholds stored beside the weights."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = _device(device), threads

    @cached_property
    def costs(self) -> LayerCosts:
        """What each exit costs on this machine."""
        return LayerCosts(self.exits)

    @property
    @abstractmethod
    def layers(self) -> int:
        """Number of encoder layers."""

    @property
    @abstractmethod
    def exits(self) -> Sequence[int]:
        """Layers with an exit, from 1, in order; the last layer is one."""

    @abstractmethod
    def _features(self, samples: NDArray[np.float32]) -> Tensor:
        """Return what the network takes, (1, mels, T) float32, of any number of samples."""

    @abstractmethod
    def _outputs(self, mel: Tensor) -> Iterator[Tensor]:
        """Yield the log-probabilities of each exit, (1, T', symbols), computing its layers when it is asked for."""

    @abstractmethod
    def _read(self, log_probs: NDArray[np.float32], layer: int) -> Reading:
        """Return what the exit after a layer says, given (T', symbols)."""

    @torch.inference_mode()
    def each_exit(self, samples: NDArray[np.float32]) -> Iterator[tuple[Reading, str, float]]:
        """Yield what each exit says, that spelled right, and the seconds of an utterance that leaves there.

        A layer is computed when its exit is asked for.
        """
        reached_s, begin = 0.0, time.perf_counter()
        outputs = self._outputs(self._features(samples).to(self._device))
        for layer, log_probs in zip(self.exits, outputs, strict=True):
            reading = self._read(log_probs[0].cpu().numpy(), layer)
            reached_s += time.perf_counter() - begin
            begin = time.perf_counter()
            text = reading.spelled().text
            yield reading, text, reached_s + time.perf_counter() - begin
            begin = time.perf_counter()

    @torch.inference_mode()
    def recognise(self, samples: NDArray[np.float32], leave: Leave) -> Hypothesis:
        """Return the words of an utterance.

        Args:
            samples: (n,) float32 in [-1, 1], 16 kHz, at most 30 s.
            leave: where to stop, see `exits.policy`; later layers are not computed, nor of what has left.
        """
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        start = time.perf_counter()
        mel = self._features(samples)
        middle = time.perf_counter()
        spent: list[float] = []
        outputs, whole = self._outputs(mel.to(self._device)), True
        for layer, log_probs in zip(self.exits, outputs, strict=False):
            reading = self._read(log_probs[0].cpu().numpy(), layer)
            if whole:  # what a layer costs is not seen on a part of the utterance
                spent.append(time.perf_counter() - start)
            leaves = leave(layer, reading)
            if isinstance(leaves, (Rest, Sequence)):
                whole = self._narrow(outputs, leaves) and whole
            elif leaves:
                break
        end = time.perf_counter()
        self.costs.add(spent, len(samples) / RATE_HZ)
        spelled = reading.spelled()
        cost = {
            "features_ms": round(1e3 * (middle - start), 2),
            "encoder_ms": round(1e3 * (end - middle), 2),
            "spelling_ms": round(1e3 * (time.perf_counter() - end), 2),
            "audio_ms": round(1e3 * len(samples) / RATE_HZ, 1),
            "layers": layer,
        }
        spans, (shares, more) = _seconds(spelled.spans), self._spent(outputs)
        return Hypothesis(
            spelled.text, reading.confidence, layer, self.layers, cost | more, spans, reading.text, shares
        )

    def _narrow(self, outputs: Iterator[Tensor], onward: Rest | Sequence[tuple[int, int]]) -> bool:
        """Let only those frames go on, or all but silence, if the network can; return whether all go on."""
        return True

    def _spent(self, outputs: Iterator[Tensor]) -> tuple[Sequence[float], dict[str, float]]:
        """Return the share of the frames read from each exit, and more of the cost; nothing if that is not told."""
        return (), {}


class SpeechModel(ExitModel):
    """Our encoder with its weights.

    Args:
        name: see `models.find`.
        device: "cpu", "cuda", "cuda:1", ...
        threads: CPU threads of each call.
        lexicon: spells the words right; None leaves them as they were heard.
        beside: run the parallel layers on as many cores beside those, if there are, or on a second stream.

    Raises:
        ModelError: the model is missing, or not one of this kind.
        SpeechError: there is no such device (NO_DEVICE).
    """

    def __init__(
        self,
        name: str,
        *,
        device: str = "cpu",
        threads: int = 1,
        lexicon: Lexicon | None = None,
        beside: bool = True,
    ) -> None:
        super().__init__(device, threads)
        found = models.find(name)
        self.name = str(found.manifest.get("name", name))
        self._lexicon = lexicon
        if "sha256" in found.manifest:
            self.calibration = calibration.load(found.path.parent, found.manifest["sha256"])
        self._encoder = _load(found).to(self._device).eval().requires_grad_(False)
        if beside and (self._device.type != "cpu" or spare_cores(threads)):
            self._encoder.beside = Beside(self._device, threads)

    @property
    def layers(self) -> int:
        """Number of encoder layers."""
        return self._encoder.shape.blocks

    @property
    def exits(self) -> Sequence[int]:
        """Every layer."""
        return range(1, self.layers + 1)

    @property
    def encoder(self) -> Encoder:
        """The encoder on its device."""
        return self._encoder

    def _features(self, samples: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(log_mel(np.pad(samples, (0, max(0, _SHORTEST - len(samples))))))[None]

    def _outputs(self, mel: Tensor) -> Stretches:
        return Stretches(self._encoder, mel)

    def _narrow(self, outputs: Iterator[Tensor], onward: Rest | Sequence[tuple[int, int]]) -> bool:
        assert isinstance(outputs, Stretches)
        return outputs.rest() if onward is Rest.SILENCE else outputs.keep(onward)

    def _spent(self, outputs: Iterator[Tensor]) -> tuple[Sequence[float], dict[str, float]]:
        assert isinstance(outputs, Stretches)
        shares = np.bincount(outputs.read_at - 1, minlength=self.layers) / len(outputs.read_at)
        mean = float(shares @ np.array(self.exits))
        return shares.tolist(), {"mean_layers": round(mean, 2), "encoder_gflop": round(outputs.operations / 1e9, 4)}

    def _read(self, log_probs: NDArray[np.float32], layer: int) -> Reading:
        reading = read(log_probs)
        if self._lexicon is None:
            return reading
        return reading._replace(correct=cache(partial(self._spell, self._lexicon, reading, log_probs, layer)))

    def _spell(self, lexicon: Lexicon, reading: Reading, log_probs: NDArray[np.float32], layer: int) -> Reading:
        assert reading.spans is not None
        spelled = spell(lexicon, reading.text.split(), reading.spans, log_probs)
        sound = sounds(log_probs, spelled.spans)
        weights = self.calibration.sureness.get(layer)
        sure = np.exp(sound) if weights is None else probability(weights, traits(lexicon, spelled, sound))
        text, spans = " ".join(spelled.words), tuple(spelled.spans)
        return reading._replace(text=text, spans=spans, sureness=tuple(sure.tolist()), correct=None)


def _seconds(spans: Sequence[tuple[int, int]] | None) -> list[tuple[float, float]] | None:
    frame_s = 1e-3 * FRAME_MS
    return None if spans is None else [(first * frame_s, (last + 1) * frame_s) for first, last in spans]


def _load(found: models.ModelFile) -> Encoder:
    """Raise ModelError (MODEL_BAD) if the file does not hold exactly the encoder its manifest describes."""
    manifest = found.manifest
    try:
        if manifest["kind"] != "splitformer" or manifest["format"] != FORMAT:
            raise ModelError(
                f"{found.path.parent} is not a speech model",
                got=f"{manifest['kind']} of format {manifest['format']}",
                expected=f"splitformer of format {FORMAT}",
                state=State.MODEL_BAD,
            )
        with torch.device("meta"):  # weights that would be written over would stay in the heap
            encoder = Encoder(Shape.from_dict(manifest["shape"]))
        encoder.load_state_dict(_dequantised(load_file(found.path)), assign=True)
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{found.path} cannot be read as a speech model",
            got=str(error),
            expected="a folder with manifest.json (kind, format, shape) and its safetensors file",
            remedy="Install the model again or name another one in the parameter `model`.",
            state=State.MODEL_BAD,
        ) from error
    return encoder


def _dequantised(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return float32 tensors; an int8 NAME is multiplied, row by row, by NAME.scale."""
    state = {name: tensor.float() for name, tensor in stored.items() if not name.endswith(".scale")}
    for name, scale in stored.items():
        if name.endswith(".scale"):
            weight = state[name.removesuffix(".scale")]
            weight *= scale.view([-1] + [1] * (weight.dim() - 1))
    return state


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SpeechError(
            "the speech device cannot be used",
            got=name,
            expected="cpu, or a device torch sees",
            remedy=f"Set the parameter `device` to cpu ({str(error).splitlines()[0]}).",
            state=State.NO_DEVICE,
        ) from error
    return device
