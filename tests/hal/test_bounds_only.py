"""Robots that are no arms: finite actions within bounds are all that is asked, and only of what is harmless."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from robolearn.core.errors import ConfigError, RobotStoppedError, SpecError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Command, RobotSpec
from robolearn.hal.drivers import fake
from robolearn.hal.safety import BoundsOnly, SafeRobot


class Knob:
    """Two numbers that can be turned; nothing of an arm about it, but a key called gripper."""

    harmless: object = True

    def __init__(self) -> None:
        action = ArraySpec("action", (2,), "float64", "", (-1.0, 2.0), (1.0, 5.0))
        self.spec = RobotSpec("knob", {"gripper": ArraySpec("gripper", (), "float64")}, action, 10.0)
        self.sent: list[Array] = []
        self.started: list[tuple[Array, Mapping[str, Array]]] = []
        self.value, self.stopped = 0.0, ""

    def observe(self) -> dict[str, Array]:
        return {"gripper": np.array(self.value)}

    def apply(self, command: Command) -> Array:
        self.sent.append(command.action)
        return np.array(command.action)

    def take(self, epoch: int) -> None:
        pass

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        self.started.append((tcp_pose, scene))

    def stop(self, reason: str) -> None:
        self.stopped = reason

    def clear(self) -> None:
        self.stopped = ""

    def close(self) -> None:
        pass


def test_actions_are_clipped_and_counted() -> None:
    events: list[str] = []
    safe = SafeRobot(Knob(), BoundsOnly(), epoch=1, on_event=lambda kind, values: events.append(kind))
    safe.reset(np.zeros(0), {})
    np.testing.assert_array_equal(safe.apply([0.5, 3.0]), [0.5, 3.0])
    assert not safe.last_altered
    np.testing.assert_array_equal(safe.apply([-7.0, 9.0]), [-1.0, 5.0])
    assert safe.last_altered
    assert safe.counts["clipped"] == 1
    assert events == ["clipped"]


def test_what_is_no_action_is_rejected_and_the_least_is_sent() -> None:
    safe = SafeRobot(Knob(), BoundsOnly(), epoch=1)
    for wrong in ([np.nan, 3.0], [1.0], "up"):
        np.testing.assert_array_equal(safe.apply(wrong), [0.0, 2.0])
        assert safe.last_rejected
    assert safe.counts["rejected"] == 3


def test_a_start_is_its_own_business() -> None:
    knob = Knob()
    SafeRobot(knob, BoundsOnly(), epoch=1).reset(np.zeros(0), {"seed": np.array([3.0])})
    ((pose, scene),) = knob.started
    assert pose.size == 0
    assert scene["seed"][0] == 3.0


def test_observations_that_are_not_finite_stop_it() -> None:
    knob = Knob()
    safe = SafeRobot(knob, BoundsOnly(), epoch=1)
    knob.value = np.nan
    with pytest.raises(SpecError, match="finite"):
        safe.observe()
    assert knob.stopped
    with pytest.raises(RobotStoppedError):
        safe.apply([0.0, 3.0])


@pytest.mark.parametrize("harmless", [False, None, 1])
def test_what_could_do_harm_needs_more(harmless: object) -> None:
    knob = Knob()
    knob.harmless = harmless
    with pytest.raises(ConfigError, match="it needs SafetyLimits"):
        SafeRobot(knob, BoundsOnly(), epoch=1)


def test_an_arm_needs_more() -> None:
    with pytest.raises(ConfigError, match="it needs SafetyLimits"):
        SafeRobot(fake.build(fake.Config()), BoundsOnly(), epoch=1)
