# SPDX-License-Identifier: Apache-2.0
"""Parameters of the nodes that belong to no domain, and those every node has. Imports nothing of ROS."""

from __future__ import annotations

from dataclasses import dataclass

from edge_nodes.parameters import parameter


@dataclass(frozen=True)
class CommonConfig:
    """What every node has."""

    diagnostics_period_s: float = parameter(
        1.0, "How often /diagnostics is published", unit="s", minimum=0.1, maximum=60.0
    )
    stale_after_s: float = parameter(
        3.0, "Age of the newest input after which the node reports STALE_INPUT; 0 turns it off", unit="s", minimum=0.0
    )
    always_work: bool = parameter(False, "Work although nobody subscribes to the outputs")


@dataclass(frozen=True)
class BagPlayerConfig:
    """Parameters of bag_player_node."""

    bag: str = parameter("", "Bag to play: a rosbag2 directory or an .mcap file", fixed=True)
    topics: str = parameter("", "Topics whose recorded names differ: points:=/lidar/points ...", fixed=True)
    rate: float = parameter(1.0, "Playback speed; 1 keeps the recorded timing", minimum=0.01, maximum=100.0, fixed=True)
    loop: bool = parameter(False, "Start again at the end; time goes on", fixed=True)
    clock_hz: float = parameter(100.0, "Rate of /clock", unit="Hz", minimum=1.0, maximum=1000.0, fixed=True)
    wait_for_subscribers_s: float = parameter(
        30.0,
        "Longest wait for somebody to subscribe to each of the bag's topics that the graph reads",
        unit="s",
        minimum=0.0,
        fixed=True,
    )
    exit_at_end: bool = parameter(True, "Leave the process when the bag ends", fixed=True)
    linger_s: float = parameter(
        0.0,
        "Time that /clock goes on after the last message, so that answers can finish",
        unit="s",
        minimum=0.0,
        fixed=True,
    )


@dataclass(frozen=True)
class LifecycleManagerConfig:
    """Parameters of lifecycle_manager."""

    autostart: bool = parameter(True, "Bring the nodes to active at start", fixed=True)
    nodes: str = parameter(
        "", "Names of the managed nodes, in the order of their start, separated by spaces", fixed=True
    )
    retry_after_s: float = parameter(2.0, "Wait before a node that failed is tried again", unit="s", minimum=0.1)
    retries: int = parameter(5, "How often a failed node is tried again; -1 for always", minimum=-1)
    transition_timeout_s: float = parameter(
        120.0, "Longest time a transition may take (loading a model happens in one)", unit="s", minimum=1.0
    )
    bond_timeout_s: float = parameter(
        5.0, "A node that does not answer for this long counts as gone; 0 turns the check off", unit="s", minimum=0.0
    )


@dataclass(frozen=True)
class DashboardConfig:
    """Parameters of dashboard_node."""

    host: str = parameter("127.0.0.1", "Address the web server listens on; 0.0.0.0 shows it to the network", fixed=True)
    port: int = parameter(8080, "Port of the web server", minimum=1, maximum=65535, fixed=True)
    max_points: int = parameter(40000, "Points of a cloud that are drawn", minimum=1000, maximum=1000000)
    max_rate_hz: float = parameter(5.0, "How often the view is drawn anew", unit="Hz", minimum=0.1, maximum=30.0)
