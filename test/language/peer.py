# SPDX-License-Identifier: Apache-2.0
"""llama.cpp, asked through its own HTTP server."""

from __future__ import annotations

import json
import urllib.request

import pytest


def llama_cpp_server(path, context=64):
    """Start llama.cpp on a model; return the function that asks its server: ask(endpoint, **fields) -> answer."""
    pytest.importorskip("xllamacpp", reason="needs the extra [peers]")
    from edge_nodes.cli.llama_cpp import LlamaCpp

    server = LlamaCpp(path, threads=1, context=context)

    def ask(endpoint, **fields):
        body, kind = json.dumps(fields).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.address}/{endpoint}", body, kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    return ask
