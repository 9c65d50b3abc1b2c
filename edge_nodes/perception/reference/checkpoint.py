# SPDX-License-Identifier: Apache-2.0
"""The authors' checkpoints: separate files or the combined one, checked tensor by tensor before use."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge_nodes.errors import State
from edge_nodes.perception.errors import PerceptionError
from edge_nodes.perception.reference.networks import KINDS, ReferenceNetwork, entries

PREFIXES = {"segmentation": "pyrnet.", "reconstruction": "autonet."}
"""What the combined file puts before each network's names."""
_NAMED = 3


def load(
    path_or_state_dict: str | Path | Mapping[str, Tensor],
    kind: str,
    prune: bool = True,
    *,
    train_statistics: bool = False,
) -> ReferenceNetwork:
    """Return a published network with its weights, in float32 on the CPU, ready for inference.

    Args:
        path_or_state_dict: a file that `torch.save` wrote (only tensors are read from it, no code), or its content;
            one network's, or the combined one.
        kind: "segmentation" or "reconstruction".
        prune: leave out the layers that cannot reach the output; the numbers stay the same, bit by bit.
        train_statistics: norm with each input's own statistics, as the notebook did.

    Raises:
        PerceptionError: MODEL_MISSING, no such file; MODEL_BAD, tensors are missing, too many, of another shape or
            type, or not finite; BAD_INPUT, no such kind.
    """
    if kind not in KINDS:
        raise PerceptionError("not a kind of network", got=repr(kind), expected=" or ".join(KINDS))
    state: Any = path_or_state_dict
    source = "the state_dict"
    if isinstance(path_or_state_dict, str | Path):
        path = Path(path_or_state_dict).expanduser()
        state, source = _read(path), str(path)
    if not isinstance(state, Mapping):
        raise _bad(f"{source} holds no state_dict", got=type(state).__name__, expected="names with tensors")
    own = _own(state, kind, source)
    network = KINDS[kind](prune=prune, train_statistics=train_statistics)
    # Copies: the file stays mapped into memory no longer than this.
    live = {name: own[name].detach().to("cpu", copy=True) for name in network.state_dict()}
    _check_values(live, source)
    network.load_state_dict(live)
    return network.eval().requires_grad_(False)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise PerceptionError(
            f"no checkpoint {path}",
            expected="a file the authors published, or one saved in its form",
            remedy="Download it from the authors' page of Parallel-Perception-Network and name its path.",
            state=State.MODEL_MISSING,
        )
    try:
        # What is pruned is never read from the disk.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # noqa: BLE001 - the unpickler raises whatever a broken file leads it to
        raise _bad(
            f"{path} cannot be read: it is truncated, or no checkpoint",
            got=" ".join(str(error).split())[:160] or type(error).__name__,
            expected="what torch.save writes of tensors alone",
        ) from None


def _own(state: Mapping[Any, Any], kind: str, source: str) -> dict[str, Tensor]:
    """Return the tensors of one network, after comparing every name, shape and type with what must be there."""
    names = [str(name) for name in state]
    prefixed = {k: p for k, p in PREFIXES.items() if any(name.startswith(p) for name in names)}
    if prefixed and kind not in prefixed:
        raise _bad(f"{source} does not hold the {kind} network", got=f"names with {', '.join(prefixed.values())}")
    expected = {p + name: shape for k, p in prefixed.items() for name, shape in entries(k).items()} or entries(kind)
    _check_names(set(names), expected, kind, source)
    for name, shape in expected.items():
        _check_tensor(name, state[name], shape, source)
    prefix = prefixed.get(kind, "")
    return {name: state[prefix + name] for name in entries(kind)}


def _check_names(names: set[str], expected: Mapping[str, Any], kind: str, source: str) -> None:
    missing, extra = [n for n in expected if n not in names], sorted(names - set(expected))
    if not missing and not extra:
        return
    other = next((k for k in KINDS if k != kind and set(entries(k)) == names), "")
    parts = [f"{len(n)} {what} ({_some(n)})" for what, n in (("missing", missing), ("unknown", extra)) if n]
    raise _bad(
        f"{source} does not hold the tensors of the {kind} network",
        got=f"the {other} network" if other else ", ".join(parts),
        expected=f"{len(expected)} tensors",
    )


def _check_tensor(name: str, value: object, shape: tuple[int, ...], source: str) -> None:
    if not isinstance(value, Tensor):
        raise _bad(f"{source}: {name} is no tensor", got=type(value).__name__)
    if tuple(value.shape) != shape:
        raise _bad(f"{source}: {name} has the wrong shape", got=tuple(value.shape), expected=str(shape))
    count = name.endswith("num_batches_tracked")
    dense = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    if not dense or value.is_complex() or value.is_floating_point() == count:
        expected = "whole numbers" if count else "dense floating-point numbers"
        raise _bad(f"{source}: {name} has the wrong type", got=f"{value.dtype}, {value.layout}", expected=expected)


def _check_values(state: Mapping[str, Tensor], source: str) -> None:
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise _bad(f"{source}: {name} holds NaN or infinite values")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise _bad(f"{source}: {name} holds negative variances")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _bad(what: str, *, got: object = None, expected: str = "") -> PerceptionError:
    remedy = "Fetch the authors' file again, or name the one of this network."
    return PerceptionError(what, got=got, expected=expected, remedy=remedy, state=State.MODEL_BAD)
