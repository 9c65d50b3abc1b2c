# SPDX-License-Identifier: Apache-2.0
"""A rolling scene in the prompt: what prefix reuse and delta attention save while it changes a little every second."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_nodes.cli.eval.delta_settings import CALIBRATED, DENSE, GLOBAL, Setting
from edge_nodes.language import attention
from edge_nodes.language.config import DeltaConfig
from edge_nodes.language.engine import Engine


def rolling_scene(engine: Engine, config: DeltaConfig, found: attention.Calibration | None) -> list[dict[str, Any]]:
    """Return what prefix reuse and delta attention save while the scene in the prompt changes every second."""
    prompts = [engine.tokenizer.chat(messages) for messages in _scene_prompts()]
    theta = found.theta() if found else np.full(1, config.theta, np.float32)
    out = []
    for reuse in (False, True):
        for setting in (Setting(DENSE, None, DENSE), Setting(CALIBRATED if found else GLOBAL, theta, "delta")):
            setting.apply(engine, config)
            computed, seconds, sparsity = 0, 0.0, []
            for prompt in prompts:
                if not reuse:
                    engine.reset()
                run = engine.generate(prompt, max_new_tokens=8)
                for _ in run:
                    pass
                computed += run.prompt_tokens - run.cached_tokens
                seconds += run.prefill_s
                skipped = attention.skipped(engine.model, 0, tokens=len(prompt))
                sparsity.append((skipped.prefill + skipped.decode).share if skipped else 0.0)
            out.append(
                {
                    "attention": setting.label,
                    "prefix_reuse": reuse,
                    "prompt_tokens": sum(map(len, prompts)),
                    "computed_tokens": computed,
                    "prefill_ms": 1e3 * seconds / len(prompts),
                    "sparsity": float(np.mean(sparsity)),
                }
            )
    return out


def _scene_prompts() -> list[list[dict[str, str]]]:
    """Return prompts of a robot that watches a person come nearer: one figure changes each second."""
    rules = "You are the voice of a mobile robot. Answer in one short sentence from what the robot sees."
    return [
        [
            {"role": "system", "content": rules},
            {"role": "user", "content": f"{_scene(second)} What do you see?"},
        ]
        for second in range(8)
    ]


def _scene(second: int) -> str:
    return (
        "The robot sees a wall 2.1 m to the left, a car 14.0 m ahead that stands still, a shelf 3.5 m to the right, "
        f"and a person {9.0 - second:.1f} m ahead who walks towards it at 1.0 m/s."
    )
