# SPDX-License-Identifier: Apache-2.0
"""Both LiDAR networks and the scene. Arguments: ros2 launch edge_nodes perception.launch.py --show-args."""

from launch import LaunchDescription

from edge_nodes.launching import describe


def generate_launch_description() -> LaunchDescription:
    return describe({"dashboard": False}, fixed=("perception",))
