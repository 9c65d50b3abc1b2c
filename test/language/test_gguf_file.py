# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from small_gguf import byte_tokens, write_gguf

from edge_nodes.language import LanguageError, engine
from edge_nodes.language.gguf_file import GgufFile

SMAPS = Path("/proc/self/smaps")


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    found, inside = 0, False
    for line in SMAPS.read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


def test_strings_are_those_that_the_library_reads(tmp_path):
    write_gguf(
        tmp_path / "m.gguf", tokens=["", "a", "ä", "日本", *byte_tokens()], types=[1] * 260, merges=["h e", "ä 日"]
    )
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    metadata = GgufFile(tmp_path / "m.gguf").metadata
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
        found, expected = metadata[key], fields[key].contents()
        assert list(found) == expected
        assert len(found) == len(expected)
        assert [found[i] for i in range(-len(expected), len(expected))] == expected * 2
        assert (found[1:], found[::-2]) == (expected[1:], expected[::-2])
        with pytest.raises(IndexError):
            found[len(expected)]
    assert metadata["tokenizer.ggml.token_type"] == [1] * 260


def test_a_token_that_is_no_text_is_an_error(tmp_path):
    write_gguf(tmp_path / "m.gguf", tokens=["<|end|>", "marked", "c"], types=[3, 1, 1], merges=[])
    data = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(data.replace(b"marked", b"mark\xff\xff", 1))
    with pytest.raises(LanguageError, match="not a GGUF file"):
        GgufFile(tmp_path / "m.gguf")


@pytest.mark.skipif(not SMAPS.exists(), reason="only Linux tells what is resident of a mapping")
def test_a_packed_tensor_is_in_memory_once(tmp_path):
    path = tmp_path / "m.gguf"
    tokens = ["<|end|>", *byte_tokens(), *(f"word{i}" for i in range(30_000))]
    write_gguf(path, tokens=tokens, types=[3, *[1] * (len(tokens) - 1)], merges=[])
    file = GgufFile(path)
    options = {"slots": 1, "kv_cache": "f16", "threads": 1, "kernel": "auto"}
    file.fill(engine.make_model(file.sizes(), 64, **options))
    assert resident(path) < path.stat().st_size / 3
    assert file.tensors["token_embd.weight"].data.any()  # still there to be read
