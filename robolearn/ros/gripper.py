"""The gripper of an arm: commanded when its opening changes, watched with a time limit, never waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robolearn.core.errors import ConfigError, MissingDependencyError
from robolearn.hal.host.config import Gripper
from robolearn.ros import context

_CHANGE = 0.01
"""Smallest change of the opening fraction that is sent."""
_ARRIVED = 0.05
_MOVE_S = 0.2
_NS = 1_000_000_000
_RETRY_NS = 100_000_000


class GripperPort:
    """Sends opening fractions in the way the configuration says.

    Attributes:
        problem: why the gripper is not where it should be, or cannot be commanded; empty while all is well.
    """

    def __init__(self, node: Any, config: Gripper) -> None:
        """Prepare.

        Raises:
            MissingDependencyError: an action gripper without control_msgs.
            ConfigError: a trajectory gripper without a joint name.
        """
        self.problem = ""
        self._config, self._node = config, node
        self._wanted: float | None = None
        self._since_ns = self._next_try_ns = 0
        self._pending = False
        self._goal = 0
        self._unsent: Callable[[], bool] = lambda: False
        self._send: Callable[[float], None] | None = None
        if config.kind != "none" and config.held is None:
            self._send = {"forward": _forward, "trajectory": _trajectory, "action": self._action}[config.kind](
                node, config
            )

    def command(self, opening: float | None, measured: float | None, now_ns: int) -> None:
        """Ask for an opening fraction and look how it fares; call it every tick, it never waits.

        Args:
            opening: None while nothing has been ordered.
            measured: opening read back, None when it is not.
            now_ns: monotonic time [ns].
        """
        if self._send is None or opening is None:
            return
        if self._wanted is None or abs(opening - self._wanted) > _CHANGE:
            self._wanted, self._since_ns, self._pending = opening, now_ns, True
            self._send(opening)
            self._next_try_ns = now_ns + _RETRY_NS
        elif now_ns >= self._next_try_ns and self._unsent():
            self._send(self._wanted)
            self._next_try_ns = now_ns + _RETRY_NS
        self._watch(measured, now_ns)

    def _watch(self, measured: float | None, now_ns: int) -> None:
        late = (now_ns - self._since_ns) / _NS > self._config.timeout_s
        if measured is not None and self._wanted is not None:
            self._pending = abs(measured - self._wanted) > _ARRIVED
        elif self._config.kind != "action":
            self._pending = False  # nothing tells how it went
        if not self._pending:
            self.problem = ""
        elif late and not self.problem:
            where = "" if measured is None else f", it is at {measured:.2f}"
            self.problem = (
                f"the gripper has not reached opening {self._wanted:.2f} within {self._config.timeout_s:g} s{where}"
            )

    def _action(self, node: Any, config: Gripper) -> Callable[[float], None]:
        try:
            from control_msgs.action import GripperCommand
        except ImportError as error:
            raise MissingDependencyError(
                "gripper.kind: action needs control_msgs: apt install ros-$ROS_DISTRO-control-msgs on a host with ROS "
                "of its own, or drive the gripper with kind: forward or kind: trajectory"
            ) from error
        from rclpy.action.client import ActionClient

        client: Any = ActionClient(node, GripperCommand, config.topic)
        sent = {"goal": False}

        def send(opening: float) -> None:
            self._goal += 1
            sent["goal"] = bool(client.server_is_ready())
            if not sent["goal"]:
                return  # tried again, until the time limit reports it
            number, goal = self._goal, GripperCommand.Goal()
            goal.command.position = _position(config, opening)
            goal.command.max_effort = 0.0
            client.send_goal_async(goal).add_done_callback(lambda future: self._accepted(future, number))

        self._unsent = lambda: self._pending and not sent["goal"]
        return send

    def _accepted(self, future: Any, number: int) -> None:
        if (handle := _result(future)) is not None and handle.accepted:
            handle.get_result_async().add_done_callback(lambda future: self._done(future, number))

    def _done(self, future: Any, number: int) -> None:
        if (answer := _result(future)) is not None and number == self._goal:  # an older goal says nothing of this one
            self._pending = not (answer.result.reached_goal or answer.result.stalled)  # stalled: it holds something


def _result(future: Any) -> Any:
    """What a future has brought; None for one that failed: the goal stays pending, and the time limit reports it."""
    try:
        return future.result()
    except Exception:  # noqa: BLE001  # the thread that runs this also serves stops
        return None


def _forward(node: Any, config: Gripper) -> Callable[[float], None]:
    from std_msgs.msg import Float64MultiArray

    publisher = node.create_publisher(Float64MultiArray, config.topic, context.COMMAND)
    return lambda opening: publisher.publish(Float64MultiArray(data=[_position(config, opening)]))


def _trajectory(node: Any, config: Gripper) -> Callable[[float], None]:
    from builtin_interfaces.msg import Duration
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    if not config.joint:
        raise ConfigError("gripper.joint: a trajectory gripper needs the name of its joint")
    publisher = node.create_publisher(JointTrajectory, config.topic, context.COMMAND)

    def send(opening: float) -> None:
        reach = Duration(sec=0, nanosec=int(_MOVE_S * _NS))
        point = JointTrajectoryPoint(positions=[_position(config, opening)], time_from_start=reach)
        publisher.publish(JointTrajectory(joint_names=[config.joint], points=[point]))

    return send


def _position(config: Gripper, opening: float) -> float:
    """Position [m or rad] of an opening fraction."""
    return config.closed + opening * (config.opened - config.closed)
