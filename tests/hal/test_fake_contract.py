"""The fake robot keeps the contract, and the contract notices drivers that do not."""

from collections.abc import Callable

import numpy as np
import pytest

from robolearn.core.clock import FakeClock
from robolearn.core.errors import ConfigError, RobotStoppedError, StaleEpochError
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array
from robolearn.core.types import Command
from robolearn.hal.contract import ContractError, RobotContract
from robolearn.hal.drivers import fake


class TestFakeContract(RobotContract):
    deterministic = True

    def make_robot(self) -> Robot:
        return fake.build(fake.Config())


class Broken(fake.FakeRobot):
    """A fake with one fault of a driver author."""

    def __init__(self, fault: str) -> None:
        super().__init__(fake.Config(), FakeClock(), realtime=False)
        self.fault = fault

    def observe(self) -> dict[str, Array]:
        raw = super().observe()
        if self.fault == "missing key":
            del raw["wrench"]
        if self.fault == "aliased":
            raw["tcp_pose"] = self._pose
        return raw

    def apply(self, command: Command) -> Array:
        if self.fault == "no fence":
            self._epoch = -1
        if self.fault == "no latch":
            self._stopped = ""
        if self.fault == "no check":
            finite = np.nan_to_num(np.resize(command.action, 7), posinf=0.0)
            command = Command(self.spec.action.clip(finite), command.epoch)
        if self.fault == "moves before refusing":
            self._pose = self._pose + 0.001
        return super().apply(command)

    def reset(self, tcp_pose: Array, scene: object) -> None:
        if self.fault == "forgets the epoch":
            self._epoch = -1
        super().reset(tcp_pose + (0.01 if self.fault == "misses" else 0.0), {})
        if self.fault == "random":
            self._pose = self._pose + np.random.default_rng().uniform(0, 1e-6, 7)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("missing key", "test_observation_fits_the_spec"),
        ("aliased", "test_observations_are_the_callers"),
        ("no fence", "test_an_older_epoch_is_refused"),
        ("forgets the epoch", "test_the_epoch_outlives_a_reset_and_a_stop"),
        ("no latch", "test_a_stop_latches"),
        ("no check", "test_bad_actions_are_refused"),
        ("moves before refusing", "test_bad_actions_are_refused"),
        ("misses", "test_reset_reaches_the_pose"),
        ("random", "test_determinism"),
    ],
)
def test_the_contract_notices(fault: str, check: str) -> None:
    class Suite(RobotContract):
        deterministic = True

        def make_robot(self) -> Robot:
            return Broken(fault)

    caught = (ContractError, StaleEpochError, RobotStoppedError, ValueError)
    run: Callable[[], None] = getattr(Suite(), check)
    with pytest.raises(caught):
        run()


def test_a_lagging_fake_says_what_it_really_did() -> None:
    robot = fake.build(fake.Config(faults=fake.Faults(lag=0.5)))
    start = robot.observe()["tcp_pose"]
    sent = robot.apply(Command(np.array([0.02, 0, 0, 0, 0, 0, 1.0]), 1))
    np.testing.assert_allclose(sent, [0.01, 0, 0, 0, 0, 0, 1.0])
    np.testing.assert_allclose(np.linalg.norm(robot.observe()["tcp_pose"][:3] - start[:3]), 0.01)


def test_frozen_observations_stay_while_the_robot_moves() -> None:
    robot = fake.build(fake.Config(faults=fake.Faults(frozen=True)))
    before = robot.observe()["tcp_pose"]
    robot.apply(Command(np.array([0.02, 0, 0, 0, 0, 0, 0.0]), 1))
    np.testing.assert_array_equal(robot.observe()["tcp_pose"], before)
    robot.faults = fake.Faults()
    assert not np.array_equal(robot.observe()["tcp_pose"], before)


def test_real_time_keeps_absolute_deadlines() -> None:
    clock = FakeClock(1_000)
    robot = fake.build(fake.Config(), realtime=True, clock=clock)
    ends = []
    for work_s in (0.0, 0.03, 0.09, 0.35, 0.0):
        clock.advance(work_s)
        robot.apply(Command(np.zeros(7), 1))
        ends.append(clock.now_ns())
    period = 100_000_000
    assert ends[:3] == [1_000 + period, 1_000 + 2 * period, 1_000 + 3 * period]
    assert ends[3] == ends[2] + 350_000_000 + period  # too late to catch up: a new start
    assert ends[4] == ends[3] + period


def test_cameras_are_refused() -> None:
    with pytest.raises(ConfigError, match="no cameras"):
        fake.build(fake.Config(), cameras=("wrist",))
