# SPDX-License-Identifier: Apache-2.0
"""What reconstruction_node does: clouds in, occupancy now and half a second ahead out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from edge_nodes.perception.config import ReconstructionConfig
from edge_nodes.pipeline import Output, stamp_ns
from edge_nodes.pipelines.network import NetworkPipeline, image

OCCUPANCY, FORECAST = "reconstruction/occupancy", "reconstruction/forecast"


class ReconstructionPipeline(NetworkPipeline[ReconstructionConfig]):
    """points, the robot's motion -> reconstruction/occupancy, reconstruction/forecast."""

    config_type = ReconstructionConfig
    own = "edge_nodes.perception.reconstruction:Reconstructor"
    published = "edge_nodes.perception.reference.inference:ReferenceReconstructor"

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """See `Pipeline.process`."""
        from edge_nodes.perception.cloud import decode

        if self.network is None or not {OCCUPANCY, FORECAST} & set(wanted):
            return
        cloud = decode(message)
        time_ns, frame = stamp_ns(message.header.stamp), message.header.frame_id
        self.network.inference.history.ego_motion.sensor_frame = frame
        occupancy = self.network.reconstruct(cloud.xyz, stamp_ns=time_ns)
        for name, values in ((OCCUPANCY, occupancy.now), (FORECAST, occupancy.ahead)):
            if name in wanted:
                yield Output(name, image(values, "32FC1", time_ns, frame))
