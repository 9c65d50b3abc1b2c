# SPDX-License-Identifier: Apache-2.0
"""What reconstruction_node does: clouds in, occupancy now and half a second ahead out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edge_nodes.perception.config import MOTION_TOPICS, ReconstructionConfig, is_reference
from edge_nodes.pipeline import Output, Pipeline, Progress, stamp_ns
from edge_nodes.pipelines.segmentation import image, status

if TYPE_CHECKING:
    from edge_nodes.perception.reconstruction import Reconstructor
    from edge_nodes.perception.reference.inference import ReferenceReconstructor

OCCUPANCY, FORECAST = "reconstruction/occupancy", "reconstruction/forecast"


class ReconstructionPipeline(Pipeline[ReconstructionConfig]):
    """points, odometry -> reconstruction/occupancy, reconstruction/forecast."""

    config_type = ReconstructionConfig
    early = MOTION_TOPICS

    def __init__(self, config: ReconstructionConfig) -> None:
        super().__init__(config)
        self._reconstructor: Reconstructor | ReferenceReconstructor | None = None

    def load(self, progress: Progress) -> None:
        """See `Pipeline.load`."""
        if is_reference(self.config.model):
            from edge_nodes.perception.reference.inference import ReferenceReconstructor

            self._reconstructor = ReferenceReconstructor(self.config, progress)
        else:
            from edge_nodes.perception.reconstruction import Reconstructor

            self._reconstructor = Reconstructor(self.config, progress)

    def arrived(self, topic: str, message: Any, *, received_ns: int) -> bool:
        """Remember how the robot moves."""
        if self._reconstructor is not None:
            self._reconstructor.inference.history.ego_motion.take(topic, message)
        return True

    def process(self, topic: str, message: Any, *, received_ns: int, wanted: Collection[str]) -> Iterator[Output]:
        """See `Pipeline.process`."""
        from edge_nodes.perception.cloud import decode

        if self._reconstructor is None or not {OCCUPANCY, FORECAST} & set(wanted):
            return
        cloud = decode(message)
        time_ns, frame = stamp_ns(message.header.stamp), message.header.frame_id
        self._reconstructor.inference.history.ego_motion.sensor_frame = frame
        occupancy = self._reconstructor.reconstruct(cloud.xyz, stamp_ns=time_ns)
        for name, values in ((OCCUPANCY, occupancy.now), (FORECAST, occupancy.ahead)):
            if name in wanted:
                yield Output(name, image(values, "32FC1", time_ns, frame))

    def reads(self, topic: str) -> bool:
        """See `Pipeline.reads`."""
        return topic not in MOTION_TOPICS or self.config.bev.reads(topic)

    def update(self, config: ReconstructionConfig) -> None:
        """See `Pipeline.update`."""
        super().update(config)
        if self._reconstructor is not None:
            self._reconstructor.configure(config)

    def status(self) -> Mapping[str, str | int | float]:
        """See `Pipeline.status`."""
        return {} if self._reconstructor is None else status(self._reconstructor.inference)

    def close(self) -> None:
        """See `Pipeline.close`."""
        self._reconstructor = None
