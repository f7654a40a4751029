"""What the sensor at the tip carries is taken out of its reading, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from moving_world import ARMS, DOWN, FORWARD, act, begin, scene

from robolearn.sim import rotation
from robolearn.sim.robot import SimRobot

TILTED = rotation.multiply(DOWN, rotation.from_rotvec(np.array([0.3, -0.4, 1.0])))


def make(name: str) -> SimRobot:
    robot: SimRobot = ARMS[name].build(ARMS[name].Config(), scene=scene())
    return robot


@pytest.mark.parametrize("name", list(ARMS))
@pytest.mark.parametrize("turn", [DOWN, FORWARD, TILTED])
def test_an_empty_hand_at_rest_feels_nothing_however_it_is_turned(name: str, turn: np.ndarray) -> None:
    robot = make(name)
    begin(robot, (0.42, 0.0, 0.2), turn=turn)
    for grip in (1.0, 0.3):
        act(robot, 10, grip=grip)
        wrench = robot.observe()["wrench"]
        assert np.abs(wrench[:3]).max() < 0.02
        assert np.abs(wrench[3:]).max() < 0.002


def test_what_the_fingers_hold_shows_as_its_weight() -> None:
    robot = make("fr3")
    begin(robot, (0.5, 0.0, 0.02))
    act(robot, 6, grip=0.0)
    act(robot, 20, move=(0, 0, -0.008), grip=0.0)
    act(robot, 10, grip=0.0)
    assert robot.observe()["wrench"][2] == pytest.approx(0.05 * 9.81, abs=0.05)  # the tip's z points down
