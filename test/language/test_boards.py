# SPDX-License-Identifier: Apache-2.0
"""A model over two processes: the same tokens as one, what leaves the master, and boards that are lost or wrong."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from boards_peer import SIZES, reduce_some, values
from small_gguf import write_gguf

from edge_nodes.errors import State
from edge_nodes.language import LanguageError, load
from edge_nodes.language.blocks.convert import convert
from edge_nodes.language.boards import master as boards_master
from edge_nodes.language.boards.costs import CHOICES
from edge_nodes.language.config import BoardsConfig

torch_distributed = pytest.importorskip("torch.distributed")
pytestmark = pytest.mark.skipif(not torch_distributed.is_available(), reason="torch without distributed")

TOKENS = np.random.default_rng(4).integers(3, 260, 20).tolist()
JOIN_S = 60.0


@pytest.fixture(scope="module")
def shards(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boards")
    source = make_model(folder / "model.gguf")
    convert(source, folder / "shards", shares=(1, 1))
    return source, folder / "shards"


@pytest.fixture
def workers():
    started = []

    def start(shard, port, *options):
        command = [sys.executable, "-m", "edge_nodes.cli", "worker", str(shard), "--port", str(port), "--threads", "1"]
        environment = {k: v for k, v in os.environ.items() if k != "RANK"}
        started.append(
            subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(20)
        process.stdout.close()


def master(folder, port, **changes):
    config = {"enabled": True, "address": "127.0.0.1", "port": port, "join_s": JOIN_S, "deadline_s": 5.0, **changes}
    return load(folder, context_tokens=64, threads=1, boards=BoardsConfig(**config))


def answer(engine):
    return [token.id for token in engine.generate(TOKENS, max_new_tokens=8)]


def test_two_boards(shards, port, workers):
    source, folder = shards
    whole = load(source, context_tokens=64)
    expected = answer(whole)
    worker = workers(folder / "rank-1", port)
    engine = master(folder, port, join_s=JOIN_S)
    link, sent = engine.model.link, []
    original = link._send
    link._send = lambda array, rank: (sent.append(array.copy()), original(array, rank))[1]
    assert answer(engine) == expected
    about = engine.model.figures()
    assert (about["boards"], about["allreduce"]) == (2, link.network.choose(4 * engine.model.width))
    assert about["allreduce_ms"] > 0.0
    first = [engine.model.forward(np.array(TOKENS, np.int32), 0, all=True).tobytes() for _ in range(2)]
    assert first[0] == first[1]
    assert sum(link.reduced[name] for name in CHOICES) == sum(link.reduced.values()) > 0
    # No token leaves the master: only positions, states and sums.
    for array in sent:
        assert array.dtype == np.float32 or not _has_run(array, TOKENS[:4])

    # Slots, and copies between them, are the same on all boards.
    engine.model.truncate_cache(0, 4)
    again = engine.model.forward(np.array(TOKENS[4:], np.int32), 4)
    np.testing.assert_array_equal(again, np.frombuffer(first[0], np.float32).reshape(20, -1)[-1])

    # A board that is killed is an error at once that names it; the node goes on when it is back.
    worker.send_signal(signal.SIGKILL)
    worker.wait(20)
    begin = time.monotonic()
    with pytest.raises(LanguageError, match=r"lost rank 1 in step \d+") as caught:
        answer(engine)
    assert time.monotonic() - begin < 15.0
    assert caught.value.state is State.NO_DEVICE
    with pytest.raises(LanguageError, match="boards have not joined: rank 1"):
        answer(engine)
    assert engine.model.figures() == {"boards": "lost"}
    workers(folder / "rank-1", port, "--once")
    engine.model._master.missing(JOIN_S)
    assert answer(engine) == expected
    engine.close()


def test_idle_boards_time_their_network_again(shards, port, workers, monkeypatch):
    monkeypatch.setattr(boards_master, "PING_S", 0.05)
    _, folder = shards
    workers(folder / "rank-1", port)
    engine = master(folder, port)
    expected, link, timed = answer(engine), engine.model.link, threading.Semaphore(0)
    again = link.measure_again
    monkeypatch.setattr(link, "measure_again", lambda: (again(), timed.release()))
    for _ in range(3):
        assert timed.acquire(timeout=JOIN_S)
    assert answer(engine) == expected
    assert engine.model.link is link
    engine.close()


def test_torchrun_starts_a_chat_on_all_boards(shards):
    source, folder = shards
    environment = {k: v for k, v in os.environ.items() if k != "RANK"}
    chat = ["-m", "edge_nodes.cli", "chat", "--context-tokens", "128", "--max-new-tokens", "8", "--threads", "1"]
    said = []
    for start, model in (((), source), (("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"), folder)):
        words = [sys.executable, *start, *chat, "--model", str(model)]
        run = subprocess.run(words, input=b"hello\n/stats\n", capture_output=True, timeout=240, env=environment)
        assert run.returncode == 0, run.stderr.decode()
        said.append(run.stdout)
        assert b"8 tokens" in run.stderr
    assert said[0] == said[1]
    assert b"rank 1 of 2: latency" in run.stderr + run.stdout


def _has_run(array, run):
    flat = array.reshape(-1).tolist()
    return any(flat[i : i + len(run)] == run for i in range(len(flat)))


def test_master_carries_on_alone(shards, port, workers, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path / "cache"))
    source, folder = shards
    worker = workers(folder / "rank-1", port)
    engine = master(folder, port, alone=str(source), deadline_s=1.0)
    expected = answer(engine)
    worker.kill()
    worker.wait(20)
    with pytest.raises(LanguageError, match=r"lost rank 1 .* carries on alone"):
        engine.model.forward(np.array(TOKENS, np.int32), 0)
    engine.reset()
    assert answer(engine) == expected
    engine.close()


def test_wrong_model_is_refused(shards, port, workers, tmp_path, make_model):
    _, folder = shards
    other = write_gguf(tmp_path / "other.gguf", seed=1)
    convert(other, tmp_path / "other", shares=(1, 1))
    worker = workers(tmp_path / "other" / "rank-1", port)
    with pytest.raises(LanguageError, match="board of rank 1 is refused; got model"):
        master(folder, port)
    assert worker.wait(30) == 1
    assert "the master refuses this board; got model" in worker.stdout.read()


def test_damaged_shard_is_not_served(shards, tmp_path, workers):
    shutil.copytree(shards[1] / "rank-1", tmp_path / "copy")
    file = tmp_path / "copy" / "blk.1.ffn.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    worker = workers(tmp_path / "copy", 1)
    assert worker.wait(60) == 1
    assert "has the wrong sha256" in worker.stdout.read()


def test_what_is_no_shard_of_rank_0_is_refused(shards, tmp_path):
    with pytest.raises(LanguageError, match="not the master's part"):
        master(shards[1] / "rank-1", 1)
    convert(shards[0], tmp_path / "whole")
    with pytest.raises(LanguageError, match="not the master's part"):
        master(tmp_path / "whole", 1)


def test_allreduces_of_three(port):
    context = multiprocessing.get_context("spawn")
    out, algorithms = context.Queue(), ("direct", "star", "split", "ring")
    processes = [context.Process(target=reduce_some, args=(r, 3, port, algorithms, out)) for r in range(3)]
    for process in processes:
        process.start()
    found = dict(out.get(timeout=100) for _ in processes)
    for process in processes:
        process.join(30)
    got = {rank: sums for rank, (sums, _) in found.items()}
    assert found[0][1] == found[1][1] == found[2][1]
    assert list(found[0][1].measured_s) == list(CHOICES)
    assert all(0.0 < t < 1.0 for times in found[0][1].measured_s.values() for t in times)
    parts = [[values(rank, size) for rank in range(3)] for size in SIZES]
    expected = [one for p in parts for one in ((p[0] + p[1]) + p[2], np.maximum.reduce(p))]
    for rank in range(3):
        for algorithm in algorithms:
            for mine, right in zip(got[rank][algorithm], expected, strict=True):
                if algorithm == "ring":  # the library's, in an order of its own
                    np.testing.assert_allclose(mine, right, rtol=1e-5, atol=1e-6)
                else:
                    np.testing.assert_array_equal(mine, right)
