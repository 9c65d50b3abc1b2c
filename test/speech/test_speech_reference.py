# SPDX-License-Identifier: Apache-2.0
"""The authors' checkpoints: against numbers of their code where the shared data is, else against loops over frames."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from edge_nodes.errors import EdgeNodesError, State
from edge_nodes.parameters import replace
from edge_nodes.pipelines.audio import audio_fields
from edge_nodes.pipelines.speech import SpeechPipeline
from edge_nodes.speech import Recognizer, SpeechConfig, SpeechError, reference
from edge_nodes.speech.config import ExitConfig
from edge_nodes.speech.exits import policy
from edge_nodes.speech.recognizer import load_model
from edge_nodes.speech.reference.mel import mel_filters
from edge_nodes.speech.reference.tokenizer import beside

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "reference"
PIECES = DATA / "libri.bpe-256.model"
KINDS = ["splitformer", "early_conformer"]
shared = pytest.mark.skipif(not (DATA / "splitformer_small.pt").is_file(), reason="no shared reference numbers")

SMALL = {"exits": 3, "layers_per_exit": 2, "width": 16, "heads": 4, "feed_forward": 24, "kernel": 7, "pieces": 20}
ARGUMENTS = {"n_heads": 4, "n_exits": 3, "layers_per_exit": 2}


def random_state(kind="splitformer", seed=0, **changes):
    """Weights large enough that every part of the network shows."""
    sizes = reference.Sizes(parallel=kind == "splitformer", **SMALL | {"positions": 60} | changes)
    network = reference.Network(sizes)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in network.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("positional_encoder.pe", "num_batches_tracked")):
            values = tensor
        elif name.endswith("running_var"):
            values = values.square() + 0.5
        elif tensor.dim() > 1:
            values *= 1.5 / tensor[0].numel() ** 0.5
        state[name] = values
    return state


class WrittenOut:
    """The network as its description says, item by item and head by head, with no module of torch.nn."""

    def __init__(self, state, heads, exits, layers):
        self.w, self.heads, self.exits, self.layers = state, heads, exits, layers

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].squeeze(-1).T + self.w[name + ".bias"]

    def norm(self, x, name):
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.w[name + ".weight"] + self.w[name + ".bias"]

    def feed_forward(self, x, name):
        inner = self.linear(self.norm(x, name + ".0"), name + ".1")
        return self.linear(inner * torch.sigmoid(inner), name + ".4")

    def attention(self, x, name, keys):
        width, size = x.shape[1], x.shape[1] // self.heads
        query, key, value = (x @ self.w[name + ".in_proj_weight"].T + self.w[name + ".in_proj_bias"]).split(width, 1)
        parts = []
        for head in range(self.heads):
            cut = slice(head * size, (head + 1) * size)
            parts.append(torch.softmax(query[:, cut] @ key[:keys, cut].T / size**0.5, 1) @ value[:keys, cut])
        return self.linear(torch.cat(parts, 1), name + ".out_proj")

    def convolution(self, x, name):
        gates = self.linear(self.norm(x, name + ".layer_norm"), name + ".sequential.0")
        x = gates[:, : x.shape[1]] * torch.sigmoid(gates[:, x.shape[1] :])
        kernel = self.w[name + ".sequential.2.weight"][:, 0]
        reach = kernel.shape[1] // 2
        padded = functional.pad(x, (0, 0, reach, reach))
        x = torch.stack([(padded[t : t + kernel.shape[1]] * kernel.T).sum(0) for t in range(len(x))])
        batch = name + ".sequential.3"
        x = x + self.w[name + ".sequential.2.bias"] - self.w[batch + ".running_mean"]
        x = x / (self.w[batch + ".running_var"] + 1e-5).sqrt() * self.w[batch + ".weight"] + self.w[batch + ".bias"]
        return self.linear(x * torch.sigmoid(x), name + ".sequential.5")

    def layer(self, x, name, keys):
        x = x + self.feed_forward(x, name + "ffn1.sequential") / 2
        x = x + self.attention(self.norm(x, name + "self_attn_layer_norm"), name + "self_attn", keys)
        x = x + self.convolution(x, name + "conv_module")
        return self.norm(x + self.feed_forward(x, name + "ffn2.sequential") / 2, name + "final_layer_norm")

    def subsampled(self, x, name):
        weight = self.w[name + ".weight"]
        steps = (len(x) - 3) // 2 + 1
        frames = [torch.einsum("tc,oct->o", x[2 * t : 2 * t + 3], weight) for t in range(steps)]
        return torch.stack(frames) + self.w[name + ".bias"]

    def __call__(self, mel, length):
        """(80, T) and its true length -> (exits, T', pieces)."""
        x = self.subsampled(self.subsampled(mel.T, "conv_subsample.sequential.0"), "conv_subsample.sequential.1")
        for t in range(len(x)):
            for c in range(x.shape[1]):
                angle = t / 10000 ** (c // 2 * 2 / x.shape[1])
                x[t, c] += np.cos(angle) if c % 2 else np.sin(angle)
        outputs = []
        for e in range(self.exits):
            main = x
            for n in range(self.layers):
                main = self.layer(main, f"conformer.{e}.conformer_layers.{n}.", min(length // 4, len(x)))
            if "conformer_parallel.0.conformer_layers.0.ffn1.sequential.1.bias" in self.w and e in (0, self.exits - 1):
                keys = min((length + len(x) % 2) // 2, (len(x) + 1) // 2)
                half = self.layer(x[::2], f"conformer_parallel.{int(e > 0)}.conformer_layers.0.", keys)
                main = torch.stack([main[t] + half[t // 2] for t in range(len(x))])
            x = main
            logits = self.linear(x, f"linears.{e}")
            outputs.append(logits - torch.logsumexp(logits, 1, keepdim=True))
        return torch.stack(outputs)


def batch(lengths, seed=0):
    rng = np.random.default_rng(seed)
    mel = rng.gamma(0.6, 2.0, (len(lengths), 80, max(lengths))).astype(np.float32)
    for row, length in zip(mel, lengths, strict=True):
        row[:, length:] = 0
    return torch.from_numpy(mel), torch.tensor(lengths)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[67], [66, 40, 7], [72, 4, 70], [7]])
def test_the_network_written_out(kind, lengths):
    state = random_state(kind)
    mel, counts = batch(lengths)
    found = reference.load(state, kind, **ARGUMENTS)(mel, counts)
    expected = WrittenOut(state, 4, 3, 2)
    assert found.shape == (3, len(lengths), (max(lengths) - 3) // 4, 20)
    for item, length in enumerate(lengths):
        assert (found[:, item] - expected(mel[item], length)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_later_layers_never_run(kind):
    network = reference.load(random_state(kind), kind, **ARGUMENTS)
    mel, lengths = batch([60, 33])
    everything = network(mel, lengths)
    runs = []
    for name, module in network.named_modules():
        if name.startswith(("conformer", "linears")):
            module.register_forward_hook(lambda *_, name=name: runs.append(name.split(".")[:2]))
    assert torch.equal(network(mel, lengths, last_exit=2), everything[:2])
    parallel = [["conformer_parallel", "0"]] if kind == "splitformer" else []
    assert sorted({tuple(r) for r in runs}) == sorted(
        tuple(r) for r in [["conformer", "0"], ["conformer", "1"], ["linears", "0"], ["linears", "1"], *parallel]
    )
    for last_exit in (0, 4):
        with pytest.raises(SpeechError, match="no such exit"):
            network(mel, lengths, last_exit=last_exit)


def test_one_whole_item_needs_no_lengths():
    network = reference.load(random_state(), "splitformer", **ARGUMENTS)
    mel, lengths = batch([75])
    assert (network(mel) - network(mel, lengths)).abs().max() < 1e-5
    assert torch.equal(network(mel.double()), network(mel))


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((80, 50), None),
        ((1, 40, 50), None),
        ((0, 80, 50), None),
        ((1, 80, 6), None),
        ((1, 80, 247), None),  # 60 positions
        ((2, 80, 50), [50]),
        ((2, 80, 50), [50, 3]),
        ((2, 80, 50), [51, 50]),
        ((2, 80, 50), [50.0, 20.0]),
    ],
)
def test_refuses_what_does_not_fit(shape, lengths):
    network = reference.load(random_state(), "splitformer", **ARGUMENTS)
    with pytest.raises(SpeechError, match="expected"):
        network(torch.zeros(shape), None if lengths is None else torch.tensor(lengths))
    with pytest.raises(SpeechError, match="int64"):
        network(torch.zeros(1, 80, 50, dtype=torch.int64))


def test_longest_input():
    network = reference.load(random_state(), "splitformer", **ARGUMENTS)
    assert network(torch.zeros(1, 80, 246), last_exit=1).shape == (1, 1, 60, 20)


def reference_weights():
    spec = importlib.util.spec_from_file_location("reference_weights", DATA / "reference_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@shared
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["batch_even", "batch_odd", "single"])
def test_numbers_of_the_authors_code(kind, case, tmp_path):
    golden = torch.load(DATA / f"{kind}_small.pt", weights_only=True)
    torch.save(reference_weights().state_dict(DATA / golden["manifest"], golden["seed"]), tmp_path / "mod150")
    network = reference.load(tmp_path / "mod150", kind, n_heads=4, n_exits=3, layers_per_exit=2)
    given = golden["cases"][case]
    mel = np.random.RandomState(given["input_seed"]).gamma(0.6, 2.0, given["shape"]).astype(np.float32)
    for row, length in zip(mel, given["lengths"], strict=True):
        row[:, length:] = 0
    lengths = torch.tensor(given["lengths"])
    assert (network(torch.from_numpy(mel), lengths) - given["output"]).abs().max() < 1e-4
    first = network(torch.from_numpy(mel), lengths, last_exit=1)
    assert (first - given["output"][:1]).abs().max() < 1e-4


@shared
@pytest.mark.parametrize(("kind", "parameters"), [("splitformer", 36_683_264), ("early_conformer", 31_536_128)])
def test_names_and_shapes_of_the_published_models(kind, parameters):
    manifest = json.loads((DATA / f"{kind}_full.json").read_text())
    state = {
        name: torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"])) for name, entry in manifest.items()
    }
    network = reference.load(state, kind)
    assert list(network.state_dict()) == list(manifest)
    assert {n: t.shape for n, t in network.state_dict().items()} == {n: t.shape for n, t in state.items()}
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert asdict(network.sizes) == asdict(reference.Sizes(parallel=kind == "splitformer"))


@shared
def test_features_of_the_authors_tools():
    golden = torch.load(DATA / "asr_features.pt", weights_only=True)
    assert torch.equal(mel_filters(), golden["fb"])
    for wave, mel, length in zip(golden["waves"], golden["mel_batch"], golden["lengths"].tolist(), strict=True):
        found = reference.features(wave)
        assert found.shape == (80, length)
        assert (found - mel[:, :length]).abs().max() < 1e-4


def test_features_written_out():
    wave = (np.random.default_rng(0).standard_normal(1700) * 0.1).astype(np.float32)
    padded = np.pad(wave.astype(np.float64), 512, mode="reflect")
    window = np.zeros(1024)
    window[352:672] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 320)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82) / 2595) - 1)
    filters = [np.interp(np.linspace(0, 8000, 513), edges[m : m + 3], [0, 1, 0], 0, 0) for m in range(80)]
    frames = [np.abs(np.fft.rfft(padded[160 * t : 160 * t + 1024] * window)) ** 2 for t in range(11)]
    expected = np.array(filters) @ np.array(frames).T
    found = reference.features(wave)
    assert (found.shape, found.dtype) == ((80, 11), torch.float32)
    assert found.numpy() == pytest.approx(expected, rel=1e-4)  # their filters are rounded to float32
    assert torch.equal(reference.features(torch.from_numpy(wave)[None]), found)


@pytest.mark.parametrize("wave", [np.zeros(512), np.zeros(0), np.zeros(2000, np.int16), np.zeros((2, 2000))])
def test_features_refuse(wave):
    with pytest.raises(SpeechError, match=r"floats in \[-1, 1\]"):
        reference.features(wave)


def test_loads_a_state_dict_without_touching_it():
    state = random_state()
    del state["positional_encoder.pe"]  # computed, as long as the published one
    before = dict(state)
    network = reference.load(state, "splitformer", **ARGUMENTS)
    assert network.positional_encoder.pe.shape == (2000, 1, 16)
    assert not network.training
    assert all(not p.requires_grad for p in network.parameters())
    state["linears.0.bias"].zero_()
    assert network.linears[0].bias.abs().min() > 0
    assert list(state) == list(before)


def test_averaged_and_half_precision_checkpoints():
    state = random_state()
    mel, lengths = batch([60])
    expected = reference.load(state, "splitformer", **ARGUMENTS)(mel, lengths)
    averaged = {n: t.double() for n, t in state.items()}
    assert (reference.load(averaged, "splitformer", **ARGUMENTS)(mel, lengths) - expected).abs().max() == 0


def faults():
    bias, counter = "linears.1.bias", "conformer.0.conformer_layers.0.conv_module.sequential.3.num_batches_tracked"
    yield "missing", lambda s: s.pop(bias), bias
    yield "missing counter", lambda s: s.pop(counter), counter
    yield "missing first", lambda s: s.pop("conv_subsample.sequential.0.weight"), "conv_subsample.sequential.0.weight"
    yield "unknown", lambda s: s.update({"linears.9.bias": torch.zeros(2)}), "linears.9.bias unknown"
    yield "shape", lambda s: s.update({bias: torch.zeros(21)}), r"linears.1.bias of shape \(21,\), not \(20,\)"
    yield "dimensions", lambda s: s.update({"linears.0.weight": torch.zeros(())}), "linears.0.weight of shape"
    yield "integers", lambda s: s.update({bias: torch.zeros(20, dtype=torch.int8)}), "torch.int8"
    yield "infinite", lambda s: s.update({bias: torch.full((20,), torch.inf)}), "not finite"
    yield "sparse", lambda s: s.update({bias: torch.ones(20).to_sparse()}), "dense"
    yield "no tensor", lambda s: s.update({bias: [1, 2]}), "list, not a tensor"
    yield "no name", lambda s: s.update({3: torch.zeros(2)}), "3"
    yield "empty", lambda s: s.clear(), "no tensor"


@pytest.mark.parametrize(("fault", "match"), [pytest.param(f, m, id=i) for i, f, m in faults()])
def test_a_bad_state_dict_is_one_clear_error(fault, match):
    state = random_state()
    fault(state)
    with pytest.raises(SpeechError, match=match) as error:
        reference.load(state, "splitformer", **ARGUMENTS)
    assert error.value.state is State.MODEL_BAD


@pytest.mark.parametrize(
    ("kind", "arguments", "match"),
    [
        ("early_conformer", ARGUMENTS, r"conformer_parallel.* unknown and 63 more"),
        ("splitformer", ARGUMENTS | {"n_exits": 2}, "linears.2.weight unknown"),
        ("splitformer", ARGUMENTS | {"n_exits": 4}, "linears.3.weight missing"),
        ("splitformer", ARGUMENTS | {"layers_per_exit": 1}, "conformer.0.conformer_layers.1.* unknown"),
        ("splitformer", ARGUMENTS | {"n_heads": 6}, "heads must divide"),
        ("splitformer", ARGUMENTS | {"n_heads": 0}, "impossible"),
        ("splitformer", ARGUMENTS | {"n_exits": 1}, "n_exits >= 2"),
        ("zipformer", ARGUMENTS, "splitformer or early_conformer"),
    ],
)
def test_wrong_arguments_are_one_clear_error(kind, arguments, match):
    with pytest.raises(SpeechError, match=match):
        reference.load(random_state(), kind, **arguments)


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_bad_file_is_one_clear_error(tmp_path, capsys):
    whole = io.BytesIO()
    torch.save(random_state(), whole)
    data = whole.getvalue()
    legacy = io.BytesIO()
    torch.save(random_state(), legacy, _use_new_zipfile_serialization=False)
    rng = np.random.default_rng(0)
    contents = [data[:n] for n in (0, 1, 100, len(data) // 2, len(data) - 1)]
    contents += [legacy.getvalue()[:n] for n in (50, 5000, len(legacy.getvalue()) - 1)]
    contents += [b"\x80\x02" + rng.bytes(200) for _ in range(20)]
    contents += [
        pickle.dumps(Payload(), 2),
        b"<html>not found</html>",
        pickle.dumps([1, 2], 2),
        pickle.dumps({"epoch": 3}, 2),
    ]
    path = tmp_path / "mod150-splitformer"
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(SpeechError, match=r"mod150-splitformer is not a checkpoint") as error:
            reference.load(path, "splitformer", **ARGUMENTS)
        assert error.value.state is State.MODEL_BAD
    assert capsys.readouterr().out == ""
    for absent in (tmp_path, tmp_path / "absent"):
        with pytest.raises(SpeechError, match="no such checkpoint") as error:
            reference.load(absent, "splitformer")
        assert error.value.state is State.MODEL_MISSING


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece file with the special pieces where the authors' have them, of 20 pieces."""
    sentencepiece = pytest.importorskip("sentencepiece")
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["STOP THE ROBOT", "GO TO THE SHOP", "PUT THE POT THERE"] * 5),
        model_writer=made,
        model_type="bpe",
        vocab_size=20,
        character_coverage=1.0,
        user_defined_symbols=["@"],
        unk_id=9,
        pad_id=8,
        minloglevel=2,
    )
    proto = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    path = tmp_path_factory.mktemp("pieces") / "small.model"
    path.write_bytes(made.getvalue())
    assert proto.id_to_piece(0) == "@", [proto.id_to_piece(i) for i in range(20)]
    return path


def test_tokenizer_and_greedy_decoding(pieces):
    tokenizer = reference.Tokenizer(pieces)
    assert len(tokenizer) == 20
    for text in ("STOP THE ROBOT", "PUT THE POT THERE", "GO TO THE SHOP"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode(text.lower()) == ids
        assert tokenizer.decode([1, *ids, 9, 0, 8, 2]) == text
        frames = [i for piece in ids for i in (piece, piece, 0)]  # the blank tells doubled pieces apart
        assert tokenizer.read(np.array([0, 1, *frames, 2, 0])) == text.lower()
    assert tokenizer.read(np.zeros(5, int)) == ""
    assert tokenizer.read(np.zeros(0, int)) == ""
    with pytest.raises(SpeechError, match="0 to 19"):
        tokenizer.decode([20])


def test_a_bad_tokenizer_is_one_clear_error(pieces, tmp_path, monkeypatch):
    import sentencepiece

    other = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["STOP THE ROBOT"] * 5), model_writer=other, vocab_size=12, minloglevel=2
    )
    path = tmp_path / "a.model"
    for content in (b"", b"hello", pieces.read_bytes()[:-5], other.getvalue()):
        path.write_bytes(content)
        with pytest.raises(SpeechError, match=r"a\.model is not the tokenizer") as error:
            reference.Tokenizer(path)
        assert error.value.state is State.MODEL_BAD
    with pytest.raises(SpeechError, match="no such tokenizer"):
        reference.Tokenizer(tmp_path / "b.model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(SpeechError, match=r"pip install 'edge_nodes\[reference\]'"):
        reference.Tokenizer(pieces)


@pytest.mark.skipif(not PIECES.is_file(), reason="no shared reference tokenizer")
def test_the_authors_tokenizer():
    pytest.importorskip("sentencepiece")
    tokenizer = reference.Tokenizer(PIECES)
    assert len(tokenizer) == 256
    for text, ids in [
        ("HE HOPED THERE WOULD BE STEW FOR DINNER", "33 14 232 247 22 161 195 46 86 229 243 77 29 7 233 15"),
        ("THE QUICK BROWN FOX", "6 228 147 54 250 226 223 20 232 252"),
    ]:
        numbers = [int(i) for i in ids.split()]
        assert tokenizer.encode(text) == numbers
        assert tokenizer.decode([1, *numbers, 2]) == text
        assert tokenizer.read(np.array([1, *np.repeat(numbers, 2), 0, 2])) == text.lower()


@pytest.fixture
def checkpoint(pieces, tmp_path):
    """A small splitformer, its tokenizer beside it; its exits say a piece each, the last nothing, ever surer."""
    state = random_state()
    for exit_, (piece, sure) in enumerate([("THE", 3.0), ("STOP", 8.0), ("", 20.0)]):
        tokenizer = reference.Tokenizer(pieces)
        state[f"linears.{exit_}.weight"] *= 0
        state[f"linears.{exit_}.bias"] = torch.zeros(20)
        state[f"linears.{exit_}.bias"][tokenizer.encode(piece)[0] if piece else 0] = sure
    torch.save(state, tmp_path / "mod150-splitformer")
    (tmp_path / "small.model").write_bytes(pieces.read_bytes())
    return tmp_path / "mod150-splitformer"


def configuration(checkpoint, **values):
    chosen = {"model": f"reference:{checkpoint}", "reference.heads": 4}
    return replace(SpeechConfig(), chosen | {name.replace("__", "."): value for name, value in values.items()})


def test_the_model_of_the_node(checkpoint, pieces):
    model = load_model(configuration(checkpoint))
    assert (model.name, model.layers, list(model.exits)) == ("reference splitformer mod150-splitformer", 6, [2, 4, 6])
    samples = (np.random.default_rng(0).standard_normal(16000) * 0.1).astype(np.float32)
    readings = []
    last = model.recognise(samples, lambda layer, reading: readings.append((layer, reading)))
    first_piece = reference.Tokenizer(pieces).decode(reference.Tokenizer(pieces).encode("THE")[:1]).lower()
    assert [layer for layer, _ in readings] == [2, 4, 6]
    assert readings[0][1].text == first_piece.strip()
    expected = [np.exp(sure) / (np.exp(sure) + 19) for sure in (3.0, 8.0)] + [1.0]
    assert [reading.confidence for _, reading in readings] == pytest.approx(expected, abs=1e-4)
    assert (last.text, last.layer, last.layers, last.cost["audio_ms"]) == ("", 6, 6, 1000)
    assert model.recognise(samples, policy(ExitConfig(policy="fixed", layer=1), 12)).layer == 2
    for count in (0, 1, 600, 1200):
        assert model.recognise(samples[:count], policy(ExitConfig(policy="fixed", layer=1), 12)).layer == 2


@pytest.mark.parametrize(
    ("values", "layer"),
    [
        ({"exit__threshold": 0.9}, 4),
        ({"exit__threshold": 0.2}, 2),
        ({"exit__threshold": 1.0}, 6),
        ({"exit__policy": "fixed"}, 6),
        ({"exit__policy": "fixed", "exit__layer": 3}, 4),
        ({"exit__layer": 2}, 2),
    ],
)
def test_exits_in_the_node(checkpoint, values, layer):
    pipeline = SpeechPipeline(configuration(checkpoint, partial_interval_ms=0, **values))
    pipeline.load(lambda line: None)
    pipeline._loaded._vad = Loudness()
    samples = np.concatenate([np.full(16000, 8000, np.int16), np.zeros(16000, np.int16)])
    outputs = []
    for first in range(0, len(samples), 3200):
        outputs += pipeline.process(
            "audio", Message(samples[first : first + 3200]), received_ns=10**18 + first * 62500, wanted={"speech/event"}
        )
    final = json.loads(outputs[-1].fields["data"])
    assert final["kind"] == "final"
    assert final["exit"] == {"layer": layer, "of": 6, "policy": values.get("exit__policy", "words")}
    assert {n: v for n, v in pipeline.status().items() if n.startswith("final at")} == {
        f"final at layer {n}": int(n == layer) for n in (2, 4, 6)
    }


class Loudness:
    def __call__(self, chunk):
        return float(np.abs(chunk).max() > 0.1)

    def reset(self):
        pass


class Message:
    def __init__(self, samples):
        self.data = audio_fields(samples, 16000)["data"]


def test_the_early_conformer_in_the_node(pieces, tmp_path):
    torch.save(random_state("early_conformer"), tmp_path / "mod070")
    recognizer = Recognizer(configuration(tmp_path / "mod070", reference__tokenizer=str(pieces)))
    recognizer.load()
    assert recognizer.model.name == "reference early_conformer mod070"


def test_a_node_without_what_it_needs_says_so(checkpoint, pieces, tmp_path):
    def refused(match, state, checkpoint=checkpoint, **values):
        with pytest.raises(EdgeNodesError, match=match) as error:
            Recognizer(configuration(checkpoint, **values)).load()
        assert error.value.state is state

    refused("mod150-splitformer is not .*heads must divide", State.MODEL_BAD, reference__heads=5)
    refused("no such checkpoint", State.MODEL_MISSING, checkpoint=tmp_path / "absent")
    refused("no such tokenizer", State.MODEL_MISSING, reference__tokenizer=str(tmp_path / "absent.model"))
    refused("device", State.NO_DEVICE, device="warp")
    (tmp_path / "other.model").write_bytes(b"")
    refused("reference.tokenizer", State.MODEL_MISSING)
    (tmp_path / "other.model").unlink()
    state = random_state(pieces=21)
    torch.save(state, checkpoint)
    refused("20 pieces", State.MODEL_BAD)
    torch.save({"epoch": torch.zeros(1)}, checkpoint)
    refused("no tensors linears", State.MODEL_BAD)
    (tmp_path / "small.model").unlink()
    with pytest.raises(SpeechError, match="0 files"):
        beside(checkpoint)
