# SPDX-License-Identifier: Apache-2.0
"""Perception, speech and language for a robot's own board, as ROS 2 nodes and as plain Python."""

__version__ = "0.1.0"
