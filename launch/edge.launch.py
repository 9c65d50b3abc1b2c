# SPDX-License-Identifier: Apache-2.0
"""The whole graph: perception, speech, language.

Arguments: ros2 launch edge_nodes edge.launch.py --show-args
"""

from launch import LaunchDescription

from edge_nodes.launching import describe


def generate_launch_description() -> LaunchDescription:
    return describe({"perception": True, "speech": True, "language": True, "microphone": False, "dashboard": False})
