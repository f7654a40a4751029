"""Moving an arm by hand: the dead-man button, stale input, and the whole way over genuine messages."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ros_world import Process, until

from robolearn.core.errors import ConfigError, LeaseError
from robolearn.hal.leases import LeaseTable, Request
from robolearn.ros.teleop_joy import GONE_S, DeadMan, Settings, joy_velocity, pressed

SPACE = "/teleop_1"


@pytest.mark.parametrize(
    ("inputs", "driving"),
    [
        ([(True, 0.01)], [True]),
        ([(False, 0.01)], [False]),
        ([(True, 0.01), (True, 0.3)], [True, True]),  # stale input stands still but does not let go
        ([(True, 0.01), (True, GONE_S + 0.1)], [True, False]),
        # Back after silence with the button still down: a stuck button must not drive.
        ([(True, 0.01), (True, 0.6), (True, 0.01), (False, 0.01), (True, 0.01)], [True, False, False, False, True]),
        ([(True, 0.6), (True, 0.01)], [False, False]),
        ([(False, 0.6), (True, 0.01)], [False, True]),
    ],
)
def test_the_hand_has_to_be_on_the_button_now(inputs: list[tuple[bool, float]], driving: list[bool]) -> None:
    hand = DeadMan()
    assert [hand.update(*one) for one in inputs] == driving


def test_after_a_stop_the_button_has_to_be_released() -> None:
    hand = DeadMan()
    hand.update(True, 0.0)
    hand.let_go()
    assert [hand.update(True, 0.0), hand.update(False, 0.0), hand.update(True, 0.0)] == [False, False, True]


def test_axes_become_bounded_velocities() -> None:
    settings = Settings(axes=(0, 1, 9, 2, -1, -1), speed=(0.1, -0.1, 0.1, 0.3, 0.3, 0.3), deadband=0.1)
    assert np.allclose(joy_velocity([2.0, 0.5, float("nan")], settings), [0.1, -0.05, 0, 0, 0, 0])
    assert not joy_velocity([0.1, -0.05, 0.0], settings).any()
    assert (pressed([0, 1], 1), pressed([0, 1], 2), pressed([1], -1)) == (True, False, False)


@pytest.mark.parametrize("wrong", [{"device": "mouse"}, {"axes": (1, 2)}, {"deadband": 1.0}, {"deadman": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Settings(**wrong)


def test_a_held_button_moves_the_arm_and_a_released_one_does_not(
    start: Callable[..., Process], make_node: Callable[..., Any]
) -> None:
    pytest.importorskip("rclpy")
    from sensor_msgs.msg import Joy

    from robolearn.ros.client import HostClient

    start("robolearn.ros.sim_arm", namespace=SPACE)
    start("robolearn.ros.robot_host", namespace=SPACE, ready="at 200 Hz")
    hand = start("robolearn.ros.teleop_joy", namespace=SPACE, ready="ready")
    stick = make_node("stick", SPACE).create_publisher(Joy, "joy", 1)
    until("the stick is heard", lambda: stick.get_subscription_count() > 0)
    with HostClient(SPACE) as client:

        def height() -> float:
            return float(client.report.observation["tool_pose"][2])

        def held(button: int) -> None:
            # Tool axes: z of the tool points down.
            stick.publish(Joy(axes=[0.0, 0.0, 0.0, 0.0, 1.0, 0.0], buttons=[0, 0, 0, 0, 0, button]))

        begun = height()

        def lowered(button: int, metres: float) -> bool:
            held(button)
            return begun - height() > metres

        number = client.report.number
        until("time has passed", lambda: lowered(0, 1.0) or client.report.number > number + 4)
        assert abs(height() - begun) < 0.001
        until("the arm is lowered", lambda: lowered(1, 0.01))

        # Silence: the hand lets go, the host holds, and a button that is still down does not count.
        still = client.report.number
        until("half a second", lambda: client.report.number > still + 8)
        stopped_at = height()
        again = client.report.number
        until("a stuck button", lambda: lowered(1, 1.0) or client.report.number > again + 4)
        assert abs(height() - stopped_at) < 0.001

    robot = f"ros2:{SPACE}"
    with LeaseTable.default() as table:
        with pytest.raises(LeaseError, match=f"{robot} is held by teleop"):
            table.acquire(Request("robot", robot), holder="train", ttl_s=1.0)
        assert hand.stop(signal.SIGINT) == 0
        assert [row.state for row in table.status() if row.resource.id == robot] == ["free"]
