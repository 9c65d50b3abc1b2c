# SPDX-License-Identifier: Apache-2.0
"""Requests in the fused loop, and each alone."""

from __future__ import annotations

from edge_nodes.language.fusion.loop import FusionEngine


def run_all(engine, requests, config, *, arrivals):
    """Submit request i once `arrivals[i]` steps were made; return the handles."""
    fused, handles, step = FusionEngine(engine.model, engine.tokenizer, config), [], 0
    while len(handles) < len(requests) or fused.requests():
        while len(handles) < len(requests) and arrivals[len(handles)] <= step:
            prompt, sampling, count = requests[len(handles)]
            handles.append(fused.submit(prompt, sampling, max_new_tokens=count))
        fused.step()
        step += 1
    return handles, fused.metrics


def compare(engine, requests, handles):
    for handle, (prompt, sampling, count) in zip(handles, requests, strict=True):
        engine.reset()
        assert [t.id for t in engine.generate(prompt, sampling, max_new_tokens=count) if t.id >= 0] == list(
            handle.answer
        )
