# SPDX-License-Identifier: Apache-2.0
"""What segmentation_node does: clouds in, class maps out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_nodes.perception.config import MOTION_TOPICS, SegmentationConfig, is_reference
from edge_nodes.pipeline import Output, Pipeline, Progress, header, stamp_ns

if TYPE_CHECKING:
    from edge_nodes.perception.reference.inference import ReferenceSegmenter
    from edge_nodes.perception.segmentation import Segmenter

LABELS, GRID = "segmentation/labels", "segmentation/grid"


class SegmentationPipeline(Pipeline[SegmentationConfig]):
    """points, odometry -> segmentation/labels, segmentation/grid."""

    config_type = SegmentationConfig
    early = MOTION_TOPICS

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__(config)
        self._segmenter: Segmenter | ReferenceSegmenter | None = None

    def load(self, progress: Progress) -> None:
        """See `Pipeline.load`."""
        if is_reference(self.config.model):
            from edge_nodes.perception.reference.inference import ReferenceSegmenter

            self._segmenter = ReferenceSegmenter(self.config, progress)
        else:
            from edge_nodes.perception.segmentation import Segmenter

            self._segmenter = Segmenter(self.config, progress)

    def arrived(self, topic: str, message: Any, *, received_ns: int) -> bool:
        """Remember how the robot moves."""
        if self._segmenter is not None:
            self._segmenter.inference.history.ego_motion.take(topic, message)
        return True

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """See `Pipeline.process`."""
        from edge_nodes.perception.cloud import decode
        from edge_nodes.perception.segmentation import occupancy_grid

        if self._segmenter is None or not {LABELS, GRID} & set(wanted):
            return
        cloud = decode(message)
        time_ns, frame = stamp_ns(message.header.stamp), message.header.frame_id
        self._segmenter.inference.history.ego_motion.sensor_frame = frame
        segments = self._segmenter.segment(cloud.xyz, stamp_ns=time_ns)
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

    def reads(self, topic: str) -> bool:
        """See `Pipeline.reads`."""
        return topic not in MOTION_TOPICS or self.config.bev.reads(topic)

    def update(self, config: SegmentationConfig) -> None:
        """See `Pipeline.update`."""
        super().update(config)
        if self._segmenter is not None:
            self._segmenter.configure(config)

    def status(self) -> Mapping[str, str | int | float]:
        """See `Pipeline.status`."""
        return {} if self._segmenter is None else status(self._segmenter.inference)

    def close(self) -> None:
        """See `Pipeline.close`."""
        self._segmenter = None


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


def status(inference: Any) -> dict[str, str | int | float]:
    """Return what diagnostics shows of a network."""
    return {
        "model": inference.model_name,
        "device": str(inference.device),
        "bev_ms": round(inference.bev_ms, 2),
        "network_ms": round(inference.network_ms, 2),
        "ground_m": round(inference.history.ground.offset_m, 2),
        "ego_motion": inference.history.ego_motion.source,
    }
