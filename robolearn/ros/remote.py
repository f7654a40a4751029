"""Robot hosts seen from a command line: which there are, how they are, stop and reset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import RobolearnError
from robolearn.ros import context as ros

_PERIOD_NS, _COMPANIONS_S = 20_000_000, 0.3


@dataclass
class Remote:
    """Robot hosts of this ROS domain; made by ``remote``."""

    node: Any
    clock: Clock = field(default_factory=MonotonicClock)
    _watched: dict[str, ros.Newest] = field(default_factory=dict)

    def hosts(self, wait_s: float) -> list[str]:
        """Namespaces of the visible hosts, sorted; waits up to ``wait_s`` for the first, and for its companions."""
        self._until(lambda: bool(ros.robot_hosts(self.node)), wait_s)
        if ros.robot_hosts(self.node):
            self._until(lambda: False, _COMPANIONS_S)
        return list(ros.robot_hosts(self.node))

    def newest(self, namespace: str) -> dict[str, str] | None:
        """The last status of a host, as text by key; None when it has not been heard of yet. Never waits."""
        from diagnostic_msgs.msg import DiagnosticArray

        if namespace not in self._watched:
            self._watched[namespace] = ros.Newest(self.node, DiagnosticArray, _name(namespace, "status"))
        self._watched[namespace].take()
        message = self._watched[namespace].message
        if message is None or not message.status:
            return None
        first = message.status[0]
        return {"message": first.message, **{pair.key: pair.value for pair in first.values}}

    def status(self, namespace: str, wait_s: float) -> dict[str, str]:
        """How a host is.

        Raises:
            RobolearnError: it is not heard of within ``wait_s``.
        """
        self._until(lambda: self.newest(namespace) is not None, wait_s)
        status = self.newest(namespace)
        if status is None:
            raise RobolearnError(ros.missing_host(namespace, ros.robot_hosts(self.node)))
        return status

    def trigger(self, namespace: str, service: str, wait_s: float) -> tuple[bool, str]:
        """Call ``estop``, ``hold`` or ``reset``: whether it was done, and the host's words.

        Raises:
            RobolearnError: the host does not answer within ``wait_s``.
        """
        from rclpy.executors import SingleThreadedExecutor
        from std_srvs.srv import Trigger

        client = self.node.create_client(Trigger, _name(namespace, service))
        try:
            if not client.wait_for_service(timeout_sec=wait_s):
                raise RobolearnError(ros.missing_host(namespace, ros.robot_hosts(self.node)))
            executor = SingleThreadedExecutor(context=self.node.context)
            executor.add_node(self.node)
            try:
                future = client.call_async(Trigger.Request())
                executor.spin_until_future_complete(future, timeout_sec=wait_s)
            finally:
                executor.remove_node(self.node)
                executor.shutdown()
            if not future.done():
                raise RobolearnError(
                    f"{namespace}: {service} was sent but not confirmed within {wait_s:g} s; use the hardware stop"
                )
            answer = future.result()
            return bool(answer.success), str(answer.message)
        finally:
            self.node.destroy_client(client)

    def _until(self, done: Callable[[], bool], wait_s: float) -> None:
        deadline = self.clock.now_ns() + int(wait_s * 1e9)
        while not done() and (now := self.clock.now_ns()) < deadline:
            self.clock.sleep_until_ns(min(deadline, now + _PERIOD_NS))


@contextmanager
def remote(domain: int | None = None) -> Iterator[Remote]:
    """A node of its own to talk to robot hosts.

    Raises:
        MissingDependencyError: rclpy is absent or does not load; one line.
    """
    rclpy = ros.require_rclpy()
    with ros.context(domain) as own:
        node = rclpy.create_node(f"robolearn_remote_{os.getpid()}", context=own, start_parameter_services=False)
        try:
            yield Remote(node)
        finally:
            node.destroy_node()


def _name(namespace: str, topic: str) -> str:
    return f"{namespace.rstrip('/')}/{ros.HOST_NODE}/{topic}"


def told(status: Mapping[str, str]) -> str:
    """A status for people: a line per key."""
    width = max(map(len, status), default=0)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in status.items() if value)
