"""The contract notices drivers that go on moving, hang or do not heed a stop."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from robolearn.core.clock import FakeClock
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array
from robolearn.core.types import Command
from robolearn.hal.contract import ContractError, RobotContract
from robolearn.hal.drivers import fake


class Restless(fake.FakeRobot):
    """A fake with one fault of a driver that has a life of its own."""

    def __init__(self, fault: str) -> None:
        super().__init__(fake.Config(), FakeClock(), realtime=False)
        self.fault = fault
        self.driven = False

    def observe(self) -> dict[str, Array]:
        drifts = self.fault == "drifts" or (self.fault == "drifts when stopped" and self._stopped)
        if drifts and self.driven:
            self._pose = self._pose + np.array([0.002, 0, 0, 0, 0, 0, 0])
        return super().observe()

    def apply(self, command: Command) -> Array:
        self.driven = True
        if self.fault == "slow":
            time.sleep(0.25)
        if self.fault == "deaf":
            self._stopped = ""
        return super().apply(command)


def suite(fault: str) -> RobotContract:
    class Suite(RobotContract):
        rest_s = 0.3
        patience_s = 0.2

        def make_robot(self) -> Robot:
            return Restless(fault)

        def motion(self) -> float | None:
            return 0.1 if fault == "moves when closed" else None

    return Suite()


@pytest.mark.parametrize(
    ("fault", "check", "why"),
    [
        ("drifts", "test_silence_stops", "still moves"),
        ("drifts when stopped", "test_a_stop_ends_motion", "after a stop"),
        ("moves when closed", "test_close_amid_motion_stops", "after close"),
        ("slow", "test_apply_returns_in_time", "apply takes"),
    ],
)
def test_it_notices(fault: str, check: str, why: str) -> None:
    run: Callable[[], None] = getattr(suite(fault), check)
    with pytest.raises(ContractError, match=why):
        run()
    getattr(suite(""), check)()


def test_it_notices_a_stop_that_is_not_heeded() -> None:
    broken = suite("deaf")
    robot = Restless("deaf")
    broken.make_robot = lambda: robot  # type: ignore[method-assign]
    with pytest.raises(ContractError, match="after a stop"):
        broken.test_a_stop_from_another_thread_ends_apply()
    robot.fault = ""  # lets the thread that is still driving end
    robot.stop("test")
