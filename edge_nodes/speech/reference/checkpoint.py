# SPDX-License-Identifier: Apache-2.0
"""Reading a checkpoint of the authors: a file made by torch.save of a state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from edge_nodes.errors import State
from edge_nodes.speech.errors import SpeechError
from edge_nodes.speech.reference.network import Network, Sizes, sinusoids

Kind = Literal["splitformer", "early_conformer"]
StateDict = Mapping[str, Tensor]

_PE = "positional_encoder.pe"
_REMEDY = (
    "The kind and the numbers of heads, exits and layers per exit must be those it was trained with; if they are, copy "
    "the file again."
)


def load(
    path_or_state_dict: str | Path | StateDict,
    kind: Kind,
    n_heads: int = 8,
    n_exits: int = 6,
    layers_per_exit: int = 2,
) -> Network:
    """Return the network of a checkpoint, ready for inference on the CPU; other sizes are read off the shapes.

    Args:
        path_or_state_dict: the authors' file, or its tensors; these are copied. The table of positions may be missing.
        kind: "splitformer", or "early_conformer" for the model without parallel layers.
        n_heads: of the attention; shapes do not tell.
        n_exits: blocks, each with an exit.
        layers_per_exit: Conformer layers of a block.

    Raises:
        SpeechError: there is no such file (MODEL_MISSING); it is not such a checkpoint, or missing, unknown or
            misshapen tensors (MODEL_BAD); impossible arguments.
    """
    if isinstance(path_or_state_dict, Mapping):
        name, state = "the state_dict", path_or_state_dict
    else:
        name, state = str(path_or_state_dict), read(path_or_state_dict)
    return build(name, state, kind, n_heads, n_exits, layers_per_exit)


def build(name: str, state: StateDict, kind: Kind, n_heads: int, n_exits: int, layers_per_exit: int) -> Network:
    """Return the network of a state_dict that came from `name`; see `load`."""
    if kind not in get_args(Kind):
        raise SpeechError("unknown kind of speech model", got=repr(kind), expected=" or ".join(get_args(Kind)))
    fewest = 2 if kind == "splitformer" else 1
    if n_exits < fewest or layers_per_exit < 1 or n_heads < 1:
        raise SpeechError(
            "impossible sizes of a speech model",
            got=f"n_heads {n_heads}, n_exits {n_exits}, layers_per_exit {layers_per_exit}",
            expected=f"n_exits >= {fewest}, the others >= 1",
        )
    _check_tensors(name, state)
    sizes = _sizes(name, state, kind == "splitformer", n_heads, n_exits, layers_per_exit)
    state = {_PE: sinusoids(sizes.positions, sizes.width), **state}
    with torch.device("meta"):
        network = Network(sizes)
    _compare(name, network.state_dict(), state)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    network.load_state_dict(state)
    return network


def read(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file, on the CPU; nothing in the file is executed.

    Raises:
        SpeechError: there is no such file (MODEL_MISSING), or it is not a readable checkpoint (MODEL_BAD).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise SpeechError(
            "there is no such checkpoint",
            got=path,
            expected="a file made by torch.save of a state_dict, such as mod150-splitformer",
            state=State.MODEL_MISSING,
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler makes of a broken file
        lines = str(error).splitlines()
        raise _bad(str(path), lines[0] if lines else type(error).__name__) from error
    if not isinstance(state, Mapping):
        raise _bad(str(path), type(state).__name__)
    return dict(state)


def guess(name: str, state: StateDict) -> tuple[Kind, int, int]:
    """Return (kind, n_exits, layers_per_exit) as the tensors' names tell them.

    Raises:
        SpeechError: no such tensors (MODEL_BAD).
    """
    names = [str(key).split(".") for key in state]
    exits = {parts[1] for parts in names if parts[0] == "linears" and len(parts) == 3}
    layers = {parts[3] for parts in names if parts[:3] == ["conformer", "0", "conformer_layers"] and len(parts) > 4}
    if not exits or not layers:
        raise _bad(name, "no tensors linears.N.weight or conformer.0.conformer_layers.N.*")
    parallel = any(parts[0] == "conformer_parallel" for parts in names)
    return "splitformer" if parallel else "early_conformer", len(exits), len(layers)


def _check_tensors(name: str, state: StateDict) -> None:
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise _bad(name, f"{key!r}: {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or not tensor.isfinite().all():
            raise _bad(name, f"{key} is not dense or holds values that are not finite")


def _sizes(name: str, state: StateDict, parallel: bool, heads: int, exits: int, layers: int) -> Sizes:
    def dimension(key: str, axis: int, of: int) -> int:
        if key not in state:
            raise _bad(name, f"no tensor {key}")
        if state[key].dim() != of or 0 in state[key].shape:
            raise _bad(name, f"{key} of shape {tuple(state[key].shape)}")
        return state[key].shape[axis]

    first = "conformer.0.conformer_layers.0."
    width = dimension("conv_subsample.sequential.0.weight", 0, 3)
    kernel = dimension(first + "conv_module.sequential.2.weight", 2, 3)
    if width % heads or width % 2 or kernel % 2 == 0:
        raise _bad(name, f"width {width}, {heads} heads, kernel {kernel}: heads must divide the width, kernels are odd")
    return Sizes(
        parallel=parallel,
        exits=exits,
        layers_per_exit=layers,
        width=width,
        heads=heads,
        feed_forward=dimension(first + "ffn1.sequential.1.weight", 0, 2),
        kernel=kernel,
        mels=dimension("conv_subsample.sequential.0.weight", 1, 3),
        positions=dimension(_PE, 0, 3) if _PE in state else Sizes.positions,
        pieces=dimension("linears.0.weight", 0, 2),
    )


def _compare(name: str, expected: StateDict, state: StateDict) -> None:
    """Raise SpeechError unless the tensors are exactly those of the network."""
    faults = [f"{key} missing" for key in expected if key not in state]
    faults += [f"{key} unknown" for key in state if key not in expected]
    faults += [
        f"{key} of shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    faults += [
        f"{key} of {state[key].dtype}"
        for key, tensor in expected.items()
        if key in state and tensor.is_floating_point() and not state[key].is_floating_point()
    ]
    if faults:
        more = f" and {len(faults) - 3} more faults" if len(faults) > 3 else ""
        raise _bad(name, ", ".join(faults[:3]) + more)


def _bad(name: str, got: str) -> SpeechError:
    return SpeechError(
        f"{name} is not a checkpoint of this kind of speech model",
        got=got,
        expected="the state_dict of a splitformer or early_conformer",
        remedy=_REMEDY,
        state=State.MODEL_BAD,
    )
