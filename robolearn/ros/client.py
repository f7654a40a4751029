"""The actor's end of a robot host: reports come in, orders go out."""

from __future__ import annotations

import atexit
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from robolearn.core.clock import MonotonicClock
from robolearn.core.errors import LeaseError, RobolearnError, RobotStoppedError, SpecError
from robolearn.core.spec import Array
from robolearn.hal.host.wire import Mode, Order, OrderKind, Report
from robolearn.ros import context
from robolearn.ros.messages import from_message, to_message

_DISCOVERY_S = 10.0
_SERVICE_S = 2.0
_POLL_S = 0.05
LATCHED_S = 1.0
"""A host clears no stop that is younger [s]: the reset may have been sent before it."""


class HostSilentError(RobolearnError):
    """A robot host does not answer: it is gone, stopped by its scheduler, or the network is."""


class HostClient:
    """Talks to the robot host of one namespace. Use as a context manager or ``close`` it.

    Attributes:
        namespace: for example ``/fr3_1``.
    """

    def __init__(self, namespace: str, *, domain: int | None = None, patience_s: float = _DISCOVERY_S) -> None:
        """Connect.

        Raises:
            MissingDependencyError: no usable rclpy.
            HostSilentError: no robot host reports in this namespace; the message says what is visible.
        """
        self.namespace = "/" + namespace.strip("/")
        self._stack = ExitStack()
        self._clock = MonotonicClock()
        self._changed = threading.Condition()
        self._report: Report | None = None
        self._reports = 0
        self._status: dict[str, str] = {}
        self._sender = random.SystemRandom().getrandbits(48)
        self._sequence = 0
        self._seen_ns = 0
        self._stopped_s = -LATCHED_S
        self._clients: dict[str, Any] = {}
        atexit.register(self.close)  # a thread left in the middleware would abort the interpreter's exit
        try:
            self._open(domain)
            self._discover(patience_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> HostClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph; idempotent."""
        atexit.unregister(self.close)
        self._stack.close()

    @property
    def status(self) -> Mapping[str, str]:
        """The host's newest facts, see ``host_status.facts``."""
        return self._status

    @property
    def simulated(self) -> bool:
        """The arm behind the host is simulated."""
        return self._status.get("simulated") == "true"

    @property
    def report(self) -> Report:
        """The newest report."""
        if self._report is None:
            raise HostSilentError(f"the robot host in {self.namespace} has not reported yet")
        return self._report

    @property
    def age_s(self) -> float:
        """Since the newest report arrived [s]."""
        return (self._clock.now_ns() - self._seen_ns) * 1e-9

    def wait(self, until: Callable[[Report], bool], timeout_s: float) -> Report:
        """The first report from now on that is what is asked for.

        Raises:
            HostSilentError: none came in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._report is None or not until(self._report):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise HostSilentError(self._silence(timeout_s))
                self._changed.wait(left)
            return self._report

    def send(self, kind: OrderKind, values: Array, *, epoch: int, answers: Report | None = None) -> int:
        """Send an order; its number. ``answers`` is the report it was decided on (default: the newest)."""
        report = answers or self._report
        self._sequence += 1
        policy_s = (self._clock.now_ns() - self._seen_ns) * 1e-9
        number = -1 if report is None else report.number
        order = Order(kind, epoch, self._sender, self._sequence, number, policy_s, np.asarray(values, dtype=float))
        self._orders.publish(to_message(order.pack()))
        return self._sequence

    def answered(self, sequence: int, epoch: int) -> Callable[[Report], bool]:
        """For ``wait``: the report that says what became of an order, or that a newer lease has taken the robot."""
        return lambda report: report.epoch > epoch or (report.sender == self._sender and report.sequence >= sequence)

    def later(self, count: int = 1) -> Callable[[Report], bool]:
        """For ``wait``: the report with which that many have come since now.

        Reports' numbers do not tell which is newer: a host that starts anew counts from 0 again.
        """
        due = self._reports + count
        return lambda _: self._reports >= due

    def check_epoch(self, report: Report, epoch: int) -> None:
        """Raise StaleEpochError when somebody with a newer lease drives the robot now."""
        from robolearn.core.errors import StaleEpochError

        if report.epoch > epoch:
            raise StaleEpochError(
                f"epoch {epoch} is not the newest: epoch {report.epoch} holds the robot in {self.namespace} now"
            )

    def stop(self, reason: str) -> None:
        """Latch a stop on the host, whose service takes no words: the reason stays with the caller.

        Raises:
            HostSilentError: the host did not confirm it.
        """
        self._stopped_s = time.monotonic()
        done, message = self._call("estop")
        if not done:
            raise HostSilentError(f"the robot host in {self.namespace} did not confirm the stop ({reason}): {message}")

    def clear(self) -> None:
        """Clear a stop, on behalf of a person. One of this client or that it has seen is left alone for a second.

        Raises:
            RobotStoppedError: the host refused, and why.
        """
        time.sleep(max(0.0, self._stopped_s + LATCHED_S - time.monotonic()))
        done, message = self._call("reset")
        if not done:
            raise RobotStoppedError(message)

    def place(self, body: str, pose: Array) -> None:
        """Put a body of a simulated scene somewhere; (7,) pose in the base frame.

        Raises:
            LeaseError: the arm is real.
            RobolearnError: the simulated arm refused, and why.
        """
        if not self.simulated:
            raise LeaseError(f"{self.namespace} is a real arm; bodies are placed by people there")
        from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
        from rcl_interfaces.srv import SetParameters

        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE_ARRAY, double_array_value=pose.tolist())
        request = SetParameters.Request(parameters=[Parameter(name=f"scene.{body}", value=value)])
        answer = self._ask(SetParameters, f"{self.namespace}/sim_arm/set_parameters", request)
        if not answer.results[0].successful:
            raise RobolearnError(f"the simulated arm in {self.namespace} refused '{body}': {answer.results[0].reason}")

    @property
    def node(self) -> Any:
        """The node, for more subscriptions (polled ones)."""
        return self._node

    def _open(self, domain: int | None) -> None:
        ctx = self._stack.enter_context(context.context(domain))
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.node import Node
        from std_msgs.msg import Float64MultiArray

        self._node = Node(f"client_{os.getpid()}_{self._sender % 10_000}", context=ctx, namespace=self.namespace)
        self._stack.callback(self._node.destroy_node)
        host = f"{self.namespace.rstrip('/')}/{context.HOST_NODE}"
        self._orders = self._node.create_publisher(Float64MultiArray, f"{host}/command", context.COMMAND)
        self._node.create_subscription(Float64MultiArray, f"{host}/observation", self._on_report, context.STATE)
        self._node.create_subscription(DiagnosticArray, f"{host}/status", self._on_status, context.STATE)
        self._host = host
        self._stack.enter_context(context.SpinThread([self._node]))

    def _discover(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        with self._changed:
            while not self._status or self._report is None or self._orders.get_subscription_count() == 0:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, _POLL_S))
        if not self._status:
            raise HostSilentError(context.missing_host(self.namespace, context.robot_hosts(self._node)))
        if self._report is None:
            why = self._status.get("trouble") or "it gives no observations"
            raise HostSilentError(f"the robot host in {self.namespace} is up, but: {why}")

    def _on_report(self, message: Any) -> None:
        try:
            report = Report.unpack(from_message(message))
        except SpecError:
            return  # a foreign publisher on our topic; silence is noticed by those who wait
        with self._changed:
            before = self._report.mode if self._report is not None else report.mode
            if report.mode is Mode.STOPPED and before is not Mode.STOPPED:
                self._stopped_s = time.monotonic()
            self._report, self._seen_ns = report, self._clock.now_ns()
            self._reports += 1
            self._changed.notify_all()

    def _on_status(self, message: Any) -> None:
        for status in message.status:
            if status.name == self._host:
                with self._changed:
                    self._status = {item.key: item.value for item in status.values}
                    self._changed.notify_all()

    def _silence(self, waited_s: float) -> str:
        mode = self._report.mode.name.lower() if self._report is not None else "unknown"
        trouble = self._status.get("trouble") or self._status.get("reason") or "nothing wrong was reported"
        return (
            f"the robot host in {self.namespace} did not answer within {waited_s:.1f} s; last heard {self.age_s:.1f} s "
            f"ago (mode {mode}: {trouble}); is it running? robolearn host status {self.namespace}"
        )

    def _call(self, service: str) -> tuple[bool, str]:
        from std_srvs.srv import Trigger

        answer = self._ask(Trigger, f"{self._host}/{service}", Trigger.Request())
        return bool(answer.success), str(answer.message)

    def _ask(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service with a time limit."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self._node.create_client(kind, name)
        if not client.wait_for_service(timeout_sec=_SERVICE_S):
            raise HostSilentError(f"service {name} is not there; is its node running?")
        future, done = client.call_async(request), threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(_SERVICE_S):
            client.remove_pending_request(future)
            raise HostSilentError(f"service {name} did not answer within {_SERVICE_S:g} s")
        return future.result()
