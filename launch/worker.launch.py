# SPDX-License-Identifier: Apache-2.0
"""This board's share of a language model, for the node on another board; see docs/boards.md.

Arguments: ros2 launch edge_nodes worker.launch.py --show-args
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration


def generate_launch_description() -> LaunchDescription:
    options = {
        "shard": ("", "Directory of this board's shard"),
        "master": ("127.0.0.1", "Address of the board with the language node"),
        "port": ("29500", "Port of its store"),
        "memory_budget_mb": ("0", "Most memory of the model; 0: no limit"),
    }
    command = ["edge-nodes", "worker", LaunchConfiguration("shard")]
    for name in ("master", "port", "memory_budget_mb"):
        command += ["--" + name.replace("_", "-"), LaunchConfiguration(name)]
    declared = [DeclareLaunchArgument(n, default_value=v, description=d) for n, (v, d) in options.items()]
    return LaunchDescription([*declared, ExecuteProcess(cmd=command, output="screen", respawn=True, respawn_delay=2.0)])
