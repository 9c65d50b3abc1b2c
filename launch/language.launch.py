# SPDX-License-Identifier: Apache-2.0
"""The language model alone; it answers language/prompt and what other launches publish.

Arguments: ros2 launch edge_nodes language.launch.py --show-args
"""

from launch import LaunchDescription

from edge_nodes.launching import describe


def generate_launch_description() -> LaunchDescription:
    return describe({"dashboard": False}, fixed=("language",))
