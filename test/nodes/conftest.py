# SPDX-License-Identifier: Apache-2.0
"""Nodes over a real DDS on localhost, each test process in a domain of its own."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs the [ros] extra or a ROS distribution")
domain_coordinator = pytest.importorskip("domain_coordinator")


@pytest.fixture(scope="session", autouse=True)
def domain():
    """A DDS domain nobody else uses, on this machine only."""
    from edge_nodes import graph

    with domain_coordinator.domain_id() as number:
        os.environ["ROS_DOMAIN_ID"] = str(number)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ.update(graph.environment())
        yield number


class World:
    """An rclpy context with an executor spinning in a thread."""

    def __init__(self):
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes = []
        self.tester = self.add(rclpy.create_node("tester", context=self.context))
        self.changed = threading.Condition()
        self.received = {}
        self.clients = {}
        self.stopping = False
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()

    def _spin(self):
        from rclpy.executors import ExternalShutdownException

        try:
            while not self.stopping:
                self.executor.spin_once(timeout_sec=0.1)
                with self.changed:
                    self.changed.notify_all()
        except ExternalShutdownException:
            pass

    def add(self, node):
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def wait(self, condition, timeout_s=20.0, what="the condition"):
        """Wait until `condition()` is true; events of the executor wake it."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not (value := condition()):
                left = deadline - time.monotonic()
                assert left > 0, f"{what} did not come true in {timeout_s} s"
                self.changed.wait(min(left, 0.2))
        return value

    def collect(self, kind, topic, qos=10):
        """Subscribe; return the list that messages are added to."""
        messages = self.received.setdefault(topic, [])
        self.tester.create_subscription(kind, topic, messages.append, qos)
        return messages

    def call(self, kind, name, request, timeout_s=30.0):
        client = self.client(kind, name, timeout_s)
        future = client.call_async(request)
        self.wait(future.done, timeout_s, f"an answer of {name}")
        return future.result()

    def client(self, kind, name, timeout_s):
        """One client a service, as each new one must be discovered."""
        if name not in self.clients:
            self.clients[name] = self.tester.create_client(kind, name)
        assert self.clients[name].wait_for_service(timeout_s), f"no service {name} in {timeout_s} s; {self.seen(name)}"
        return self.clients[name]

    def seen(self, service):
        """Return who takes part in a service; Fast DDS calls it ready only if as many read requests as answer."""
        node = self.tester
        ends = node.get_publishers_info_by_topic, node.get_subscriptions_info_by_topic
        topics = f"rr/{service}Reply", f"rq/{service}Request"
        answer, read = ([e.node_name for e in of(t, no_mangle=True)] for of, t in zip(ends, topics, strict=True))
        return f"answered by {answer}, read by {read}, nodes {node.get_node_names()}, spun: {self.thread.is_alive()}"

    def change(self, node, transition):
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.id = getattr(Transition, f"TRANSITION_{transition.upper()}")
        return self.call(ChangeState, f"{node}/change_state", request).success

    def state(self, node):
        from lifecycle_msgs.srv import GetState

        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label

    def close(self):
        if self.stopping:
            return
        self.stopping = True
        self.thread.join(10)
        self.executor.shutdown()
        for node in self.nodes:
            node.destroy_node()
        rclpy.shutdown(context=self.context)
        # Nodes and contexts refer to each other: until collected, their participant answers the next test's calls.
        del node
        self.nodes, self.tester, self.clients, self.received, self.executor = [], None, {}, {}, None
        while gc.collect():  # a second time: the executor's generators are closed in the first
            pass


@pytest.fixture
def world():
    """A running context with a node to test from."""
    world = World()
    yield world
    world.close()
