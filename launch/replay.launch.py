# SPDX-License-Identifier: Apache-2.0
"""Plays a bag through the graph and ends with it: bag:=FILE.

Arguments: ros2 launch edge_nodes replay.launch.py --show-args
"""

from launch import LaunchDescription

from edge_nodes.launching import describe


def generate_launch_description() -> LaunchDescription:
    return describe({"perception": True, "speech": True, "language": True, "dashboard": False})
