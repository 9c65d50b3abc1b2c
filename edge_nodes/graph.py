# SPDX-License-Identifier: Apache-2.0
"""The robot's graph as data: nodes, topics, parameters, devices. Imports neither ROS nor torch.

The launch files turn it into launch_ros actions, the demo into processes, the docs into tables.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_nodes import parameters
from edge_nodes.errors import ParameterError
from edge_nodes.nodes.config import CommonConfig
from edge_nodes.perception.config import MOTION_TOPICS

PACKAGE = "edge_nodes"


@dataclass(frozen=True)
class Topic:
    """A topic of the graph.

    Attributes:
        type: ROS message type, package/Name.
        doc: what it carries.
        depth: queue depth of its endpoints.
        sensor: a sensor stream: subscribed best effort, newest wins, so that it matches every driver.
        optional: an input that a node can do without: nobody waits for it.
        absolute: its name is not moved by a namespace, only by a remap.
        latched: late subscribers get the last messages (transient local).
        extra: its type may not be installed; then it is left out.
    """

    type: str
    doc: str
    depth: int = 10
    sensor: bool = False
    optional: bool = False
    absolute: bool = False
    latched: bool = False
    extra: bool = False

    def name(self, topic: str) -> str:
        """Return the name that this topic, called `topic` in `TOPICS`, has in ROS."""
        return f"/{topic}" if self.absolute else topic


TOPICS: Mapping[str, Topic] = {
    "points": Topic(
        "sensor_msgs/PointCloud2", "LiDAR scan in the sensor's frame: x ahead, y left, z up", 1, sensor=True
    ),
    "odometry": Topic("nav_msgs/Odometry", "the base's pose in the odometry frame", 50, sensor=True, optional=True),
    "tf": Topic("tf2_msgs/TFMessage", "frames that move (REP 105)", 100, optional=True, absolute=True, extra=True),
    "tf_static": Topic(
        "tf2_msgs/TFMessage",
        "frames that stand: where the sensor is on the robot",
        100,
        optional=True,
        absolute=True,
        latched=True,
        extra=True,
    ),
    "audio": Topic("std_msgs/Int16MultiArray", "PCM samples, 16 kHz mono", 100),
    "segmentation/labels": Topic("sensor_msgs/Image", "mono8, class id of each cell; ahead is up, left is left", 2),
    "segmentation/grid": Topic("nav_msgs/OccupancyGrid", "obstacles by class as a ROS grid, 0..100, -1 unknown", 2),
    "reconstruction/occupancy": Topic("sensor_msgs/Image", "32FC1, probability that a cell is occupied now", 2),
    "reconstruction/forecast": Topic("sensor_msgs/Image", "32FC1, probability that a cell is occupied in 0.5 s", 2),
    "scene/objects": Topic("visualization_msgs/MarkerArray", "tracked objects as boxes with a caption", 2),
    "scene/text": Topic("std_msgs/String", "the scene in a few short sentences"),
    "scene/event": Topic("std_msgs/String", "the scene as JSON (docs/events.md)"),
    "speech/partial": Topic("std_msgs/String", "words so far, while the person speaks"),
    "speech/text": Topic("std_msgs/String", "the final words of an utterance, again if it went on; may be empty"),
    "speech/event": Topic("std_msgs/String", "speech start, partial and final as JSON (docs/events.md)"),
    "language/prompt": Topic("std_msgs/String", "a question in writing"),
    "language/narrate": Topic("std_msgs/Empty", "asks for the scene in words, once"),
    "language/token": Topic("std_msgs/String", "the answer, piece by piece, as it is generated", 200),
    "language/reply": Topic("std_msgs/String", "the whole answer"),
    "language/event": Topic("std_msgs/String", "how the answer came about as JSON (docs/events.md)"),
}


@dataclass(frozen=True)
class Node:
    """A node of the graph; its executable has the node's name.

    Attributes:
        name: node and executable name; the module is edge_nodes.nodes.<name>.
        doc: one sentence.
        part: the launch switch it belongs to.
        config: "module:Class" of its configuration dataclass.
        pipeline: "module:Class" of its pipeline, empty for nodes with a class of their own.
        inputs, outputs: relative topic names.
        services: {relative name of a std_srvs/Trigger service: what it does}; see `Pipeline.call`.
        managed: whether the lifecycle manager drives it.
    """

    name: str
    doc: str
    part: str
    config: str
    pipeline: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    services: Mapping[str, str] = field(default_factory=dict)
    managed: bool = True

    def config_type(self) -> type:
        """Return the configuration dataclass."""
        found: type = load(self.config)
        return found

    def specs(self) -> Iterator[parameters.Spec]:
        """Yield every parameter of the node: its own, then those all nodes have."""
        yield from parameters.specs(self.config_type())
        yield from parameters.specs(CommonConfig)
        for topic in self.inputs:
            if TOPICS[topic].sensor:
                yield parameters.Spec(
                    name=f"{topic}.reliability",
                    type=str,
                    default="best_effort",
                    doc=f"QoS reliability of the subscription to {topic}",
                    choices=("best_effort", "reliable"),
                    fixed=True,
                )


def load(path: str) -> Any:
    """Return the object named "module:Name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


_LARGE = ("sensor_msgs/PointCloud2", "sensor_msgs/Image", "nav_msgs/OccupancyGrid")

_PERCEPTION = ("segmentation/labels", "reconstruction/occupancy", "reconstruction/forecast")
_SHOWN = (
    "points",
    "segmentation/labels",
    "reconstruction/forecast",
    "scene/objects",
    "scene/text",
    "speech/partial",
    "speech/text",
    "language/token",
    "language/reply",
)
NODES: Mapping[str, Node] = {
    node.name: node
    for node in (
        Node(
            "segmentation_node",
            "Says what each cell of the bird's-eye-view map is.",
            "perception",
            "edge_nodes.perception.config:SegmentationConfig",
            "edge_nodes.pipelines.segmentation:SegmentationPipeline",
            ("points", *MOTION_TOPICS),
            ("segmentation/labels", "segmentation/grid"),
        ),
        Node(
            "reconstruction_node",
            "Says which cells are occupied, now and in half a second.",
            "perception",
            "edge_nodes.perception.config:ReconstructionConfig",
            "edge_nodes.pipelines.reconstruction:ReconstructionPipeline",
            ("points", *MOTION_TOPICS),
            ("reconstruction/occupancy", "reconstruction/forecast"),
        ),
        Node(
            "scene_node",
            "Joins both networks' outputs by stamp into tracked objects and a description.",
            "perception",
            "edge_nodes.perception.config:SceneConfig",
            "edge_nodes.pipelines.scene:ScenePipeline",
            (*_PERCEPTION, "points", *MOTION_TOPICS),
            ("scene/objects", "scene/text", "scene/event"),
        ),
        Node(
            "microphone_node",
            "Captures 16 kHz mono sound.",
            "microphone",
            "edge_nodes.speech.config:MicrophoneConfig",
            outputs=("audio",),
        ),
        Node(
            "speech_node",
            "Turns speech into words while the person still speaks.",
            "speech",
            "edge_nodes.speech.config:SpeechConfig",
            "edge_nodes.pipelines.speech:SpeechPipeline",
            ("audio",),
            ("speech/partial", "speech/text", "speech/event"),
        ),
        Node(
            "language_node",
            "Answers questions about the scene.",
            "language",
            "edge_nodes.language.config:LanguageConfig",
            "edge_nodes.pipelines.language:LanguagePipeline",
            ("scene/event", "speech/event", "language/prompt", "language/narrate"),
            ("language/token", "language/reply", "language/event"),
            {
                "language/cancel": "Stops the running answer and those that wait.",
                "language/reset": "Does that, and forgets the scene and the kept part of the prompt.",
            },
        ),
        Node(
            "dashboard_node",
            "Shows everything live in the browser.",
            "dashboard",
            "edge_nodes.nodes.config:DashboardConfig",
            inputs=_SHOWN,
        ),
        Node(
            "bag_player_node",
            "Plays a bag: its topics and /clock.",
            "bag",
            "edge_nodes.nodes.config:BagPlayerConfig",
            outputs=("points", *MOTION_TOPICS, "audio", "language/prompt"),
        ),
        Node(
            "lifecycle_manager",
            "Brings the nodes up in order, watches them and tries a failed one again.",
            "manager",
            "edge_nodes.nodes.config:LifecycleManagerConfig",
            managed=False,
        ),
    )
}

PARTS = {
    "perception": "segmentation, reconstruction and scene nodes",
    "speech": "speech node",
    "language": "language node",
    "microphone": "microphone node (a bag brings its own sound)",
    "dashboard": "live view in the browser",
}


@dataclass(frozen=True)
class Options:
    """How the graph is started; the launch arguments and the demo's options.

    Attributes:
        parts: parts to start, from `PARTS`.
        namespace: namespace of all nodes, may be empty.
        use_sim_time: take time from /clock.
        config: a YAML file read after the shipped ones, or a directory with <node>.yaml files.
        bag: a bag to play, or empty.
        devices: "auto", or the devices of segmentation and reconstruction separated by a comma.
        log_level: debug, info, warn, error.
        remap: names of topics elsewhere, "points:=/ouster/points odometry:=/odom".
        autostart: whether the lifecycle manager brings the nodes up by itself.
        overrides: {node name: {parameter: value}}, strongest of all.
    """

    parts: tuple[str, ...] = ("perception", "speech", "language")
    namespace: str = ""
    use_sim_time: bool = False
    config: str = ""
    bag: str = ""
    devices: str = "auto"
    log_level: str = "info"
    remap: str = ""
    autostart: bool = True
    overrides: Mapping[str, Mapping[str, parameters.Scalar]] = field(default_factory=dict)


@dataclass(frozen=True)
class Process:
    """One process to start: a node with its parameters."""

    node: Node
    namespace: str
    parameter_files: tuple[str, ...]
    parameters: Mapping[str, parameters.Scalar]
    log_level: str
    remappings: tuple[tuple[str, str], ...] = ()

    def command(self) -> list[str]:
        """Return the command line that starts it without `ros2 launch`."""
        args = [sys.executable, "-m", f"{PACKAGE}.nodes.{self.node.name}", "--ros-args"]
        if self.namespace:
            args += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for name, elsewhere in self.remappings:
            args += ["-r", f"{name}:={elsewhere}"]
        for file in self.parameter_files:
            args += ["--params-file", file]
        for name, value in self.parameters.items():
            args += ["-p", f"{name}:={_yaml(value)}"]
        return [*args, "--log-level", self.log_level]


def plan(options: Options) -> list[Process]:
    """Return the processes of the graph in the order in which they become active.

    Raises:
        ParameterError: an unknown part, `devices` that are not two, or a remap of no topic.
    """
    remappings = tuple(_remappings(options.remap))
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        raise ParameterError("unknown part", got=sorted(unknown), expected="some of " + ", ".join(PARTS))
    parts = {*options.parts, "manager"} | ({"bag"} if options.bag else set())
    chosen = [node for node in NODES.values() if node.part in parts]
    managed = " ".join(node.name for node in chosen if node.managed)
    own: dict[str, dict[str, parameters.Scalar]] = {
        "lifecycle_manager": {"nodes": managed, "autostart": options.autostart},
        "bag_player_node": {"bag": options.bag},
    }
    if "perception" in parts:
        first, second = devices(options.devices)
        own["segmentation_node"] = {"device": first}
        own["reconstruction_node"] = {"device": second}
    sim = options.use_sim_time or bool(options.bag)
    return [
        Process(
            node,
            options.namespace,
            tuple(parameter_files(node, options.config)),
            {
                "use_sim_time": sim and node.name != "bag_player_node",
                **own.get(node.name, {}),
                **options.overrides.get(node.name, {}),
            },
            options.log_level,
            remappings,
        )
        for node in chosen
    ]


def _remappings(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of "topic:=name topic:=name"."""
    for word in text.split():
        topic, arrow, name = word.partition(":=")
        if not arrow or not name or topic.lstrip("/") not in TOPICS:
            raise ParameterError(
                "a remap names no topic of the graph", got=word, expected="topic:=name, one of " + ", ".join(TOPICS)
            )
        yield TOPICS[topic.lstrip("/")].name(topic.lstrip("/")), name


def parameter_files(node: Node, config: str = "") -> Iterator[str]:
    """Yield the YAML files a node reads, weakest first."""
    yield str(share_dir() / "config" / f"{node.name}.yaml")
    if config:
        path = Path(config).expanduser().resolve()
        if path.is_dir():
            if (path / f"{node.name}.yaml").is_file():
                yield str(path / f"{node.name}.yaml")
        elif path.is_file():
            yield str(path)
        else:
            raise ParameterError(
                "no such configuration", got=config, expected="a YAML file or a directory of <node>.yaml"
            )


def share_dir() -> Path:
    """Return the directory that holds config/ and launch/: the source tree, or the installed share directory."""
    source = Path(__file__).resolve().parent.parent
    if (source / "config").is_dir() and (source / "package.xml").is_file():
        return source
    for prefix in (*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix):
        path = Path(prefix) / "share" / PACKAGE
        if prefix and path.is_dir():
            return path
    raise ParameterError(
        "the package's share directory was not found", remedy="Source install/setup.bash, or install with pip."
    )


def devices(wanted: str) -> tuple[str, str]:
    """Return the devices of segmentation and reconstruction.

    Args:
        wanted: "auto" (two GPUs, else one for both, else halves of the CPU cores), or "first,second".

    Raises:
        ParameterError: not two devices.
    """
    if wanted == "auto":
        gpus = gpu_count()
        if gpus:
            return "cuda:0", f"cuda:{min(1, gpus - 1)}"
        cores = sorted(os.sched_getaffinity(0))
        half = len(cores) // 2
        return ("cpu", "cpu") if not half else (_pin(cores[:half]), _pin(cores[half:]))
    pair = tuple(part.strip() for part in wanted.split(","))
    if len(pair) != 2 or not all(pair):
        raise ParameterError("devices must name two", got=wanted, expected="auto, or e.g. cuda:0,cuda:1 or cpu:0,cpu:1")
    return pair[0], pair[1]


def gpu_count() -> int:
    """Return the number of NVIDIA GPUs the driver shows; costs no import of torch."""
    path = Path("/proc/driver/nvidia/gpus")
    return len(list(path.iterdir())) if path.is_dir() else 0


def _pin(cores: Sequence[int]) -> str:
    contiguous = cores[-1] - cores[0] == len(cores) - 1
    if not contiguous:
        return "cpu"
    return f"cpu:{cores[0]}" if len(cores) == 1 else f"cpu:{cores[0]}-{cores[-1]}"


def _yaml(value: parameters.Scalar) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def environment(node: Node | None = None) -> dict[str, str]:
    """Return the environment variables a process of the graph needs beside the inherited ones.

    The Fast DDS profile gives shared memory room for whole clouds, and less to a node that has to do with neither
    clouds nor images: its segment is resident memory. Both names, as distributions differ.

    Args:
        node: the process's node; None for any.
    """
    large = node is None or any(TOPICS[topic].type in _LARGE for topic in (*node.inputs, *node.outputs))
    profile = str(share_dir() / "config" / ("fastdds.xml" if large else "fastdds_small.xml"))
    env = dict.fromkeys(("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"), profile)
    return {name: value for name, value in env.items() if name not in os.environ}
