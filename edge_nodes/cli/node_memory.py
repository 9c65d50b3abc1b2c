# SPDX-License-Identifier: Apache-2.0
"""What a working speech_node holds in memory. Imports nothing that the node does not, so as not to count it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from edge_nodes.cli.figures import DataError

RATE_HZ = 16000


def memory(clips: list[NDArray[np.float32]], model: str) -> dict[str, Any]:
    """Return the most resident memory of a speech_node that works, of its pipeline alone where ROS 2 is missing.

    Args:
        clips: 16 kHz samples in [-1, 1] to work on.
        model: see `models.find`.

    Raises:
        DataError: the node cannot be configured.
    """
    from edge_nodes import graph
    from edge_nodes.parameters import replace
    from edge_nodes.pipelines.speech import SpeechPipeline
    from edge_nodes.speech.config import SpeechConfig

    node = find_spec("rclpy") is not None
    if node:
        pipeline = _node(graph.NODES["speech_node"], model).pipeline
    else:
        pipeline = SpeechPipeline(replace(SpeechConfig(), {"model": model}))
        pipeline.load(lambda _: None)
    most, now_ns = 0, 10**18
    for clip in clips:
        samples = (np.pad(clip, (RATE_HZ // 2, RATE_HZ)).clip(-1, 1) * 32767).astype(np.int16)
        for block in np.array_split(samples, len(samples) // 640):
            now_ns += len(block) * 1_000_000_000 // RATE_HZ
            message = SimpleNamespace(data=block)
            for _ in pipeline.process("audio", message, received_ns=now_ns, wanted=("speech/partial", "speech/text")):
                most = max(most, psutil.Process().memory_info().rss)
    return {"memory_mb": round(most / 2**20, 1), "memory_of": "speech_node" if node else "its pipeline, without ROS"}


def _node(spec: Any, model: str) -> Any:
    """Return a configured node; it lives until the process ends."""
    from edge_nodes import graph

    os.environ.update({**graph.environment(spec), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"})
    import rclpy
    from rclpy.parameter import Parameter

    from edge_nodes.nodes.base import EdgeNode

    rclpy.init(args=[])
    node: Any = EdgeNode(spec, parameter_overrides=[Parameter("model", value=model)])  # type: ignore[no-untyped-call]
    node.trigger_configure()
    if node.pipeline is None:
        raise DataError("speech_node cannot be configured", got=node.health()[1])
    return node
