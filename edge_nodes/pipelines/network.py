# SPDX-License-Identifier: Apache-2.0
"""What the two nodes with a network have in common: clouds and the robot's motion in, maps out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from edge_nodes import graph
from edge_nodes.perception.config import MOTION_TOPICS, NetworkConfig, is_reference
from edge_nodes.pipeline import Pipeline, Progress, header, stamp_ns

ConfigT = TypeVar("ConfigT", bound=NetworkConfig)


class NetworkPipeline(Pipeline[ConfigT]):
    """Loads a network and keeps its history of maps in step with the robot's motion.

    Attributes:
        own, published: "module:Class" of what runs our network, and the published one (`model: reference`).
        network: it, once loaded.
    """

    own: ClassVar[str]
    published: ClassVar[str]
    early = MOTION_TOPICS
    network: Any = None

    def load(self, progress: Progress) -> None:
        """See `Pipeline.load`."""
        kind = self.published if is_reference(self.config.model) else self.own
        self.network = graph.load(kind)(self.config, progress)

    def arrived(self, topic: str, message: Any, *, received_ns: int) -> bool:
        """Remember how the robot moves."""
        if self.network is not None:
            self.network.inference.history.ego_motion.take(topic, message)
        return True

    def scan(self, message: Any) -> tuple[npt.NDArray[np.float32], int, str]:
        """Return a cloud's points as the network wants them, its stamp in ns, and the frame its motion is told of.

        The points are (N, 3) float32 in m, or (N, 4) with the intensity.
        """
        from edge_nodes.perception.cloud import decode

        points = decode(message, intensity=self.config.bev.intensity_full > 0).points
        frame = message.header.frame_id
        self.network.inference.history.ego_motion.sensor_frame = frame
        return points, stamp_ns(message.header.stamp), frame

    def reads(self, topic: str) -> bool:
        """See `Pipeline.reads`."""
        return topic not in MOTION_TOPICS or self.config.bev.reads(topic)

    def update(self, config: ConfigT) -> None:
        """See `Pipeline.update`."""
        super().update(config)
        if self.network is not None:
            self.network.configure(config)

    def status(self) -> Mapping[str, str | int | float]:
        """See `Pipeline.status`."""
        if self.network is None:
            return {}
        inference = self.network.inference
        return {
            "model": inference.model_name,
            "device": str(inference.device),
            "precision": str(inference.dtype).rpartition(".")[2],
            "bev_ms": round(inference.bev_ms, 2),
            "network_ms": round(inference.network_ms, 2),
            "ground_m": round(inference.history.ground.offset_m, 2),
            "ego_motion": inference.history.ego_motion.source,
        }

    def close(self) -> None:
        """See `Pipeline.close`."""
        self.network = None


def image(values: np.ndarray[Any, Any], encoding: str, time_ns: int, frame_id: str) -> dict[str, Any]:
    """Return the fields of a sensor_msgs/Image of one channel, (H, W)."""
    height, width = values.shape
    return {
        "header": header(time_ns, frame_id),
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": width * values.itemsize,
        "data": np.ascontiguousarray(values).view(np.uint8).reshape(-1),
    }
