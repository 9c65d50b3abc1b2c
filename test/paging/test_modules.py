# SPDX-License-Identifier: Apache-2.0
"""The published networks run block by block: the same results to the bit, in a fraction of the memory."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from edge_nodes.errors import ModelError, State  # noqa: E402
from edge_nodes.paging.modules import StreamedModule  # noqa: E402
from edge_nodes.perception.reference.networks import ReconstructionNetwork  # noqa: E402
from edge_nodes.speech.reference.network import Network, Sizes  # noqa: E402


def perception():
    torch.manual_seed(0)
    network = ReconstructionNetwork().eval()
    maps = (torch.rand(1, 16, 104, 104) < 0.1).float()
    parts = [name for name, module in network.named_modules() if isinstance(module, torch.nn.modules.conv._ConvNd)]
    return network, parts, lambda n: n(maps)


def speech():
    torch.manual_seed(0)
    network = Network(Sizes(exits=3, width=64, feed_forward=256)).eval()
    mel = torch.randn(1, 80, 120)
    parts = [name for name, module in network.named_modules() if type(module).__name__ == "_ConformerLayer"]
    return network, parts, lambda n: n(mel)


@pytest.mark.parametrize("make", [perception, speech])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_results_are_the_same_within_a_budget(make, share, tmp_path):
    network, parts, run = make()
    plain = copy.deepcopy(network)
    total = sum(p.nbytes for name in parts for p in network.get_submodule(name).parameters())
    streamed = StreamedModule(network, parts, lambda: run(network), tmp_path, budget_bytes=int(share * total))
    with torch.inference_mode():
        expected = run(plain)
        for _ in range(3):
            assert torch.equal(run(network), expected)
    stats = streamed.window.stats()
    assert stats.peak_bytes < 0.6 * total
    assert stats.loads >= 2 * len(parts) * (1 - share)
    streamed.close()


def test_pass_that_ends_at_an_early_exit(tmp_path):
    network, parts, run = speech()
    plain, mel = copy.deepcopy(network), torch.randn(1, 80, 90)
    streamed = StreamedModule(network, parts, lambda: run(network), tmp_path)
    with torch.inference_mode():
        for last in (1, 2, 3, 1, 1):
            assert torch.equal(network(mel, last_exit=last), plain(mel, last_exit=last))
    streamed.close()


def test_damaged_file_is_an_error_and_the_next_pass_works(tmp_path):
    network, parts, run = perception()
    streamed = StreamedModule(network, parts, lambda: run(network), tmp_path)
    with torch.inference_mode():
        expected = run(network)
        streamed.window.restart()
        streamed._at = 0
        file = tmp_path / "conv5.safetensors"
        kept = file.read_bytes()
        file.write_bytes(kept[:100])
        streamed.window.restart()
        with pytest.raises(ModelError, match=r"conv5\.safetensors has"):
            run(network)
        file.write_bytes(kept)
        assert torch.equal(run(network), expected)
    streamed.close()


def test_budgets_and_parts_that_cannot_be(tmp_path):
    network, parts, run = perception()
    with pytest.raises(ModelError, match="at least") as caught:
        StreamedModule(network, parts, lambda: run(network), tmp_path / "a", budget_bytes=4096)
    assert caught.value.state is State.OUT_OF_MEMORY
    with pytest.raises(ModelError, match="not used; got bn1"):
        StreamedModule(network, [*parts, "bn1"], lambda: run(network), tmp_path / "b")
