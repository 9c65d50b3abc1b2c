# SPDX-License-Identifier: Apache-2.0
"""Turns `graph.py` into a launch description; the files in launch/ are thin calls of `describe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch_ros.actions import Node

from edge_nodes import graph

_BOOLEAN = ("true", "false")
RESPAWN_DELAY_S = 2.0


def arguments(switches: Mapping[str, bool]) -> list[DeclareLaunchArgument]:
    """Return the declared arguments; defaults are those of `graph.Options`.

    Args:
        switches: {part: whether it starts by default} of the parts the user can switch.
    """
    options = graph.Options()
    declared = [
        DeclareLaunchArgument("namespace", default_value=options.namespace, description="Namespace of all nodes"),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value=_text(options.use_sim_time),
            choices=_BOOLEAN,
            description="Take time from /clock; a bag switches it on",
        ),
        DeclareLaunchArgument(
            "config",
            default_value=options.config,
            description="Parameters over the shipped ones: a YAML file with /** keys, or a directory of <node>.yaml",
        ),
        DeclareLaunchArgument(
            "bag", default_value=options.bag, description="Bag to play (rosbag2 directory or .mcap); ends the launch"
        ),
        DeclareLaunchArgument(
            "devices",
            default_value=options.devices,
            description="Devices of segmentation and reconstruction: auto, or e.g. cuda:0,cuda:1 or cpu:0-1,cpu:2-3",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value=options.log_level,
            choices=("debug", "info", "warn", "error", "fatal"),
            description="Log level of all nodes",
        ),
        DeclareLaunchArgument(
            "remap",
            default_value=options.remap,
            description="Names your topics have: points:=/ouster/points odometry:=/odom",
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value=_text(options.autostart),
            choices=_BOOLEAN,
            description="Bring the nodes to active; otherwise call lifecycle_manager/startup, or drive them yourself",
        ),
    ]
    for part, default in switches.items():
        declared.append(
            DeclareLaunchArgument(
                part, default_value=_text(default), choices=_BOOLEAN, description=f"Start the {graph.PARTS[part]}"
            )
        )
    return declared


def describe(switches: Mapping[str, bool], *, fixed: tuple[str, ...] = ()) -> LaunchDescription:
    """Return the launch description of the graph.

    Args:
        switches: parts the user can switch, with their defaults.
        fixed: parts that always start.
    """

    def nodes(context: Any) -> list[Node]:
        values = context.launch_configurations
        on = tuple(part for part in switches if values[part] == "true")
        return actions(
            graph.Options(
                parts=(*fixed, *on),
                namespace=values["namespace"],
                use_sim_time=values["use_sim_time"] == "true",
                config=values["config"],
                bag=values["bag"],
                devices=values["devices"],
                log_level=values["log_level"],
                remap=values["remap"],
                autostart=values["autostart"] == "true",
            )
        )

    return LaunchDescription([*arguments(switches), OpaqueFunction(function=nodes)])


def actions(options: graph.Options) -> list[Node]:
    """Return a launch_ros action for each process of the graph."""
    return [_action(process) for process in graph.plan(options)]


def _action(process: graph.Process) -> Node:
    plays = process.node.part == "bag"
    return Node(
        package=graph.PACKAGE,
        executable=process.node.name,
        name=process.node.name,
        namespace=process.namespace,
        parameters=[*process.parameter_files, dict(process.parameters)],
        remappings=list(process.remappings),
        ros_arguments=["--log-level", process.log_level],
        additional_env=graph.environment(process.node),
        output="screen",
        respawn=not plays,
        respawn_delay=RESPAWN_DELAY_S,
        on_exit=Shutdown(reason="the bag has ended") if plays else None,
    )


def _text(value: bool) -> str:
    return str(value).lower()
