"""The robot host as a ROS 2 node: ``python -m robolearn.ros.robot_host --ros-args -r __ns:=/fr3_1 -p robot:=fr3_sim``.

One thread runs the loop at an absolute rate and touches every topic itself (polled, see ``context.Newest``); a second
one serves the few services and looks for rivals, a third prints. The loop waits for none of them, and when one dies or
anything fails, it brakes. It runs at real-time priority where the system allows that.
"""

from __future__ import annotations

import gc
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from robolearn.core.clock import MonotonicClock
from robolearn.core.errors import ConfigError, RobolearnError, RobotStoppedError, SpecError
from robolearn.hal.chain import Chain
from robolearn.hal.host.config import HostConfig
from robolearn.hal.host.core import RobotHost
from robolearn.hal.host.fence import EpochFence
from robolearn.hal.host.pace import Pace
from robolearn.hal.host.wire import Mode, Order
from robolearn.hal.leases import default_path
from robolearn.ros import context
from robolearn.ros.arm_port import ArmPort
from robolearn.ros.client import LATCHED_S
from robolearn.ros.host_config import OWN, host_config
from robolearn.ros.host_status import BEAT_HZ, StatusPublisher
from robolearn.ros.journal import Journal, unread_stderr
from robolearn.ros.messages import from_bytes, to_message
from robolearn.ros.rivals import Rivals, only_host

_QUEUE, _MOST_ORDERS = 64, 8
"""Orders that may wait, and those a tick takes: unpacking all at once would cost it several periods."""
_ALARMING = frozenset({"stop", "feedback", "rejected", "failure"})
_ANSWER_S = 2.0
_BRAKING_S = 1.0
_SECOND = 1e-9


@dataclass(frozen=True)
class _Request:
    """A service call on its way to the loop.

    Attributes:
        frees: it lets the arm move again. Such a call must be young, and comes after those that stop.
    """

    call: Callable[[int], str]
    frees: bool
    asked_ns: int
    answer: queue.SimpleQueue[tuple[bool, str]] = field(default_factory=queue.SimpleQueue)


class HostNode:
    """Topics and services around a ``RobotHost``."""

    def __init__(
        self,
        node: Any,
        config: HostConfig,
        fence: EpochFence,
        over: threading.Event | None = None,
        write: Callable[[bool, str], object] | None = None,
    ) -> None:
        """Set up.

        Args:
            over: ends the loop when set.
            write: gets the journal's lines, see ``Journal``; default: the node's log.

        Raises:
            ConfigError: the joints do not fit the model.
        """
        from std_msgs.msg import Float64MultiArray
        from std_srvs.srv import Trigger

        self.clock, self.config, self.node = MonotonicClock(), config, node
        chain = Chain.load(config.model, config.tip)
        self.joints = config.joints or chain.joints
        if len(self.joints) != len(chain.joints) or len(set(self.joints)) != len(self.joints):
            raise ConfigError(
                f"{config.robot}: joints: expected {len(chain.joints)} different names (as {', '.join(chain.joints)}), "
                f"got {', '.join(self.joints)}"
            )
        self.journal = Journal(write or self._log, self.clock)
        self.host = RobotHost(config, chain, fence, on_event=self._event)
        self.port = ArmPort(node, config, self.joints, self.clock)
        self.pace = Pace(self.clock, config.rate_hz)
        self.rivals = Rivals(node, self.port.command_topic, BEAT_HZ)
        self._orders = context.Newest(node, Float64MultiArray, "~/command", _order_qos(), raw=True)
        self._reports = node.create_publisher(Float64MultiArray, "~/observation", context.STATE)
        topic = self.port.states_topic
        self._status = StatusPublisher(
            node, self.host, self.pace, lambda: {"gripper": self.port.gripper.problem, "joint_states": topic}
        )
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._over = over or threading.Event()
        self._end_by: int | None = None
        self._failed = ""
        self._ticked = False
        self._stopped_ns: int | None = None
        self._reading = self.port.read()
        for name, call, frees in (
            ("estop", self._estop, False),
            ("hold", self._pause, False),
            ("reset", self._reset, True),
            ("resume", self._resume, True),
        ):
            node.create_service(Trigger, f"~/{name}", self._service(call, frees))

    def run(self, healthy: Callable[[], bool] = lambda: True) -> int:
        """Loop until ``end``; then brake, and stop publishing at rest.

        Args:
            healthy: asked every tick; once it is not, the host stops as if told to and ends.

        Returns:
            0 when it was told to end, 1 when anything failed: a stop was latched then, and the arm braked.
        """
        while True:
            now = self.pace.wait()
            self._ticked = False
            try:
                if self._end_by is not None and (now > self._end_by or self.host.at_rest):
                    return 1 if self._failed else 0
                self._see_to_end(now, healthy)
                self._tick(now)
            except Exception as error:  # noqa: BLE001  # whatever it is, the arm must not be left moving
                self._fail(f"{type(error).__name__}: {error}", now, traceback.format_exc())
                self._brake(now)

    def end(self) -> None:
        """Ask the loop to end."""
        self._over.set()

    def _see_to_end(self, now: int, healthy: Callable[[], bool]) -> None:
        if self._end_by is not None:
            return
        if self._over.is_set():
            self._end_by = now + int(_BRAKING_S / _SECOND)
            self.host.hold("the host is shutting down")
        elif not healthy():
            self._fail("the thread that serves the stop has ended", now)

    def _fail(self, why: str, now: int, details: str = "") -> None:
        if not self._failed:
            self._failed = why
            self.journal.note("failure", f"the host fails and ends: {why}\n{details}".rstrip(), alarming=True)
        if self._end_by is None:
            self._end_by = now + int(_BRAKING_S / _SECOND)
        self.host.stop(f"the host failed: {why}")

    def _brake(self, now: int) -> None:
        """The rest of a tick that failed, with as little as possible."""
        if self._ticked:
            return
        try:
            setpoint = self.host.tick(now, self._reading, ()).setpoint
            if setpoint is not None:
                self.port.write(setpoint)
        except Exception as error:  # noqa: BLE001  # the next tick tries again, until the time is up
            self.journal.note("braking", f"cannot brake: {type(error).__name__}: {error}", alarming=True)

    def _tick(self, now: int) -> None:
        self._serve(now)
        reading = self.port.read()
        if self.rivals.problem and not reading.problem:
            reading = replace(reading, problem=self.rivals.problem)
        self._reading = reading
        orders = self._new_orders()
        before = self.host.mode
        tick = self.host.tick(now, reading, orders)
        self._ticked = True
        if self.host.mode is Mode.STOPPED and before is not Mode.STOPPED:
            self._stopped_ns = now
        if tick.setpoint is not None:
            self.port.write(tick.setpoint)
        if tick.report is not None:
            self._reports.publish(to_message(tick.report.pack()))
        else:
            self._status.update(now)

    def _new_orders(self) -> list[Order]:
        """The newest order of every sender among the next few."""
        newest: dict[int, Order] = {}
        for data, _ in self._orders.take_all(_MOST_ORDERS):
            try:
                order = Order.unpack(from_bytes(data))
            except SpecError as error:
                self.host.malformed(str(error))
                continue
            known = newest.get(order.sender)
            if known is None or order.sequence >= known.sequence:
                newest[order.sender] = order
        return list(newest.values())

    def _service(self, call: Callable[[int], str], frees: bool) -> Callable[[Any, Any], Any]:
        """A service handler that lets the loop do the work and waits for it."""

        def handle(_: Any, response: Any) -> Any:
            request = _Request(call, frees, self.clock.now_ns())
            self._requests.put(request)
            try:
                response.success, response.message = request.answer.get(timeout=_ANSWER_S)
            except queue.Empty:
                response.success, response.message = False, "the host's loop does not answer"
            return response

        return handle

    def _serve(self, now: int) -> None:
        """Do what services ask for, what stops first; every call gets an answer, whatever it raises."""
        waiting: list[_Request] = []
        while not self._requests.empty():
            waiting.append(self._requests.get_nowait())
        for request in sorted(waiting, key=lambda request: request.frees):
            try:
                if request.frees:
                    self._refuse(request, now)
                request.answer.put((True, request.call(now)))
            except RobolearnError as error:
                request.answer.put((False, str(error)))
            except Exception as error:
                request.answer.put((False, f"the host failed: {type(error).__name__}: {error}"))
                raise

    def _refuse(self, request: _Request, now: int) -> None:
        """Raise RobotStoppedError for a call that must not let the arm move again.

        A late stop is still carried out; a late reset is not, because nobody looks at the arm any more.
        """
        if self._end_by is not None:
            raise RobotStoppedError("not done: the host is shutting down")
        if (late := (now - request.asked_ns) * _SECOND) > LATCHED_S:
            raise RobotStoppedError(f"not done: the loop was {late:.1f} s late; look at the arm and ask again")
        if self._stopped_ns is not None and (age := (now - self._stopped_ns) * _SECOND) < LATCHED_S:
            raise RobotStoppedError(
                f"not cleared: the stop came only {age:.1f} s ago, perhaps after this was sent; look at the arm and, "
                "if it still is to be cleared, ask again"
            )

    def _estop(self, now: int) -> str:
        self._stopped_ns = now
        self.host.stop("stopped through the estop service")
        return f"stopped: {self.host.reason}; only a person clears it: robolearn host reset {self.node.get_namespace()}"

    def _reset(self, _: int) -> str:
        was = self.host.reason if self.host.mode is Mode.STOPPED else ""
        self.host.reset("a person, through the reset service")
        return f"cleared: {was}" if was else "there was nothing to clear"

    def _pause(self, _: int) -> str:
        self.host.hold("paused by a person")
        return f"paused; go on with {self.node.get_fully_qualified_name()}/resume"

    def _resume(self, _: int) -> str:
        self.host.resume()
        return "orders are taken again"

    def _event(self, kind: str, values: Mapping[str, Any]) -> None:
        text = ", ".join(f"{key}={value}" for key, value in values.items())
        self.journal.note(kind, f"{kind}: {text}", alarming=kind in _ALARMING)

    def _log(self, alarming: bool, line: str) -> None:
        log = self.node.get_logger()
        log.warning(line) if alarming else log.info(line)


def _order_qos() -> Any:
    from rclpy.qos import QoSProfile

    return QoSProfile(depth=_QUEUE)


def _node(ctx: Any) -> Any:
    from rclpy.node import Node

    return Node(
        "robot_host",
        context=ctx,
        allow_undeclared_parameters=True,
        automatically_declare_parameters_from_overrides=True,
        start_parameter_services=False,  # nothing can be changed while it runs, and each service is a way to fail
    )


def configured(node: Any) -> tuple[HostConfig, Path]:
    """Configuration and state directory from a node's parameters; raises ConfigError."""
    given = {name: p.value for name, p in node.get_parameters_by_prefix("").items()}
    parameters = {name: value for name, value in given.items() if name not in OWN and not name.startswith("qos_")}
    config = host_config(str(given.get("robot", "fr3_sim")), str(given.get("config", "")), parameters)
    state = str(given.get("state_dir", "")) or str(default_path().parent)
    return config, Path(state)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a robot host until SIGINT or SIGTERM; 0 when told to end, 1 when it failed, 2 when it could not start."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    over = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        over.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with context.context(args=arguments) as ctx:
            node = _node(ctx)
            try:
                return _serve(node, over)
            finally:
                node.destroy_node()
    except RobolearnError as error:
        sys.stderr.write(f"robot_host: {error}\n")
        return 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(node: Any, over: threading.Event) -> int:
    config, state = configured(node)
    space = node.get_namespace().strip("/").replace("/", "-") or "root"
    with ExitStack() as stack:
        stack.enter_context(only_host(state / "hosts" / f"{space}.lock", node.get_namespace()))
        host = HostNode(node, config, EpochFence(state / "hosts" / f"{space}.epoch"), over)
        stack.enter_context(unread_stderr())
        stack.enter_context(host.journal)
        host.pace.priority = context.take_priority()
        gc.freeze()
        # What a callback raises is told like all else: through the journal, which never waits.
        spin = context.SpinThread([node], lambda error: host.journal.note("callback", f"a callback failed: {error!r}"))
        stack.enter_context(spin)
        host.journal.note("start", f"{config.robot}: {config.profile} at {config.rate_hz:g} Hz, {host.pace.priority}")
        return host.run(lambda: spin.alive)


__all__ = ["HostNode", "configured", "main"]

if __name__ == "__main__":
    raise SystemExit(main())
