# SPDX-License-Identifier: Apache-2.0
"""Speech recognition, with the microphone unless a bag or another node brings the sound.

Arguments: ros2 launch edge_nodes speech.launch.py --show-args
"""

from launch import LaunchDescription

from edge_nodes.launching import describe


def generate_launch_description() -> LaunchDescription:
    return describe({"microphone": True}, fixed=("speech",))
