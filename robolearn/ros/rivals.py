"""Nobody else may drive the arm of a robot host: a lock for this machine, a look at the graph for all others."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robolearn.core.errors import RobolearnError
from robolearn.ros import context

_LOOK_S = 1.0
_BEATS = 100
_UNKNOWN = "_NODE_NAME_UNKNOWN_"


@contextmanager
def only_host(path: Path, namespace: str) -> Iterator[None]:
    """Hold a lock file for as long as a host lives; the kernel frees it when the process dies.

    Raises:
        RobolearnError: another host holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise RobolearnError(
                f"{namespace} has a robot host already, process {lock.read().strip() or 'unknown'} ({path} is locked); "
                "end that one, or use another namespace"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Rivals:
    """Looks once a second, in the thread that spins the node, for others who command the arm.

    A second host in the namespace is told by its heartbeat, not by its name: one that was killed stays in the graph
    for a while.

    Attributes:
        problem: who else is there; empty while nobody is.
    """

    def __init__(self, node: Any, topic: str, beat_hz: float) -> None:
        """Watch.

        Args:
            topic: on which the node commands the arm, resolved.
            beat_hz: rate of the node's own ``~/heartbeat``.
        """
        from rclpy.clock import Clock
        from rclpy.clock_type import ClockType
        from rclpy.qos import QoSProfile
        from std_msgs.msg import UInt32

        self.problem = ""
        self._node, self._topic, self._beat_hz = node, topic, beat_hz
        self._beats = context.Newest(node, UInt32, "~/heartbeat", QoSProfile(depth=_BEATS), raw=True)
        self._looked_s = time.monotonic()
        self._unknown = False
        node.create_timer(_LOOK_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def look(self) -> None:
        """Look now."""
        now = time.monotonic()
        beats, passed = len(self._beats.take_all()), max(now - self._looked_s, 0.5 * _LOOK_S)
        self._looked_s = now
        others = self._others()
        if beats / passed > 1.5 * self._beat_hz:
            self.problem = f"another robot host answers in {self._node.get_namespace()}; end one of them"
        elif others:
            self.problem = f"{', '.join(others)} publishes on {self._topic} too; only one may command the arm"
        else:
            self.problem = ""

    def _others(self) -> list[str]:
        own = self._node.get_fully_qualified_name()
        names = set()
        for end in self._node.get_publishers_info_by_topic(self._topic):
            space = end.node_namespace.rstrip("/")
            names.add(_UNKNOWN if _UNKNOWN in end.node_name else f"{space}/{end.node_name}")
        unknown, self._unknown = self._unknown, _UNKNOWN in names
        if _UNKNOWN in names and not unknown:
            names.discard(_UNKNOWN)  # of a node that was found just now the name is not known yet
        return sorted(names - {own})
