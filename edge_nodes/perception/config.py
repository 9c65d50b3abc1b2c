# SPDX-License-Identifier: Apache-2.0
"""Parameters of the perception nodes."""

from __future__ import annotations

from dataclasses import dataclass

from edge_nodes.parameters import group, parameter

CLASSES = ("unknown", "ground", "wall", "vehicle", "person", "obstacle")
"""Names of the class ids in segmentation/labels."""
COLOURS = ((20, 20, 24), (110, 120, 110), (150, 110, 80), (60, 130, 220), (240, 90, 60), (230, 200, 60))
"""RGB of each class in pictures, in the order of `CLASSES`."""
MOTION_TOPICS = ("odometry", "tf", "tf_static")
"""Input topics that tell how the robot moves."""
_MODEL = (
    "name of a model, path of its directory, or a published checkpoint of arXiv 2412.18165: a .pth, .pt or .bin file, "
    "reference:FILE, or reference for the one in the model cache's perception/reference"
)


@dataclass(frozen=True)
class BevConfig:
    """The bird's-eye-view map: a square around the sensor, rows from far ahead to behind, columns from left."""

    range_m: float = parameter(
        32.0,
        "half the map's side; the networks want a multiple of 32 cells",
        unit="m",
        minimum=4.0,
        maximum=100.0,
        fixed=True,
    )
    resolution_m: float = parameter(
        0.25, "side of a cell; the shipped networks learned 0.25", unit="m", minimum=0.05, maximum=1.0, fixed=True
    )
    history: int = parameter(16, "maps a network sees, the newest one included", minimum=1, maximum=64, fixed=True)
    min_height_m: float = parameter(
        0.15, "lower points count as ground", unit="m", minimum=0.0, maximum=1.0, fixed=True
    )
    max_height_m: float = parameter(
        2.2, "higher points do not block the robot", unit="m", minimum=0.3, maximum=5.0, fixed=True
    )
    sensor_height_m: float = parameter(
        0.0,
        "height of the sensor above the ground; 0 estimates the ground in each cloud",
        unit="m",
        minimum=0.0,
        maximum=10.0,
    )
    intensity_full: float = parameter(
        0.0,
        "intensity that a map shows as full, for networks that learned with it; 0 leaves it out, as the shipped "
        "networks learned",
        minimum=0.0,
        fixed=True,
    )
    ego_motion: str = parameter(
        "auto",
        "how older maps and tracks follow the robot's own motion: by TF, by odometry, by matching scans, auto (the "
        "first of these that covers a scan), or not at all; with tf or odometry a scan without a pose is an error",
        choices=("auto", "tf", "odometry", "scan", "none"),
        fixed=True,
    )
    odom_frame: str = parameter("odom", "the frame of TF in which the robot moves without jumps (REP 105)")
    mount_x_m: float = parameter(
        0.0, "the sensor's place ahead of the base that odometry speaks of", unit="m", minimum=-10.0, maximum=10.0
    )
    mount_y_m: float = parameter(0.0, "the same to the left", unit="m", minimum=-10.0, maximum=10.0)
    mount_yaw_deg: float = parameter(
        0.0, "the sensor's heading on the base, positive to the left", unit="deg", minimum=-180.0, maximum=180.0
    )
    max_gap_s: float = parameter(
        1.0, "a longer gap between clouds, or a step back in time, starts the history anew", unit="s", minimum=0.1
    )

    def reads(self, topic: str) -> bool:
        """Return whether a topic of `MOTION_TOPICS` is of use with this `ego_motion`."""
        way = {"odometry": "odometry"}.get(topic, "tf")
        return topic in MOTION_TOPICS and self.ego_motion in ("auto", way)

    @property
    def cells(self) -> int:
        """Cells along a side."""
        return round(2 * self.range_m / self.resolution_m)


@dataclass(frozen=True)
class ReferenceConfig:
    """What a published checkpoint of arXiv 2412.18165 needs to be told."""

    train_statistics: bool = parameter(
        False,
        "a published checkpoint norms each scan with its own statistics, as its notebook did, not with stored ones",
        fixed=True,
    )


@dataclass(frozen=True)
class ReferenceSegmentationConfig(ReferenceConfig):
    """The same for its segmentation network."""

    threshold: float = parameter(
        0.5, "value of a published checkpoint's map from which a cell is labelled obstacle, else unknown"
    )


@dataclass(frozen=True)
class NetworkConfig:
    """What the parameters of both nodes with a network share; the model's default is each node's own."""

    model: str
    device: str = parameter("auto", "auto, cpu, cpu:0-1 (pinned to these cores), cuda or cuda:0", fixed=True)
    threads: int = parameter(1, "CPU threads of the network", minimum=1, maximum=64, fixed=True)
    precision: str = parameter(
        "auto",
        "numbers of the network: auto (bfloat16 on a CPU with instructions for it, else float32), or one of these; "
        "float16 is for GPUs",
        choices=("auto", "float32", "bfloat16", "float16"),
        fixed=True,
    )
    bev: BevConfig = group(BevConfig)
    reference: ReferenceConfig = group(ReferenceConfig)


@dataclass(frozen=True)
class SegmentationConfig(NetworkConfig):
    """Parameters of segmentation_node."""

    model: str = parameter("perception/segmentation", _MODEL, fixed=True)
    mirrored: bool = parameter(
        False,
        "look at each map a second time, left and right exchanged, and take the mean: a little more accurate at twice "
        "the time, for a GPU or a board with cores to spare",
    )
    reference: ReferenceSegmentationConfig = group(ReferenceSegmentationConfig)


@dataclass(frozen=True)
class ReconstructionConfig(NetworkConfig):
    """Parameters of reconstruction_node."""

    model: str = parameter("perception/reconstruction", _MODEL, fixed=True)


@dataclass(frozen=True)
class SceneConfig:
    """Parameters of scene_node."""

    min_cells: int = parameter(2, "smaller clusters of cells are left out", minimum=1, maximum=100)
    min_points: int = parameter(3, "clusters with fewer points are left out", minimum=1, maximum=1000)
    max_objects: int = parameter(40, "objects in an event, nearest first", minimum=1, maximum=500)
    occupied: float = parameter(0.5, "probability from which a cell counts as occupied", minimum=0.05, maximum=0.95)
    robot_width_m: float = parameter(
        0.8, "width of the corridors in which free distance is measured", unit="m", minimum=0.1, maximum=5.0
    )
    robot_radius_m: float = parameter(
        0.5, "cells nearer than this are the robot itself", unit="m", minimum=0.0, maximum=5.0
    )
    alarm_m: float = parameter(
        2.0,
        "a person or something closing in within this distance raises the alarm",
        unit="m",
        minimum=0.0,
        maximum=30.0,
    )
    alarm_s: float = parameter(
        2.5, "something that would arrive within this time raises the alarm", unit="s", minimum=0.0, maximum=30.0
    )
    moving_mps: float = parameter(0.35, "slower things count as standing", unit="m/s", minimum=0.05, maximum=5.0)
    confirm: int = parameter(3, "scans in which a thing must be seen before it is reported", minimum=1, maximum=20)
    forget_s: float = parameter(0.8, "an object unseen for this long is dropped", unit="s", minimum=0.1, maximum=10.0)
    gate_m: float = parameter(1.5, "farthest a detection may lie from its track", unit="m", minimum=0.1, maximum=10.0)
    wait_frames: int = parameter(5, "stamps kept while their other parts are awaited", minimum=1, maximum=50)
    bev: BevConfig = group(BevConfig)


def is_reference(model: str) -> bool:
    """Return whether a node's `model` names a published checkpoint."""
    return model == "reference" or model.startswith("reference:") or model.endswith((".pth", ".pt", ".bin"))
