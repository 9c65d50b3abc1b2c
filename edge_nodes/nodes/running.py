# SPDX-License-Identifier: Apache-2.0
"""The `main` of every node: an executor, a clean end, one line for what stops it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.utilities import get_default_context, try_shutdown

from edge_nodes import graph
from edge_nodes.errors import EdgeNodesError
from edge_nodes.nodes.base import EdgeNode

RCLError = rclpy_implementation.RCLError


def make_executor() -> Any:
    """Return the executor that costs least: events need a third of the wait set's CPU time per message."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:  # older distributions
        return SingleThreadedExecutor()
    return EventsExecutor()


def run(make: str | Callable[..., Any], args: list[str] | None = None) -> None:
    """Run a node until it is told to stop; the `main` of every node.

    Args:
        make: the node's name in `graph.NODES`, or a callable that returns the node.
        args: command line, sys.argv by default.
    """
    node = executor = None
    code = 0
    try:
        rclpy.init(args=args)
        node = EdgeNode(graph.NODES[make]) if isinstance(make, str) else make()
        executor = make_executor()
        executor.add_node(node)
        while node.context.ok():  # EventsExecutor.spin() hangs in Jazzy; spin_once does not
            executor.spin_once(timeout_sec=0.5)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (EdgeNodesError, RCLError) as error:
        rclpy.logging.get_logger("edge_nodes").fatal(str(error))
        code = 1
    finally:
        # A terminal and the launch both send SIGINT: the second one must not break the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if executor is not None:
            executor.shutdown()
        if node is not None:
            node.destroy_node()
        # The participant, and with it Fast DDS's shared memory, goes when the last reference to it does.
        node = executor = None
        gc.collect()
        try_shutdown()
        get_default_context().destroy()
    # All of ours is closed; torch's own teardown takes seconds of a busy CPU, and a launch kills after five.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
