"""Fingers that move: how far, how fast, how strongly, and what they hold."""

from __future__ import annotations

import numpy as np
import pytest
from moving_world import act, begin, scene

from robolearn.core.types import Command
from robolearn.sim import hand
from robolearn.sim.drivers import fr3_sim
from robolearn.sim.robot import SimRobot


def make(friction: float = 1.0) -> SimRobot:
    return fr3_sim.build(fr3_sim.Config(), scene=scene(friction))


@pytest.fixture
def robot() -> SimRobot:
    return make()


def opening(robot: SimRobot) -> float:
    return float(robot.observe()["gripper"][0])


def test_a_reset_opens_the_hand(robot: SimRobot) -> None:
    begin(robot, (0.5, 0.0, 0.3))
    act(robot, 6, grip=0.0)
    assert opening(robot) < 0.01
    begin(robot, (0.5, 0.0, 0.3))
    assert opening(robot) == 1.0


@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.75, 1.0])
def test_the_commanded_opening_is_absolute_and_is_reached(robot: SimRobot, wanted: float) -> None:
    begin(robot, (0.5, 0.0, 0.3))
    act(robot, 3, grip=0.5)
    act(robot, 8, grip=wanted)
    assert opening(robot) == pytest.approx(wanted, abs=0.003)
    np.testing.assert_array_equal(robot.apply(Command(np.array([0, 0, 0, 0, 0, 0, wanted]), 0))[6], wanted)


def test_fingers_move_at_their_speed_and_together(robot: SimRobot) -> None:
    begin(robot, (0.5, 0.0, 0.3))
    act(robot, 1, grip=0.0)
    before = opening(robot)
    act(robot, 1, grip=0.0)
    assert before - opening(robot) == pytest.approx(hand.SPEED * 0.1 / hand.STROKE_M, rel=0.02)
    left, right = (robot._data.joint(f"{side}_finger").qpos[0] for side in ("left", "right"))
    assert left == pytest.approx(right, abs=1e-5)


def test_squeezing_force_is_bounded_and_shows_nowhere_in_the_wrench(robot: SimRobot) -> None:
    begin(robot, (0.5, 0.0, 0.02))
    act(robot, 10, grip=0.0)
    assert opening(robot) == pytest.approx(0.5, abs=0.005)
    force = abs(float(robot._data.actuator("fingers").force[0]))
    assert force == pytest.approx(hand.STIFFNESS * opening(robot) * hand.STROKE_M, rel=0.02)
    assert force < hand.FORCE_N
    assert np.abs(robot.observe()["wrench"][:3]).max() < 0.5


def lift_and_shake(robot: SimRobot) -> tuple[float, float]:
    """Height of the cube after the lift [m], and how far it slipped in the hand in a shake of 5 s [m]."""
    begin(robot, (0.5, 0.0, 0.02))
    act(robot, 6, grip=0.0)
    act(robot, 24, move=(0, 0, -0.008), grip=0.0)
    raw = robot.observe()
    lifted, rng = float(raw["body/cube"][2]), np.random.default_rng(0)
    held = raw["body/cube"][:3] - raw["tcp_pose"][:3]
    for i in range(50):
        side = 0.008 * (-1.0) ** (i // 3)
        robot.apply(
            Command(np.array([side, -side, *rng.uniform(-0.004, 0.004, 1), *rng.uniform(-0.05, 0.05, 3), 0]), 0)
        )
    raw = robot.observe()
    return lifted, abs(float(np.linalg.norm(raw["body/cube"][:3] - raw["tcp_pose"][:3]) - np.linalg.norm(held)))


@pytest.mark.parametrize("friction", [1.0, 0.3])
def test_a_gripped_cube_stays_in_the_hand_when_shaken(friction: float) -> None:
    lifted, slip = lift_and_shake(make(friction))
    assert lifted > 0.08
    assert slip < 0.001


def test_without_friction_it_stays_on_the_table() -> None:
    lifted, _ = lift_and_shake(make(0.005))
    assert lifted < 0.025


def test_an_opened_hand_lets_go(robot: SimRobot) -> None:
    begin(robot, (0.5, 0.0, 0.02))
    act(robot, 6, grip=0.0)
    act(robot, 12, move=(0, 0, -0.008), grip=0.0)
    act(robot, 8, grip=1.0)
    raw = robot.observe()
    assert raw["body/cube"][2] == pytest.approx(0.02, abs=1e-3)
    assert raw["tcp_pose"][2] > 0.05


def test_a_closed_hand_meets_the_table_gently(robot: SimRobot) -> None:
    """Pads end 4 mm beyond the TCP; the table's contact is as soft as a held tool's."""
    begin(robot, (0.4, 0.1, 0.03))
    peaks = []
    for _ in range(30):
        act(robot, 1, move=(0, 0, 0.008), grip=0.0)
        peaks.append(float(robot.observe()["peak_force"][0]))
    assert max(peaks) < 20.0
    assert robot.observe()["wrench"][2] == pytest.approx(-8.0, abs=0.5)
    assert robot.observe()["tcp_pose"][2] == pytest.approx(0.004, abs=5e-4)
