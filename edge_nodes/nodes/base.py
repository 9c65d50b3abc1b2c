# SPDX-License-Identifier: Apache-2.0
"""What every node shares: lifecycle, parameters, QoS, one worker thread, diagnostics.

A node is its entry in `graph.py` plus a `Pipeline`. Callbacks only queue; the pipeline runs in one worker thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, cast

import psutil
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from std_srvs.srv import Trigger

from edge_nodes import graph, parameters
from edge_nodes.errors import EdgeNodesError, ParameterError, State
from edge_nodes.nodes.config import CommonConfig
from edge_nodes.nodes.declared import declare
from edge_nodes.nodes.inbox import Inbox
from edge_nodes.nodes.messages import build, installed, message_type
from edge_nodes.nodes.progress import Progress
from edge_nodes.nodes.statistics import DAY_S, Statistics
from edge_nodes.pipeline import Output, Pipeline, stamp_ns

ERROR_SHOWN_S = 5.0
STOP_TIMEOUT_S = 1.5
OVERLOAD_AT = 4

_LEVELS = {
    State.OK: DiagnosticStatus.OK,
    State.BAD_INPUT: DiagnosticStatus.WARN,
    State.QOS: DiagnosticStatus.WARN,
    State.STALE_INPUT: DiagnosticStatus.WARN,
    State.NO_TF: DiagnosticStatus.WARN,
    State.OVERLOADED: DiagnosticStatus.WARN,
}


class Queued(NamedTuple):
    """A message that waits: still serialized, or already read because the pipeline wanted to see it at once."""

    message: Any
    received_ns: int
    queued_s: float  # on the monotonic clock, which a bag's pace does not change


class EdgeNode(LifecycleNode):
    """A lifecycle node that runs one pipeline.

    Args:
        spec: the node's entry in `graph.NODES`.
        node_options: passed on to rclpy (context, parameter_overrides, namespace, ...).

    Raises:
        ParameterError: an initial parameter is of the wrong type or out of range.
    """

    def __init__(self, spec: graph.Node, **node_options: Any) -> None:
        super().__init__(spec.name, **node_options)
        self.spec = spec
        self._specs = {s.name: s for s in spec.specs()}
        for parameter in self._specs.values():
            declare(self, parameter)
        self.config: Any = None
        self.common = CommonConfig()
        self.pipeline: Pipeline[Any] | None = None
        self.statistics = Statistics()
        self._inbox: Inbox[Queued] | None = None
        self._worker: threading.Thread | None = None
        self._reader_subscriptions: list[Any] = []
        self._output_publishers: dict[str, Any] = {}
        self._trigger_services: list[Any] = []
        self._changed_config: Any = None
        self._error: tuple[float, State, str] | None = None
        self._fatal: tuple[State, str] | None = None
        self._qos_problem = ""
        self._idle = False
        self._lifecycle = "unconfigured"
        self._previous_counts: dict[str, int] = {}
        self._psutil = psutil.Process()
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Wall time: a node must report itself while /clock stands still.
        self._diagnostics_timer = self.create_timer(
            float(self._value("diagnostics_period_s")),
            self.publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    # -- parameters ----------------------------------------------------------------------------------------------

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        for parameter in changed:
            spec = self._specs.get(parameter.name)
            if spec is None:
                continue
            try:
                spec.check(parameter.value)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
            if spec.fixed and self._lifecycle != "unconfigured":
                reason = f"{parameter.name} can change only while unconfigured: deactivate and clean up the node first"
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _take_parameters(self, changed: list[Parameter]) -> None:
        if self.config is None or not any(p.name in self._specs for p in changed):
            return
        self.config, self.common = self._read_config()
        self._changed_config = self.config

    def _read_config(self) -> tuple[Any, CommonConfig]:
        config_type = self.spec.config_type()
        own = {s.name: self._value(s.name) for s in parameters.specs(config_type)}
        common = {s.name: self._value(s.name) for s in parameters.specs(CommonConfig)}
        return parameters.replace(config_type(), own), parameters.replace(CommonConfig(), common)

    # -- lifecycle -----------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the models and create the publishers."""
        self._fatal = None
        try:
            self.config, self.common = self._read_config()
            self.pipeline = self.make_pipeline()
            with Progress(self.get_logger().info) as progress:
                if self.pipeline is not None:
                    self.pipeline.load(progress)
                self.load(progress)
        except EdgeNodesError as error:
            return self._failed(error.state, str(error))
        except MemoryError as error:
            return self._failed(State.OUT_OF_MEMORY, f"not enough memory to load the model: {error}")
        except Exception as error:  # noqa: BLE001  reported as a failed transition, with its state
            return self._failed(State.MODEL_BAD, f"configuring failed: {type(error).__name__}: {error}")
        for topic in filter(installed, self.spec.outputs):
            self._output_publishers[topic] = self._make_publisher(topic)
        self._trigger_services = [self._make_service(name) for name in self.spec.services]
        self._lifecycle = "inactive"
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker."""
        limits = {topic: graph.TOPICS[topic].depth for topic in self.spec.inputs}
        self._inbox = Inbox(limits)
        result = super().on_activate(state)
        self._lifecycle = "active"
        if self.pipeline is not None:
            self._worker = threading.Thread(target=self._work, args=(self._inbox,), name="worker", daemon=True)
            self._worker.start()
        self.start()
        self._reader_subscriptions = self.subscribe()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker and drop what waits."""
        self._stop()
        self._lifecycle = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models."""
        self._release()
        self._lifecycle = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        self._stop()
        self._release()
        self._lifecycle = "finalized"
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node may be configured again."""
        self._stop()
        self._release()
        self._lifecycle = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def make_pipeline(self) -> Pipeline[Any] | None:
        """Return the node's pipeline, None for a node with a class of its own."""
        return graph.load(self.spec.pipeline)(self.config) if self.spec.pipeline else None

    def load(self, progress: Callable[[str], None]) -> None:
        """Prepare a node that has no pipeline; called when configured."""

    def start(self) -> None:
        """Start a node that has no pipeline; called when activated."""

    def stop(self) -> None:
        """Stop what `start` started; must return within a second."""

    def take(self, topic: str, data: bytes, received_ns: int) -> None:
        """Take a serialized message in a node that has no pipeline; called from the executor."""

    def _failed(self, state: State, text: str) -> TransitionCallbackReturn:
        self._fatal = (state, text)
        self.get_logger().error(f"{state.value}: {text}")
        self._release()
        self.publish_diagnostics()
        return TransitionCallbackReturn.FAILURE

    def _stop(self) -> None:
        for subscription in self._reader_subscriptions:
            self.destroy_subscription(subscription)
        self._reader_subscriptions = []
        self.stop()
        if self._inbox is not None:
            self._inbox.close()
        if self.pipeline is not None:
            self.pipeline.interrupt()
        if self._worker is not None:
            self._worker.join(STOP_TIMEOUT_S)
            if self._worker.is_alive():
                self.get_logger().warning(f"the worker is still busy after {STOP_TIMEOUT_S} s; left behind")
            self._worker = None

    def _release(self) -> None:
        for publisher in self._output_publishers.values():
            self.destroy_lifecycle_publisher(publisher)
        self._output_publishers = {}
        for service in self._trigger_services:
            self.destroy_service(service)
        self._trigger_services = []
        if self.pipeline is not None:
            self.pipeline.close()
            self.pipeline = None
        self.config = None
        self._qos_problem = ""

    # -- endpoints -----------------------------------------------------------------------------------------------

    def qos(self, topic: str) -> QoSProfile:
        """Return the QoS of this node's endpoints on a topic of the graph."""
        about = graph.TOPICS[topic]
        best_effort = (
            topic in self.spec.inputs and about.sensor and self._value(f"{topic}.reliability") == "best_effort"
        )
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        durability = DurabilityPolicy.TRANSIENT_LOCAL if about.latched else DurabilityPolicy.VOLATILE
        return QoSProfile(depth=about.depth, reliability=reliability, durability=durability)

    def qos_entity(self, topic: str) -> str | None:
        """Return what tells a topic's QoS parameters from those of another subscription to it; None for nothing."""
        return None

    def input_type(self, topic: str) -> Any:
        """Return the message class that a topic is subscribed with."""
        return message_type(graph.TOPICS[topic].type)

    def subscribe(self) -> list[Any]:
        """Return new subscriptions to the inputs that are of use and whose type is installed."""
        reads = self.pipeline.reads if self.pipeline is not None else lambda _: True
        return [self._make_subscription(topic) for topic in filter(installed, self.spec.inputs) if reads(topic)]

    def _make_publisher(self, topic: str) -> Any:
        return self.create_lifecycle_publisher(
            message_type(graph.TOPICS[topic].type),
            graph.TOPICS[topic].name(topic),
            self.qos(topic),
            event_callbacks=PublisherEventCallbacks(incompatible_qos=lambda event: self._incompatible(topic, event)),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _make_subscription(self, topic: str) -> Any:
        return self.create_subscription(
            self.input_type(topic),
            graph.TOPICS[topic].name(topic),
            lambda data: self._receive(topic, cast(bytes, data)),
            self.qos(topic),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=lambda event: self._incompatible(topic, event)),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(entity_id=self.qos_entity(topic)),
            raw=True,  # what newest-wins drops is then never deserialized
        )

    def _make_service(self, name: str) -> Any:
        return self.create_service(Trigger, name, lambda _, response: self._call(name, response))

    def _call(self, name: str, response: Any) -> Any:
        try:
            if self.pipeline is None:
                raise EdgeNodesError("the node is not configured")
            response.message, response.success = self.pipeline.call(name), True
        except Exception as error:  # noqa: BLE001  a node never dies of a request
            response.message, response.success = str(error), False
        return response

    def _incompatible(self, topic: str, event: Any) -> None:
        name = self.resolve_topic_name(graph.TOPICS[topic].name(topic))
        policy = str(event.last_policy_kind).rpartition(".")[2]
        text = (
            f"{name}: another node's endpoint has an incompatible {policy} policy, so nothing arrives. "
            f"Set qos_overrides.{name}.<publisher|subscription>.{policy.lower()}"
            + (f", or {topic}.reliability" if f"{topic}.reliability" in self._specs else "")
        )
        if not self._qos_problem:
            self.get_logger().warning(text)
        self._qos_problem = text

    # -- messages ------------------------------------------------------------------------------------------------

    def _receive(self, topic: str, data: bytes) -> None:
        received_ns = self.get_clock().now().nanoseconds
        if not graph.TOPICS[topic].optional:
            self.statistics.arrived()
        if self.pipeline is None:
            try:
                self.take(topic, data, received_ns)
            except Exception as error:  # noqa: BLE001  a node never dies of a message
                self._bad(State.BAD_INPUT, f"a message of {topic} failed: {type(error).__name__}: {error}")
            return
        message: Any = data
        if topic in self.pipeline.early:
            try:
                if self.pipeline.updates_at_once:
                    self._update_pipeline(self.pipeline)
                message = self.read(topic, data)
                if self.pipeline.arrived(topic, message, received_ns=received_ns):
                    return
            except EdgeNodesError as error:
                self._bad(error.state, str(error))
                return
            except Exception as error:  # noqa: BLE001  a node never dies of a message
                self._bad(State.BAD_INPUT, f"a message of {topic} failed: {type(error).__name__}: {error}")
                return
        if self._inbox is not None:
            self._inbox.put(topic, Queued(message, received_ns, time.monotonic()))

    def read(self, topic: str, data: bytes) -> Any:
        """Return a serialized message of a topic of the graph."""
        return deserialize_message(data, self.input_type(topic))

    def wanted(self) -> Collection[str]:
        """Return the output topics that somebody subscribes to, all of them with `always_work`."""
        if self.common.always_work:
            return self.spec.outputs
        return {topic for topic, p in self._output_publishers.items() if p.get_subscription_count() > 0}

    def publish(self, output: Output) -> None:
        """Publish one output of the pipeline."""
        publisher = self._output_publishers[output.topic]
        publisher.publish(build(message_type(graph.TOPICS[output.topic].type), output.fields))
        self.statistics.count(f"published {output.topic}")

    def _work(self, inbox: Inbox[Queued]) -> None:
        while not inbox.closed:
            item = inbox.get(timeout_s=1.0)
            if item is not None:
                self._work_on(*item)

    def _work_on(self, topic: str, queued: Queued) -> None:
        pipeline, wanted = self.pipeline, self.wanted()
        self._idle = not wanted
        if not wanted:
            self.statistics.count("skipped, no subscriber")
        if pipeline is None or (not wanted and graph.TOPICS[topic].sensor):
            return  # a stream that is not a sensor's goes on to the pipeline, which keeps or resets its state
        begin = time.perf_counter()
        try:
            self._update_pipeline(pipeline)
            raw = isinstance(queued.message, bytes)
            message = self.read(topic, queued.message) if raw else queued.message
            pipeline.waited_s = time.monotonic() - queued.queued_s
            for output in pipeline.process(topic, message, received_ns=queued.received_ns, wanted=wanted):
                self.publish(output)
        except EdgeNodesError as error:
            self._bad(error.state, str(error))
        except MemoryError:
            self._bad(State.OUT_OF_MEMORY, f"out of memory on a message of {topic}")
        except Exception as error:  # noqa: BLE001  a node never dies of a message: it counts, reports and goes on
            if self.context.ok():
                self._bad(State.BAD_INPUT, f"a message of {topic} failed: {type(error).__name__}: {error}")
        else:
            self.statistics.processed(self._latency_ms(message), (time.perf_counter() - begin) * 1e3)

    def _update_pipeline(self, pipeline: Pipeline[Any]) -> None:
        changed, self._changed_config = self._changed_config, None
        if changed is not None:
            pipeline.update(changed)

    def _latency_ms(self, message: Any) -> float | None:
        if not hasattr(message, "header"):
            return None
        return (self.get_clock().now().nanoseconds - stamp_ns(message.header.stamp)) / 1e6

    def _bad(self, state: State, text: str) -> None:
        self.statistics.count("errors")
        self._error = (time.monotonic(), state, text)
        self.get_logger().warning(f"{state.value}: {text}", throttle_duration_sec=5.0)

    # -- diagnostics ---------------------------------------------------------------------------------------------

    def health(self) -> tuple[State, str]:
        """Return the state code and one sentence about it."""
        if self._fatal is not None:
            return self._fatal
        if self._error is not None and time.monotonic() - self._error[0] < ERROR_SHOWN_S:
            return self._error[1], self._error[2]
        if self._qos_problem:
            return State.QOS, self._qos_problem
        if self._lifecycle != "active":
            return State.OK, self._lifecycle
        overloaded = self._overload()
        if overloaded:
            return State.OVERLOADED, overloaded
        since = self.statistics.since_input_s()
        limit = self.common.stale_after_s
        inputs = ((t, graph.TOPICS[t]) for t in self.spec.inputs)
        sensors = [t for t, about in inputs if (about.sensor and not about.optional) or t == "audio"]
        if limit and sensors and self.pipeline is not None and (since is None or since > limit):
            waited = "none yet" if since is None else f"the last {since:.1f} s ago"
            return State.STALE_INPUT, f"no message on {', '.join(sensors)}: {waited}"
        if self.statistics.age_s is not None and abs(self.statistics.age_s) > DAY_S:
            return State.STALE_INPUT, "stamps are days away from the clock: a bag without use_sim_time?"
        return State.OK, "idle: no subscriber" if self._idle else "running"

    def _overload(self) -> str:
        dropped = self._inbox.dropped if self._inbox is not None else {}
        counts = {"received": self.statistics.counts["received"], **{f"d {t}": n for t, n in dropped.items()}}
        before, self._previous_counts = self._previous_counts, counts
        received = counts["received"] - before.get("received", 0)
        for topic, total in dropped.items():
            new = total - before.get(f"d {topic}", 0)
            # One scan dropped while a bag starts or ends is no overload; one lost word or question is.
            if new > 0 and (not graph.TOPICS[topic].sensor or (received > OVERLOAD_AT and new * 2 > received)):
                return f"{new} of {received} messages dropped on {topic} since the last report: the node is too slow"
        return ""

    def diagnostic_values(self) -> Mapping[str, str]:
        """Return what /diagnostics lists for this node."""
        memory = self._psutil.memory_info().rss / 2**20
        values = {"lifecycle": self._lifecycle, **self.statistics.summary()}
        if self._inbox is not None:
            values |= {f"dropped {t}": str(self._inbox.dropped[t]) for t in self.spec.inputs}
            values |= {f"waiting {t}": str(n) for t, n in self._inbox.waiting().items()}
        values |= {"memory_mb": f"{memory:.0f}", "cpu_percent": f"{self._psutil.cpu_percent():.0f}"}
        values |= {"pid": str(self._psutil.pid)}
        if self.pipeline is not None:
            values |= {name: str(value) for name, value in self.pipeline.status().items()}
        return values

    def publish_diagnostics(self) -> None:
        """Publish this node's status."""
        state, text = self.health()
        status = DiagnosticStatus(
            level=_LEVELS.get(state, DiagnosticStatus.ERROR),
            name=self.get_fully_qualified_name(),
            message=text if state is State.OK else f"{state.value}: {text}",
            hardware_id=self.spec.name,
        )
        values = {"state": state.value, **self.diagnostic_values()}
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def destroy_node(self) -> None:
        """Stop the worker, then destroy the node."""
        self._stop()
        self._release()
        super().destroy_node()
