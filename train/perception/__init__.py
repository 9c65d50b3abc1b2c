# SPDX-License-Identifier: Apache-2.0
"""Simulated LiDAR scenes, training and evaluation of the perception networks."""
