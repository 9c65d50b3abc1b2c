# SPDX-License-Identifier: Apache-2.0
"""lifecycle_manager: brings the nodes up in order, watches them and tries a failed one again.

Nodes are configured side by side, as each loads its model in its own process, and activated in the order of the
`nodes` parameter. A node that failed is tried again after `retry_after_s` and does not hold the others up. A node
that stops answering, or was restarted, is brought up again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.msg import State as Lifecycle
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger

from edge_nodes import graph, parameters
from edge_nodes.errors import ParameterError
from edge_nodes.nodes.config import LifecycleManagerConfig
from edge_nodes.nodes.declared import declare
from edge_nodes.nodes.running import run

TICK_S = 0.1
QUESTION_S = 1.0
_CONFIGURE, _ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
_DEACTIVATE, _CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
_NAMES = {_CONFIGURE: "configure", _ACTIVATE: "activate", _DEACTIVATE: "deactivate", _CLEANUP: "clean up"}
_REACHES = {
    _CONFIGURE: Lifecycle.PRIMARY_STATE_INACTIVE,
    _ACTIVATE: Lifecycle.PRIMARY_STATE_ACTIVE,
    _DEACTIVATE: Lifecycle.PRIMARY_STATE_INACTIVE,
    _CLEANUP: Lifecycle.PRIMARY_STATE_UNCONFIGURED,
}


@dataclass
class Managed:
    """One managed node as the manager knows it.

    Attributes:
        name: node name, relative to the manager's namespace.
        state: id of its last known lifecycle state; UNKNOWN before the first answer or once it is lost.
        failures: failed transitions since it was last active.
        call, transition, deadline: the request under way, its transition (0 for a question) and when it is given up.
        not_before: earliest time of the next request.
        next_question: when its state is asked for again.
    """

    name: str
    get_state: Any
    change_state: Any
    state: int = Lifecycle.PRIMARY_STATE_UNKNOWN
    failures: int = 0
    call: Any = None
    transition: int = 0
    deadline: float = 0.0
    not_before: float = 0.0
    next_question: float = 0.0


class LifecycleManager(Node):
    """Drives the lifecycle of the graph's nodes; see the module's docstring.

    Services: `~/startup` and `~/shutdown` (std_srvs/Trigger) say what is wanted from now on.
    """

    def __init__(self, **node_options: Any) -> None:
        super().__init__("lifecycle_manager", **node_options)
        values = {s.name: declare(self, s) for s in graph.NODES["lifecycle_manager"].specs()}
        own = {s.name for s in parameters.specs(LifecycleManagerConfig)}
        self.config = parameters.replace(LifecycleManagerConfig(), {n: v for n, v in values.items() if n in own})
        if not self.config.nodes.split():
            remedy = "Name the nodes to manage, e.g. -p nodes:='speech_node language_node'."
            raise ParameterError("lifecycle_manager has no nodes to manage", remedy=remedy)
        self.wanted_active = self.config.autostart
        self.managed = [
            Managed(
                name,
                self.create_client(GetState, f"{name}/get_state"),
                self.create_client(ChangeState, f"{name}/change_state"),
            )
            for name in self.config.nodes.split()
        ]
        self._announced = False
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        clock = Clock(clock_type=ClockType.STEADY_TIME)  # /clock may stand still until the graph is up
        self._tick_timer = self.create_timer(TICK_S, self.tick, clock=clock)
        period = float(values["diagnostics_period_s"])
        self._diagnostics_timer = self.create_timer(period, self.publish_diagnostics, clock=clock)
        self.create_service(Trigger, "~/startup", lambda _, response: self._want(True, response))
        self.create_service(Trigger, "~/shutdown", lambda _, response: self._want(False, response))

    def _want(self, active: bool, response: Any) -> Any:
        self.wanted_active = active
        self._announced = False
        for node in self.managed:
            node.failures = 0
        response.success, response.message = True, "bringing the nodes up" if active else "taking the nodes down"
        return response

    def tick(self) -> None:
        """Look at each node and make its next request."""
        for node in self.managed:
            if node.call is not None:
                self._finish(node)
            if node.call is None and time.monotonic() >= node.not_before:
                self._next(node)
        active = [n.state == Lifecycle.PRIMARY_STATE_ACTIVE for n in self.managed]
        if self.wanted_active and all(active) and not self._announced:
            self._announced = True
            self.get_logger().info(f"all {len(active)} nodes are active")

    def _next(self, node: Managed) -> None:
        transition = self._due(node)
        if transition:
            request = ChangeState.Request()
            request.transition.id = transition
            self._request(node, node.change_state, request, transition, self.config.transition_timeout_s)
        elif node.state == Lifecycle.PRIMARY_STATE_UNKNOWN or time.monotonic() >= node.next_question:
            timeout = self.config.bond_timeout_s or self.config.transition_timeout_s
            self._request(node, node.get_state, GetState.Request(), 0, timeout)

    def _due(self, node: Managed) -> int:
        given_up = 0 <= self.config.retries < node.failures
        if self.wanted_active and not given_up:
            if node.state == Lifecycle.PRIMARY_STATE_UNCONFIGURED:
                return _CONFIGURE
            if node.state == Lifecycle.PRIMARY_STATE_INACTIVE and self._earlier_settled(node):
                return _ACTIVATE
        if not self.wanted_active:
            if node.state == Lifecycle.PRIMARY_STATE_ACTIVE and self._later_inactive(node):
                return _DEACTIVATE
            if node.state == Lifecycle.PRIMARY_STATE_INACTIVE:
                return _CLEANUP
        return 0

    def _earlier_settled(self, node: Managed) -> bool:
        earlier = self.managed[: self.managed.index(node)]
        return all(other.state == Lifecycle.PRIMARY_STATE_ACTIVE or other.failures > 0 for other in earlier)

    def _later_inactive(self, node: Managed) -> bool:
        later = self.managed[self.managed.index(node) + 1 :]
        return all(other.state != Lifecycle.PRIMARY_STATE_ACTIVE for other in later)

    def _request(self, node: Managed, client: Any, request: Any, transition: int, timeout_s: float) -> None:
        if not client.service_is_ready():
            if node.state != Lifecycle.PRIMARY_STATE_UNKNOWN:
                self._lost(node, "its services are gone")
            node.not_before = time.monotonic() + TICK_S
            return
        node.call, node.transition = client.call_async(request), transition
        node.deadline = time.monotonic() + timeout_s

    def _finish(self, node: Managed) -> None:
        now = time.monotonic()
        if not node.call.done():
            if now > node.deadline:
                client = node.change_state if node.transition else node.get_state
                client.remove_pending_request(node.call)
                self._lost(node, f"no answer to {_NAMES.get(node.transition, 'a question for its state')} in time")
            return
        answer, node.call = node.call.result(), None
        if node.transition == 0:
            was, node.state = node.state, answer.current_state.id
            if was == Lifecycle.PRIMARY_STATE_ACTIVE != node.state:
                self._announced = False
                self.get_logger().warning(f"{node.name} is {answer.current_state.label} and no longer active")
            node.next_question = now + QUESTION_S if self.config.bond_timeout_s else math.inf
            return
        name = _NAMES[node.transition]
        node.state = _REACHES[node.transition] if answer.success else Lifecycle.PRIMARY_STATE_UNKNOWN
        if answer.success:
            self.get_logger().info(f"{node.name}: {name} done")
            if node.transition == _ACTIVATE:
                node.failures = 0
            return
        node.failures += 1
        node.not_before = now + self.config.retry_after_s
        left = self.config.retries - node.failures
        again = f"again in {self.config.retry_after_s:g} s" if left >= 0 or self.config.retries < 0 else "given up"
        self.get_logger().error(f"{node.name}: {name} failed ({again}); its log and /diagnostics say why")

    def _lost(self, node: Managed, why: str) -> None:
        self.get_logger().error(f"{node.name} is lost: {why}")
        self._announced = False
        node.call, node.state = None, Lifecycle.PRIMARY_STATE_UNKNOWN
        node.not_before = time.monotonic() + self.config.retry_after_s

    def publish_diagnostics(self) -> None:
        """Publish which nodes are up."""
        up = [n for n in self.managed if n.state == Lifecycle.PRIMARY_STATE_ACTIVE]
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if len(up) == len(self.managed) else DiagnosticStatus.WARN,
            name=self.get_fully_qualified_name(),
            message=f"{len(up)} of {len(self.managed)} nodes active",
            hardware_id="lifecycle_manager",
        )
        status.values = [
            KeyValue(key=n.name, value=f"state {n.state}, {n.failures} failed transitions") for n in self.managed
        ]
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def main() -> None:
    """Run the node."""
    run(LifecycleManager)


if __name__ == "__main__":
    main()
