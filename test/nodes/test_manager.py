# SPDX-License-Identifier: Apache-2.0
"""The lifecycle manager with nodes in this process."""

from __future__ import annotations

import pytest
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from edge_nodes.errors import ParameterError
from edge_nodes.nodes.lifecycle_manager import LifecycleManager


class Worker(LifecycleNode):
    """Fails its first `failures` configurations and notes the order of activation."""

    def __init__(self, name, log, failures=0, **options):
        super().__init__(name, **options)
        self.log, self.failures = log, failures

    def on_configure(self, state):
        if self.failures:
            self.failures -= 1
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state):
        self.log.append(self.get_name())
        return super().on_activate(state)


def manager(world, nodes, **parameters):
    values = {"nodes": nodes, "retry_after_s": 0.1, **parameters}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    return world.add(LifecycleManager(context=world.context, parameter_overrides=overrides))


def test_brings_up_in_order_and_takes_down(world):
    log = []
    for name in ("third", "first", "second"):
        world.add(Worker(name, log, context=world.context))
    manager(world, "first second third")
    world.wait(lambda: log == ["first", "second", "third"], what="activation in order")
    assert world.call(Trigger, "lifecycle_manager/shutdown", Trigger.Request()).success
    world.wait(lambda: world.state("first") == "unconfigured", what="the nodes to come down")
    assert world.call(Trigger, "lifecycle_manager/startup", Trigger.Request()).success
    world.wait(lambda: log == ["first", "second", "third"] * 2, what="activation once more")


def test_a_failed_node_is_tried_again_and_holds_nobody_up(world):
    log = []
    world.add(Worker("sick", log, failures=2, context=world.context))
    world.add(Worker("well", log, context=world.context))
    boss = manager(world, "sick well", retry_after_s=0.5)
    world.wait(lambda: log == ["well", "sick"], what="both to be active")
    world.wait(lambda: boss.managed[0].failures == 0, what="the failures to be forgiven")


def test_gives_up_after_the_retries(world):
    log = []
    world.add(Worker("hopeless", log, failures=99, context=world.context))
    boss = manager(world, "hopeless", retries=1)
    world.wait(lambda: boss.managed[0].failures == 2, what="two failures")
    assert log == []


def test_a_node_that_was_deactivated_is_brought_back(world):
    log = []
    worker = world.add(Worker("worker", log, context=world.context))
    manager(world, "worker")
    world.wait(lambda: log == ["worker"], what="activation")
    assert world.change("worker", "deactivate")
    world.wait(lambda: log == ["worker"] * 2, what="activation once more")
    assert worker.failures == 0


def test_waits_for_startup_without_autostart(world):
    log = []
    world.add(Worker("worker", log, context=world.context))
    manager(world, "worker", autostart=False)
    assert world.state("worker") == "unconfigured"
    world.call(Trigger, "lifecycle_manager/startup", Trigger.Request())
    world.wait(lambda: log == ["worker"], what="activation")


def test_no_nodes_is_one_clear_error(world):
    with pytest.raises(ParameterError, match="no nodes"):
        LifecycleManager(context=world.context)
