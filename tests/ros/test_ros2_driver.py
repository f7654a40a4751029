"""The ros2 driver under the contract of all robot drivers: genuine messages, host and simulated arm as processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from faults import SPACE, World, world
from ros_world import until

pytest.importorskip("rclpy")

from robolearn.core.errors import ConfigError, LeaseError
from robolearn.core.spec import Array
from robolearn.core.types import Command, RobotSpec
from robolearn.hal.contract import RobotContract
from robolearn.hal.host.wire import Mode
from robolearn.ros.drivers import ros2

__all__ = ["world"]


class Offset:
    """A driver whose epochs start from a newer one than the host has seen; hosts remember for good."""

    def __init__(self, robot: ros2.Ros2Robot, base: int) -> None:
        self.robot, self.base = robot, base
        self.spec: RobotSpec = robot.spec
        self.taken = False

    def observe(self) -> dict[str, Array]:
        return self.robot.observe()

    def take(self, epoch: int) -> None:
        self.taken = True
        self.robot.take(epoch + self.base)

    def apply(self, command: Command) -> Array:
        self.taken = True
        return self.robot.apply(Command(command.action, command.epoch + self.base))

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        if not self.taken:
            self.robot.take(self.base)
        self.robot.reset(tcp_pose, scene)

    def stop(self, reason: str) -> None:
        self.robot.stop(reason)

    def clear(self) -> None:
        until("the host clears the stop", self._cleared, 5.0)

    def _cleared(self) -> bool:
        from robolearn.core.errors import RobotStoppedError

        try:
            self.robot.clear()
        except RobotStoppedError as error:
            if "still" not in str(error):
                raise
            return False
        return True

    def close(self) -> None:
        self.robot.close()


class TestRos2(RobotContract):
    """Run against the one simulated arm of these tests."""

    independent = False
    rotation_tolerance = 0.02  # the simulated wrist is soft, and its elbow still settles: 0.010 to 0.011 rad were seen

    @pytest.fixture(autouse=True)
    def _in_world(self, world: World) -> None:
        self._world = world

    def make_robot(self) -> Any:
        return Offset(ros2.build(ros2.Config(SPACE)), self._world.epoch())

    def motion(self) -> float | None:
        return float(np.linalg.norm(self._world.client.report.observation["tcp_twist"][:3])) - 0.002


def test_an_instance_needs_a_namespace() -> None:
    assert ros2.of_instance("fr3_1/").namespace == "/fr3_1"
    with pytest.raises(ConfigError, match="ros2:/fr3_1"):
        ros2.of_instance("/")


def test_it_tells_its_timing_and_that_it_is_simulated(world: World) -> None:
    robot = ros2.build(ros2.Config(SPACE))
    try:
        epoch = world.epoch()
        for _ in range(5):
            robot.apply(Command(np.zeros(7), epoch))
        timing = robot.timing()
        assert robot.places_bodies
        assert 0 <= timing["apply_p50_ms"] < 1000
        assert "jitter_p99_ms" in timing
    finally:
        robot.close()
    assert ros2.simulated(SPACE)


def test_a_namespace_without_a_host_is_told_with_what_is_there(world: World) -> None:
    from robolearn.ros.client import HostClient, HostSilentError

    with pytest.raises(HostSilentError, match=f"no robot host in /nowhere .*{SPACE}"):
        HostClient("/nowhere", patience_s=1.0)


def test_a_real_arm_places_no_bodies(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(world.client._status, "simulated", "false")
    with pytest.raises(LeaseError, match="real arm"):
        world.client.place("socket", np.array([0.5, 0, 0.1, 1, 0, 0, 0]))


def test_the_check_finds_a_fit_arm_fit_and_a_stopped_one_not(world: World) -> None:
    from robolearn.hal.check import failures

    fit = {finding.name for finding in failures(ros2.check(SPACE))}
    assert fit <= {"loop jitter p99", "longest gap", "joint feedback"}, "load may show, nothing else"
    world.client.stop("test")
    until("it is stopped", lambda: world.mode is Mode.STOPPED)
    assert "no stop latched" in {finding.name for finding in failures(ros2.check(SPACE))}
