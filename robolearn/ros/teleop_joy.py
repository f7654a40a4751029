"""Moving an arm by hand from a ``sensor_msgs/Joy`` or ``geometry_msgs/TwistStamped`` topic, through its robot host.

The arm moves only while the dead-man button of ``joy`` is held. Input older than 150 ms means stand still, older than
500 ms means let go, and then the button has to be released before it counts again. The robot is leased like by any
other job, so a run that trains on it is not disturbed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from robolearn.core import config as typed
from robolearn.core.clock import MonotonicClock
from robolearn.core.errors import ConfigError, RobolearnError
from robolearn.core.spec import Array
from robolearn.hal.host.observing import action_spec
from robolearn.hal.host.wire import Mode, OrderKind
from robolearn.hal.leases import LeaseTable, Request
from robolearn.hal.resources import Resource
from robolearn.ros import context

if TYPE_CHECKING:
    from robolearn.ros.client import HostClient

STALE_S, GONE_S = 0.15, 0.5
_REPORT_S, _TTL_S = 1.0, 3.0


class DeadMan:
    """Whether the hand is on the button."""

    def __init__(self) -> None:
        self._again = False
        self.driving = False

    def let_go(self) -> None:
        """The button has to be released before it counts again."""
        self._again, self.driving = True, False

    def update(self, pressed: bool, age_s: float) -> bool:
        """True while the robot is to be driven.

        Args:
            pressed: the button in the newest input.
            age_s: age of that input [s].
        """
        if age_s > GONE_S:
            self._again = self._again or self.driving or pressed
            pressed = False
        elif not pressed:
            self._again = False
        self.driving = pressed and not self._again
        return self.driving


@dataclass(frozen=True)
class Settings:
    """Parameters of the node.

    Attributes:
        device: ``joy`` moves with its axes, ``twist`` with the topic ``twist``; the button is always one of ``joy``.
        host: namespace of the robot host.
        deadman: index of the button that has to be held.
        axes: axis for x, y, z and rotation about x, y, z in tool axes; -1 for none.
        speed: velocity at full deflection [m/s and rad/s], negative to turn an axis round.
        deadband: share of an axis that counts as zero.
        open_button, close_button: of the gripper; -1 for none.
    """

    device: str = "joy"
    host: str = "/fr3_1"
    deadman: int = 5
    axes: tuple[int, ...] = (1, 0, 4, -1, -1, 3)
    speed: tuple[float, ...] = (0.05, 0.05, 0.05, 0.3, 0.3, 0.3)
    deadband: float = 0.1
    open_button: int = 3
    close_button: int = 0

    def __post_init__(self) -> None:
        if self.device not in ("joy", "twist"):
            raise ConfigError(f"device: expected joy or twist, got '{self.device}'")
        if len(self.axes) != 6 or len(self.speed) != 6:
            raise ConfigError(f"axes and speed: expected six numbers each, got {len(self.axes)} and {len(self.speed)}")
        if not 0.0 <= self.deadband < 1.0 or self.deadman < 0:
            raise ConfigError(f"expected 0 <= deadband < 1 and a button, got {self.deadband:g} and {self.deadman}")


def joy_velocity(axes: Sequence[float], settings: Settings) -> Array:
    """(6,) velocity in tool axes [m/s, rad/s]; an axis the device lacks, or that is not finite, is zero."""
    velocity = np.zeros(6)
    for i, (axis, speed) in enumerate(zip(settings.axes, settings.speed, strict=True)):
        value = float(axes[axis]) if 0 <= axis < len(axes) else 0.0
        if np.isfinite(value) and abs(value) > settings.deadband:
            velocity[i] = speed * float(np.clip(value, -1.0, 1.0))
    return velocity


def pressed(buttons: Sequence[int], index: int) -> bool:
    """A button; one the device lacks is not pressed."""
    return 0 <= index < len(buttons) and bool(buttons[index])


class Teleop:
    """One pass per report of the host."""

    def __init__(self, client: HostClient, settings: Settings, epoch: int) -> None:
        from geometry_msgs.msg import TwistStamped
        from sensor_msgs.msg import Joy

        self._client, self._settings, self._epoch = client, settings, epoch
        status = client.status
        self._spec = action_spec(float(status["max_translation"]), float(status["max_rotation"]))
        self._period_s = 1.0 / float(status["control_hz"])
        self._joy = context.Newest(client.node, Joy, "joy")
        self._twist = context.Newest(client.node, TwistStamped, "twist") if settings.device == "twist" else None
        self._hand = DeadMan()
        self._gripper = float(client.report.observation["gripper"][0])

    def step(self, now_ns: int) -> None:
        """Read the devices and send what they ask for; nothing while the hand is off or the host is stopped."""
        self._joy.take()
        joy = self._joy.message
        age = (now_ns - self._joy.received_ns) * 1e-9
        was = self._hand.driving
        held = self._hand.update(joy is not None and pressed(joy.buttons, self._settings.deadman), age)
        if self._client.report.mode is Mode.STOPPED:
            self._hand.let_go()
            return
        if held:
            velocity = self._velocity(joy, now_ns) if age <= STALE_S else np.zeros(6)
            if pressed(joy.buttons, self._settings.open_button):
                self._gripper = 1.0
            elif pressed(joy.buttons, self._settings.close_button):
                self._gripper = 0.0
            action = np.append(velocity * self._period_s, self._gripper)
            self._client.send(OrderKind.DELTA, np.clip(action, self._spec.low, self._spec.high), epoch=self._epoch)
        elif was:
            self._client.send(OrderKind.HOLD, np.zeros(7), epoch=self._epoch)

    def _velocity(self, joy: Any, now_ns: int) -> Array:
        if self._twist is None:
            return joy_velocity(joy.axes, self._settings)
        self._twist.take()
        if self._twist.message is None or (now_ns - self._twist.received_ns) * 1e-9 > STALE_S:
            return np.zeros(6)
        linear, angular = self._twist.message.twist.linear, self._twist.message.twist.angular
        velocity = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        most = np.abs(self._settings.speed)
        return np.clip(velocity, -most, most) if np.isfinite(velocity).all() else np.zeros(6)


def settings_of(node: Any) -> Settings:
    """Declare the parameters and read them; raises ConfigError."""
    given = {f.name: node.declare_parameter(f.name, f.default).value for f in fields(Settings) if f.name != "host"}
    given = {name: tuple(value) if name in ("axes", "speed") else value for name, value in given.items()}
    return typed.from_dict(Settings, {**given, "host": node.declare_parameter("host", node.get_namespace()).value})


def main(argv: Sequence[str] | None = None) -> int:
    """Teleoperate until SIGINT or SIGTERM; 0 when told to end, 1 when it cannot go on."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    try:
        with context.context(args=sys.argv if argv is None else argv) as ros:
            import rclpy

            node = rclpy.create_node("teleop", context=ros)
            try:
                _serve(settings_of(node), node, over)
            finally:
                node.destroy_node()
    except RobolearnError as error:
        sys.stderr.write(f"teleop: {error}\n")
        return 1
    return 0


def _serve(settings: Settings, node: Any, over: threading.Event) -> None:
    from robolearn.ros.client import HostClient

    with HostClient(settings.host) as client, LeaseTable.default() as table:
        robot = Resource(
            f"ros2:{client.namespace}",
            "robot",
            {"driver": "ros2"},
            simulated=client.simulated,
            seen_epoch=max(0, client.report.epoch),
        )
        table.register(robot)
        request = Request("robot", robot.id)
        with table.lease([request], holder=f"teleop {os.getpid()}", ttl_s=_TTL_S) as (lease,):
            teleop = Teleop(client, settings, lease.epoch)
            node.get_logger().info(f"ready: hold button {settings.deadman} of {client.namespace}/joy to drive")
            clock, newer = MonotonicClock(), client.later()
            while not over.is_set():
                if lease.lost:
                    raise RobolearnError(f"the lease of {robot.id} is lost: {lease.lost}")
                client.check_epoch(client.wait(newer, _REPORT_S), lease.epoch)
                newer = client.later()
                teleop.step(clock.now_ns())


if __name__ == "__main__":
    sys.exit(main())
