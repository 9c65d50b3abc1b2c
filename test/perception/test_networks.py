# SPDX-License-Identifier: Apache-2.0
"""The networks' shapes and fusion, and the devices they run on."""

from __future__ import annotations

import copy
from functools import partial

import pytest

from edge_nodes.errors import State
from edge_nodes.perception import PerceptionError
from edge_nodes.perception.device import parse

torch = pytest.importorskip("torch")
from edge_nodes.perception.networks import KINDS, fused, looked_at_twice, moved_along  # noqa: E402


@pytest.mark.parametrize(("kind", "outputs"), [("pyramid", 6), ("autoencoder", 2)])
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_one_score_a_cell(kind, outputs, size):
    network = KINDS[kind]().eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 36, *size)).shape == (2, outputs, *size)


BUILDS = {
    **KINDS,
    "pyramid with detail": partial(KINDS["pyramid"], inputs=44, detail=8, details=8, layers=2, deep=2, coarse=True),
}


def channels(kind):
    return 44 if "detail" in kind else 36


@pytest.mark.parametrize("kind", BUILDS)
def test_folding_batch_norm_changes_nothing(kind):
    torch.manual_seed(0)
    network = BUILDS[kind]()
    x = torch.rand(2, channels(kind), 64, 64)
    for _ in range(3):
        network(x)  # moves the running statistics
    network.eval()
    with torch.inference_mode():
        want = network(x)
        got = fused(copy.deepcopy(network))(x)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", BUILDS)
def test_every_parameter_reaches_the_output(kind):
    """Unlike the published notebook's pyramid, whose lower levels are dead."""
    network = BUILDS[kind]()
    for values in network.parameters():
        if not values.any():  # starts at zero, and passes a gradient on after its first step
            torch.nn.init.normal_(values, std=0.1)
    network(torch.rand(2, channels(kind), 64, 64)).square().mean().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_two_looks_have_no_preferred_side():
    torch.manual_seed(2)
    network = KINDS["pyramid"]().eval()
    x = torch.rand(2, 36, 64, 64)
    with torch.inference_mode():
        got, exchanged = looked_at_twice(network, x), looked_at_twice(network, x.flip(-1))
        assert (got - network(x)).abs().max() > 0.01
    torch.testing.assert_close(exchanged.flip(-1), got, atol=1e-5, rtol=1e-5)


def test_two_looks_at_detail_have_no_preferred_side():
    torch.manual_seed(3)
    network = KINDS["pyramid"](inputs=42, detail=8).eval()
    torch.nn.init.normal_(network.branch.change.weight)
    x = torch.rand(2, 42, 64, 64)
    exchanged = x.flip(-1)
    exchanged[:, 37:39] = 256 / 255 - exchanged[:, 37:39]
    with torch.inference_mode():
        looks = [looked_at_twice(network, y, details=6) for y in (x, exchanged)]
    torch.testing.assert_close(looks[1].flip(-1), looks[0], atol=1e-5, rtol=1e-5)


def test_a_cell_sees_what_is_far_away():
    network = KINDS["pyramid"]().eval()
    x = torch.rand(1, 36, 128, 128, requires_grad=True)
    network(x)[0, :, 64, 64].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen[8, 64]
    assert seen[64, 120]


def test_content_goes_where_its_flow_says():
    torch.manual_seed(1)
    x = torch.rand(2, 3, 16, 24)
    way = torch.tensor([0.3, -0.2]).view(1, 2, 1, 1).expand(2, 2, 16, 24)  # three cells right, two up
    got = moved_along(x, way)
    torch.testing.assert_close(got[..., :-2, 3:], x[..., 2:, :-3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved_along(x, torch.zeros(2, 2, 16, 24)), x, atol=1e-5, rtol=1e-5)


def test_devices():
    import os

    core = min(os.sched_getaffinity(0))
    assert str(parse("cpu")) == "cpu"
    assert parse(f"cpu:{core}").cores == (core,)
    assert parse("auto").torch in {"cpu", "cuda:0"}
    for text in ("cpu:", "cpu:a", "gpu", ""):
        with pytest.raises(PerceptionError, match="not a device"):
            parse(text)
    with pytest.raises(PerceptionError) as caught:
        parse("cpu:4000-4001")
    assert caught.value.state is State.NO_DEVICE
