# SPDX-License-Identifier: Apache-2.0
"""What each node does to its messages; no ROS imports, so that replay runs the same code."""
