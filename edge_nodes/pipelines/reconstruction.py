# SPDX-License-Identifier: Apache-2.0
"""What reconstruction_node does: clouds in, occupancy now and half a second ahead out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from edge_nodes.perception.config import ReconstructionConfig
from edge_nodes.pipeline import Output
from edge_nodes.pipelines.network import NetworkPipeline, image

OCCUPANCY, FORECAST = "reconstruction/occupancy", "reconstruction/forecast"


class ReconstructionPipeline(NetworkPipeline[ReconstructionConfig]):
    """points, the robot's motion -> reconstruction/occupancy, reconstruction/forecast."""

    config_type = ReconstructionConfig
    own = "edge_nodes.perception.reconstruction:Reconstructor"
    published = "edge_nodes.perception.reference.inference:ReferenceReconstructor"

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """See `Pipeline.process`."""
        if self.network is None or not {OCCUPANCY, FORECAST} & set(wanted):
            return
        xyz, time_ns, frame = self.scan(message)
        occupancy = self.network.reconstruct(xyz, stamp_ns=time_ns)
        for name, values in ((OCCUPANCY, occupancy.now), (FORECAST, occupancy.ahead)):
            if name in wanted:
                yield Output(name, image(values, "32FC1", time_ns, frame))
