# SPDX-License-Identifier: Apache-2.0
"""What segmentation_node does: clouds in, class maps out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from edge_nodes.perception.config import SegmentationConfig
from edge_nodes.pipeline import Output, header
from edge_nodes.pipelines.network import NetworkPipeline, image

LABELS, GRID = "segmentation/labels", "segmentation/grid"


class SegmentationPipeline(NetworkPipeline[SegmentationConfig]):
    """points, the robot's motion -> segmentation/labels, segmentation/grid."""

    config_type = SegmentationConfig
    own = "edge_nodes.perception.segmentation:Segmenter"
    published = "edge_nodes.perception.reference.inference:ReferenceSegmenter"

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """See `Pipeline.process`."""
        from edge_nodes.perception.segmentation import occupancy_grid

        if self.network is None or not {LABELS, GRID} & set(wanted):
            return
        xyz, time_ns, frame = self.scan(message)
        segments = self.network.segment(xyz, stamp_ns=time_ns)
        if LABELS in wanted:
            yield Output(LABELS, image(segments.labels, "mono8", time_ns, frame))
        if GRID in wanted:
            bev = self.config.bev
            corner = {"x": -bev.range_m, "y": -bev.range_m, "z": segments.ground_m}
            info = {
                "map_load_time": header(time_ns, frame)["stamp"],
                "resolution": bev.resolution_m,
                "width": bev.cells,
                "height": bev.cells,
                "origin": {"position": corner, "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}},
            }
            data = occupancy_grid(segments.labels).reshape(-1)
            yield Output(GRID, {"header": header(time_ns, frame), "info": info, "data": data})
