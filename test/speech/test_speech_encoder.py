# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch.nn import functional

from edge_nodes.speech.beside import Beside
from edge_nodes.speech.encoder import Encoder, Shape

SMALL = Shape(
    blocks=3, width=32, heads=4, feed_forward=48, parallel_feed_forward=24, mels=80, positions=100, symbols=29
)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    encoder = Encoder(SMALL).eval().requires_grad_(False)
    encoder.positions.normal_()
    return encoder


def attention(layer, x):
    """Softmax attention written out, head by head."""
    width, size = x.shape[1], x.shape[1] // layer.heads
    q, k, v = (x @ layer.attention_in.weight.T + layer.attention_in.bias).split(width, dim=1)
    parts = []
    for h in range(layer.heads):
        cut = slice(h * size, (h + 1) * size)
        parts.append(torch.softmax(q[:, cut] @ k[:, cut].T / size**0.5, dim=1) @ v[:, cut])
    return torch.cat(parts, dim=1) @ layer.attention_out.weight.T + layer.attention_out.bias


def update(layer, x):
    added = attention(layer, layer.attention_norm(x))
    inner = layer.feed_forward_norm(x + added) @ layer.feed_forward_in.weight.T + layer.feed_forward_in.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return added + inner @ layer.feed_forward_out.weight.T + layer.feed_forward_out.bias


@pytest.mark.parametrize("frames", [40, 41, 43])
def test_blocks_and_parallel_layers_as_the_paper_says(encoder, frames):
    mel = torch.randn(1, 80, frames)
    x = functional.gelu(functional.conv1d(mel, encoder.conv1.weight, encoder.conv1.bias, padding=1))
    x = functional.gelu(functional.conv1d(x, encoder.conv2.weight, encoder.conv2.bias, stride=2, padding=1))
    h = x[0].T + encoder.positions[: x.shape[2]]
    for index, output in enumerate(encoder(mel)):
        main = h + update(encoder.blocks[index], h)
        if index in (0, SMALL.blocks - 1):
            half = update(encoder.parallel[str(index)], h[0::2])
            for t in range(len(h)):
                main[t] += half[t // 2]
        h = main
        logits = encoder.exits[index].norm(h) @ encoder.exits[index].symbols.weight.T
        expected = torch.log_softmax(logits + encoder.exits[index].symbols.bias, dim=1)
        assert (output[0] - expected).abs().max() < 1e-5


def test_a_batch_gives_what_single_items_give(encoder):
    lengths = torch.tensor([60, 37, 12])
    mel = torch.randn(3, 80, 60)
    batch = list(encoder(mel, lengths))
    for row, length in enumerate(lengths.tolist()):
        for together, alone in zip(batch, encoder(mel[row : row + 1, :, :length]), strict=True):
            assert (together[row, : alone.shape[1]] - alone[0]).abs().max() < 1e-5


def test_layers_beyond_the_exit_never_run(encoder):
    runs = []
    hooks = [
        block.register_forward_hook(lambda *_, i=i: runs.append(i))
        for i, block in enumerate([*encoder.blocks, *encoder.parallel.values(), *encoder.exits])
    ]
    outputs = encoder(torch.randn(1, 80, 40))
    next(outputs)
    for hook in hooks:
        hook.remove()
    assert runs == [0, 3, 5]


def test_parallel_layers_beside_their_blocks_are_the_same_bit_for_bit(encoder):
    before, threads = torch.get_num_threads(), []
    hook = encoder.parallel["0"].register_forward_hook(lambda *_: threads.append(threading.current_thread()))
    lengths = torch.tensor([60, 37, 12])
    for frames, given in ((60, lengths), (43, None), (60, None)):
        mel = torch.randn(3, 80, frames)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                after = list(encoder(mel, given))
                encoder.beside = Beside(torch.device("cpu"), before)
                beside = list(encoder(mel, given))
                encoder.beside = None
            assert all(torch.equal(a, b) for a, b in zip(after, beside, strict=True))
    hook.remove()
    assert {thread is threading.main_thread() for thread in threads} == {True, False}
    assert torch.get_num_threads() == before


def test_an_error_beside_is_raised(encoder):
    encoder.beside = Beside(torch.device("cpu"))
    hook = encoder.parallel["0"].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(encoder(torch.randn(1, 80, 20)))
    hook.remove()
    assert len(list(encoder(torch.randn(1, 80, 20)))) == 3
    encoder.beside = None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_parallel_layers_on_a_second_stream(encoder):
    there = copy.deepcopy(encoder).cuda()
    mel = torch.randn(2, 80, 90, device="cuda")
    with torch.inference_mode():
        after = list(there(mel))
        there.beside = Beside(torch.device("cuda"))
        beside = list(there(mel))
    assert all(torch.equal(a, b) for a, b in zip(after, beside, strict=True))


def test_reads_ctranslate2():
    whisper = pytest.importorskip("train.speech.whisper")

    def variable(name, dims, kind, values):
        head = struct.pack("<H", len(name) + 1) + name.encode() + b"\0" + struct.pack("<B", len(dims))
        return head + struct.pack(f"<{len(dims)}IBI", *dims, kind, len(values)) + values

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    quantised = np.array([[2, -4], [127, 0]], np.int8)
    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 3)
    data += variable("a/weight", (2, 2), 1, quantised.tobytes())
    data += variable("a/weight_scale", (2,), 0, np.array([2, 127], np.float32).tobytes())
    data += variable("b", (), 4, np.float16(0.5).tobytes()) + struct.pack("<I", 0)
    found = whisper.read_ctranslate2(data)
    assert set(found) == {"a/weight", "b"}
    assert np.allclose(found["a/weight"], [[1, -2], [1, 0]])
    assert found["b"] == 0.5
    with pytest.raises(ValueError, match="version 5"):
        whisper.read_ctranslate2(struct.pack("<I", 5) + data[4:])


# The heap of a process in which much else has run would not tell.
LENGTHS = """
import psutil, torch
from edge_nodes.speech.encoder import Encoder, Shape
torch.set_num_threads(1)
encoder = Encoder(Shape(blocks=2)).eval()
def resident(lengths):
    with torch.inference_mode():
        for length in lengths:
            for _ in encoder(torch.zeros(1, 80, length)):
                pass
    return psutil.Process().memory_info().rss
first = resident((900, 900))
print(resident(range(100, 900, 10)) - first)
"""


def test_memory_does_not_grow_with_the_lengths_of_utterances():
    ran = subprocess.run([sys.executable, "-c", LENGTHS], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 40e6  # 145 million before
