"""The simulated arm that goes on by itself."""

from __future__ import annotations

import numpy as np
import pytest

from robolearn.core.errors import ConfigError
from robolearn.sim.drivers import fr3_sim
from robolearn.sim.joint_control import JointReference, Trajectory
from robolearn.sim.live_arm import Config, LiveArm
from robolearn.sim.tasks import peg_insert

SCENE = peg_insert.scene(peg_insert.TIERS["default"])
HOLE = np.array([*peg_insert.OPENING_M, *peg_insert.TURN_DOWN])


@pytest.fixture
def arm() -> LiveArm:
    return LiveArm(SCENE)


def steps(arm: LiveArm, seconds: float) -> None:
    for _ in range(round(seconds / 0.002)):
        arm.step()


def test_it_is_the_arm_of_the_driver_to_the_last_bit(arm: LiveArm) -> None:
    robot = fr3_sim.build(fr3_sim.Config(), scene=SCENE)
    robot._data.mocap_pos[:], robot._data.mocap_quat[:] = HOLE[:3], HOLE[3:]
    robot._settle(arm.home())
    arm.place("socket", HOLE)
    target = arm.tip_pose() + np.array([0.005, 0.0, -0.004, 0, 0, 0, 0])
    robot._control.ref_position[:] = target[:3]
    arm.aim_pose(target)
    for _ in range(3):
        robot._advance()
        steps(arm, 0.1)
        assert np.array_equal(arm.data.qpos, robot._data.qpos)
        assert np.array_equal(arm.data.qvel, robot._data.qvel)
        assert np.allclose(arm.wrench, robot._forces[-1], atol=1e-9)


def test_it_holds_home(arm: LiveArm) -> None:
    steps(arm, 1.0)
    assert np.abs(arm.data.qpos - arm.home()).max() < 1e-6
    assert arm.readings == 100


def test_a_pose_is_reached_and_its_force_is_limited(arm: LiveArm) -> None:
    start = arm.tip_pose()
    target = start + np.array([0.05, -0.03, -0.04, 0, 0, 0, 0])
    arm.aim_pose(target)
    fastest = 0.0
    for _ in range(2500):
        arm.step()
        fastest = max(fastest, float(np.linalg.norm(arm.tip_twist()[:3])))
    assert np.linalg.norm(arm.tip_pose()[:3] - target[:3]) < 0.001
    assert fastest < 0.05  # 8 N against 180 N s/m


def test_a_large_turn_is_reached(arm: LiveArm) -> None:
    target = arm.tip_pose()
    turned = np.array([np.cos(0.6), 0.0, 0.0, np.sin(0.6)])  # 1.2 rad about the base's z
    w, x, y, z = target[3:]
    a, _, _, d = turned
    target[3:] = [a * w - d * z, a * x - d * y, a * y + d * x, a * z + d * w]
    arm.aim_pose(target)
    steps(arm, 8.0)
    assert abs(float(arm.tip_pose()[3:] @ target[3:])) > np.cos(0.05)


def test_a_twist_moves_the_tip_and_ends_when_it_grows_stale(arm: LiveArm) -> None:
    for _ in range(50):
        arm.aim_twist(np.array([0.03, 0.0, 0.0, 0.0, 0.0, 0.0]))
        steps(arm, 0.02)
    assert arm.tip_twist()[0] == pytest.approx(0.03, rel=0.1)
    steps(arm, 0.1)
    there = arm.tip_pose()
    steps(arm, 1.0)
    assert np.linalg.norm(arm.tip_pose()[:3] - there[:3]) < 0.004
    assert np.linalg.norm(arm.tip_twist()[:3]) < 0.002


def test_a_zero_twist_stops_at_once(arm: LiveArm) -> None:
    for _ in range(20):
        arm.aim_twist(np.array([0.03, 0.0, 0.0, 0.0, 0.0, 0.0]))
        steps(arm, 0.02)
    arm.aim_twist(np.zeros(6))
    steps(arm, 0.1)
    assert np.linalg.norm(arm.tip_twist()[:3]) < 0.003


def test_a_twist_against_an_obstacle_does_not_wind_up(arm: LiveArm) -> None:
    arm.push(np.array([-8.0, 0.0, 0.0]), 2.0)  # as strong as the spring at its limit
    for _ in range(100):
        arm.aim_twist(np.array([0.04, 0.0, 0.0, 0.0, 0.0, 0.0]))
        steps(arm, 0.02)
    there = arm.tip_pose()
    steps(arm, 0.5)  # the obstacle and the command are gone
    assert np.linalg.norm(arm.tip_pose()[:3] - there[:3]) < 0.012


def test_a_one_point_trajectory_is_followed_and_stops(arm: LiveArm) -> None:
    goal = arm.home() + np.array([0.2, 0.1, 0.0, -0.1, 0.0, 0.1, 0.2])
    arm.follow(Trajectory(goal[None], np.array([1.0])))
    steps(arm, 0.5)
    assert np.abs(arm.data.qpos - (arm.home() + goal) / 2).max() < 0.02
    steps(arm, 1.5)
    assert np.abs(arm.data.qpos - goal).max() < 0.003
    assert np.abs(arm.data.qvel).max() < 0.01


def test_forward_holds_the_last_value_for_ever(arm: LiveArm) -> None:
    goal = arm.home() + 0.05
    arm.forward(goal)
    steps(arm, 5.0)
    assert np.abs(arm.data.qpos - goal).max() < 1e-3


def test_changing_controllers_does_not_jump(arm: LiveArm) -> None:
    arm.forward(arm.home() + 0.05)
    steps(arm, 2.0)
    arm.aim_twist(np.zeros(6))
    steps(arm, 0.2)
    assert np.abs(arm.data.qvel).max() < 0.02
    arm.follow(Trajectory(arm.data.qpos.copy()[None], np.array([0.1])))
    steps(arm, 0.2)
    assert np.abs(arm.data.qvel).max() < 0.02


def test_a_push_shows_in_the_wrench_and_ends(arm: LiveArm) -> None:
    steps(arm, 0.1)
    arm.push(np.array([0.0, 0.0, 40.0]), 0.1)
    steps(arm, 0.1)
    assert np.linalg.norm(arm.wrench[:3]) == pytest.approx(40.0, abs=1.0)
    assert arm.wrench[2] < 0  # upwards is out of the work, against the tip's z
    assert np.abs(arm.wrench[3:]).max() < 0.2
    steps(arm, 0.3)
    assert np.linalg.norm(arm.wrench[:3]) < 1.0


def test_a_socket_is_felt_where_it_is_placed(arm: LiveArm) -> None:
    tip = arm.tip_pose()
    arm.place("socket", np.array([tip[0] + 0.03, tip[1], tip[2] - 0.01, *peg_insert.TURN_DOWN]))
    arm.aim_pose(tip + np.array([0, 0, -0.05, 0, 0, 0, 0]))
    steps(arm, 2.0)
    assert arm.tip_pose()[2] > tip[2] - 0.015
    assert 5.0 < np.linalg.norm(arm.wrench[:3]) < 12.0


def test_restart_stands_at_home_with_nothing_remembered(arm: LiveArm) -> None:
    arm.forward(arm.home() + 0.3)
    steps(arm, 0.1)
    arm.push(np.array([40.0, 0, 0]), 1.0)
    arm.restart()
    steps(arm, 0.5)
    assert np.abs(arm.data.qpos - arm.home()).max() < 1e-6
    assert np.abs(arm.wrench).max() < 1e-6


def test_the_home_seed_displaces_home() -> None:
    first, second = LiveArm(SCENE, Config(home_seed=1)).home(), LiveArm(SCENE, Config(home_seed=2)).home()
    assert 0.0 < np.abs(first - second).max() < 0.06
    assert np.array_equal(first, LiveArm(SCENE, Config(home_seed=1)).home())


def test_the_hand_does_not_let_go(arm: LiveArm) -> None:
    arm.grip(1.0)
    assert arm.gripper_command == arm.gripper == fr3_sim.GRIPPER


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (lambda arm: arm.aim_pose(np.array([0.3, 0, 0.3, 1.0, 1.0, 0, 0])), "unit quaternion"),
        (lambda arm: arm.aim_pose(np.array([np.nan, 0, 0.3, 1.0, 0, 0, 0])), "not finite"),
        (lambda arm: arm.aim_twist(np.zeros(5)), "expected 6 numbers"),
        (lambda arm: arm.forward(np.full(7, np.inf)), "not finite"),
        (lambda arm: arm.place("sokcet", HOLE), "did you mean 'socket'"),
        (lambda arm: arm.follow(Trajectory(np.zeros((2, 7)), np.array([0.2, 0.1]))), "times must rise"),
        (lambda arm: arm.follow(Trajectory(np.zeros((1, 6)), np.array([0.2]))), "expected positions"),
        (lambda arm: arm.grip(float("nan")), "not finite"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(arm: LiveArm, command: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        command(arm)  # type: ignore[operator]
    steps(arm, 0.2)
    assert np.abs(arm.data.qpos - arm.home()).max() < 1e-6
    assert arm.mode == "pose"


def test_a_reference_is_replaced_from_where_it_is() -> None:
    reference = JointReference(np.zeros(7))
    reference.follow(Trajectory(np.ones((1, 7)), np.array([1.0])))
    reference.advance(0.5)
    assert np.allclose(reference.position, 0.5)
    reference.follow(Trajectory(np.zeros((1, 7)), np.array([0.5])))
    reference.advance(0.25)
    assert np.allclose(reference.position, 0.25)
    assert np.allclose(reference.velocity, -1.0)
    reference.advance(1.0)
    assert np.allclose(reference.position, 0.0)
    assert np.allclose(reference.velocity, 0.0)


def test_velocities_make_it_smooth() -> None:
    reference = JointReference(np.zeros(7))
    reference.follow(Trajectory(np.array([[1.0] * 7, [0.0] * 7]), np.array([1.0, 2.0]), np.zeros((2, 7))))
    seen = []
    for _ in range(200):
        reference.advance(0.01)
        seen.append((reference.position[0], reference.velocity[0]))
    positions, velocities = np.array(seen).T
    assert positions.max() == pytest.approx(1.0)
    assert np.abs(np.diff(velocities)).max() < 0.1
    assert np.abs(np.gradient(positions, 0.01)[1:-1] - velocities[1:-1]).max() < 0.01


def test_a_point_without_time_is_gone_to_at_once() -> None:
    reference = JointReference(np.zeros(7))
    reference.follow(Trajectory(np.ones((1, 7)), np.zeros(1)))
    reference.advance(0.002)
    assert np.allclose(reference.position, 1.0)
