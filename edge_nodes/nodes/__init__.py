# SPDX-License-Identifier: Apache-2.0
"""The ROS side: one thin file a node; `base` holds what all share."""
