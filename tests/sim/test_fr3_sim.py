"""The simulated arm as a robot: motion, force, fences, stops, time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from sim_world import at, place

from robolearn.core.clock import FakeClock
from robolearn.core.errors import ConfigError, RobotStoppedError, SpecError, StaleEpochError
from robolearn.core.protocols import Robot
from robolearn.core.spec import validate_all
from robolearn.core.types import Command
from robolearn.sim import rotation

Make = Callable[..., tuple]


def _act(dx: float = 0.0, dy: float = 0.0, dz: float = 0.0, turn: tuple[float, ...] = (0, 0, 0)) -> Command:
    return Command(np.array([dx, dy, dz, *turn, 0.0]), 0)


def test_is_a_robot_whose_observations_match_its_spec(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(20, 10, -30))
    assert isinstance(robot, Robot)
    validate_all(robot.spec.observation, robot.observe())
    sent = robot.apply(_act(0.004, -0.002, 0.001))
    np.testing.assert_array_equal(sent, [0.004, -0.002, 0.001, 0, 0, 0, 0])
    raw = validate_all(robot.spec.observation, robot.observe())
    np.testing.assert_array_equal(raw["action"], sent)


def test_reset_puts_the_tip_where_it_is_wanted_and_at_rest(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(10, -20, -25))
    raw = robot.observe()
    np.testing.assert_allclose(raw["tool_pose"], at(10, -20, -25), atol=1e-5)
    np.testing.assert_allclose(raw["tcp_pose"][:3], at(10, -20, -25 - 70)[:3], atol=1e-5)
    assert not raw["joint_velocity"].any()
    np.testing.assert_allclose(raw["wrench"], 0, atol=1e-9)


def test_stands_still_without_a_command(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -30))
    before = robot.observe()["tool_pose"]
    for _ in range(20):
        robot.apply(_act())
    np.testing.assert_allclose(robot.observe()["tool_pose"], before, atol=2e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_moves_in_tip_axes_without_overshoot(make: Make, axis: int) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -60))
    start = robot.observe()["tool_pose"]
    delta = np.zeros(3)
    delta[axis] = 0.004
    robot.apply(_act(*delta))
    for _ in range(5):
        robot.apply(_act())
    end = robot.observe()["tool_pose"]
    moved = rotation.matrix(start[3:]).T @ (end[:3] - start[:3])
    assert 0.0015 < moved[axis] <= 0.004
    assert np.abs(np.delete(moved, axis)).max() < 2e-4


def test_rotation_reference_persists_and_is_approached(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -60))
    start = robot.observe()["tool_pose"][3:]
    robot.apply(_act(turn=(0.0, 0.0, 0.05)))
    for _ in range(30):
        robot.apply(_act())
    raw = robot.observe()
    wanted, turned = (
        rotation.to_rotvec(rotation.multiply(rotation.conjugate(start), raw[key][-4:]))
        for key in ("tool_reference", "tool_pose")
    )
    np.testing.assert_allclose(wanted, [0, 0, 0.05], atol=1e-9)
    np.testing.assert_allclose(turned, wanted, atol=4e-3)


def test_rotation_reference_leads_by_a_bounded_angle_and_says_what_was_sent(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -60))
    sent = [robot.apply(_act(turn=(0.0, 0.0, 0.1)))[5] for _ in range(3)]
    assert sent[0] == pytest.approx(0.1)
    assert sent[1] < 0.099
    before = robot.observe()["tool_reference"]
    executed = robot.apply(_act(turn=(0.0, 0.0, 0.1)))
    after = robot.observe()["tool_reference"]
    turned = rotation.to_rotvec(rotation.multiply(rotation.conjugate(before), after))
    np.testing.assert_allclose(turned, executed[3:6], atol=1e-9)


def test_pressing_force_is_stiffness_times_displacement_and_points_back(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(20, 0, -1))
    for dz, newton in ((0.002, 2.0), (0.005, 5.0), (0.008, 8.0)):
        for _ in range(12):
            robot.apply(_act(dz=dz))
        raw = robot.observe()
        assert raw["wrench"][2] == pytest.approx(-newton, abs=0.3), "the environment pushes the tip back"
        assert np.abs(raw["wrench"][:2]).max() < 0.3
        assert raw["tool_pose"][2] > 0.05 - 2e-4, "the peg does not sink in"


def test_torque_about_the_tip_tells_the_side_of_the_contact(make: Make) -> None:
    robot, task = make()
    torque = {}
    for side in (-1.0, 1.0):
        place(robot, task, at(side * 3, 0, -1))
        for _ in range(10):
            robot.apply(_act(dz=0.005))
        torque[side] = robot.observe()["wrench"][4]
    # The wall under the +x edge pushes up (-z of the tip) at +x: torque x cross F about +y.
    assert torque[1.0] > 0.02
    assert torque[-1.0] < -0.02


def test_pressed_peg_sticks_below_the_friction_limit_and_slides_above(make: Make) -> None:
    robot, task = make()
    moved = {}
    for lateral in (0.001, 0.004):
        place(robot, task, at(20, 0, -0.5))
        for _ in range(6):
            robot.apply(_act(dz=0.005))
        start = robot.observe()["tool_pose"][1]
        for _ in range(8):
            robot.apply(_act(dy=lateral, dz=0.005))
        moved[lateral] = abs(robot.observe()["tool_pose"][1] - start)
    assert moved[0.001] < 5e-5  # 1 N against 0.3 * 5 N
    assert moved[0.004] > 4e-3


def test_impact_at_full_speed_stays_gentle(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(20, 0, -25))
    peaks = []
    for _ in range(20):
        robot.apply(_act(dz=0.008))
        peaks.append(float(robot.observe()["peak_force"][0]))
    assert 8.0 < max(peaks) < 18.0
    assert peaks[0] < 0.5


def test_peak_force_is_of_all_directions_and_of_the_whole_period(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, 20))
    peaks, ends = [], []
    for _ in range(10):
        robot.apply(_act(dx=0.008))
        raw = robot.observe()
        peaks.append(float(raw["peak_force"][0]))
        ends.append(float(np.linalg.norm(raw["wrench"][:3])))
    assert peaks[-1] == pytest.approx(8.0, abs=0.5), "sideways against the wall of the socket"
    assert max(np.array(peaks) - np.array(ends)) > 0.5, "the largest reading of the period, not the mean at its end"


def test_same_calls_give_the_same_bits(make: Make) -> None:
    ends = []
    for _ in range(2):
        robot, task = make()
        task.reset(robot, np.random.default_rng(3))
        rng = np.random.default_rng(5)
        for _ in range(25):
            robot.apply(Command(np.append(rng.uniform(-0.008, 0.008, 3), [0, 0, 0, 0]), 0))
        ends.append(robot.observe())
    for key, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][key])


def test_an_episode_does_not_depend_on_the_one_before(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(5, 5, -20))
    fresh = [robot.apply(_act(dz=0.004)) is not None and robot.observe() for _ in range(12)]
    for _ in range(30):
        robot.apply(_act(dx=0.008, dz=0.008))
    place(robot, task, at(5, 5, -20))
    again = [robot.apply(_act(dz=0.004)) is not None and robot.observe() for _ in range(12)]
    for one, two in zip(fresh, again, strict=True):
        np.testing.assert_array_equal(one["joint_position"], two["joint_position"])
        np.testing.assert_array_equal(one["wrench"], two["wrench"])


@pytest.mark.parametrize(
    "action",
    [np.full(7, np.nan), np.zeros(6), np.array([0.5, 0, 0, 0, 0, 0, 0]), np.array(["a"] * 7)],
    ids=["nan", "short", "too far", "text"],
)
def test_refuses_what_is_not_an_action_and_does_not_move(make: Make, action: np.ndarray) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -30))
    before = robot.observe()["joint_position"]
    with pytest.raises(SpecError, match="expected"):
        robot.apply(Command(action, 0))
    np.testing.assert_array_equal(robot.observe()["joint_position"], before)


def test_older_epoch_is_refused_and_newer_taken(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -30))
    robot.apply(Command(np.zeros(7), 4))
    with pytest.raises(StaleEpochError, match=r"epoch 3.*epoch 4"):
        robot.apply(Command(np.zeros(7), 3))
    robot.apply(Command(np.zeros(7), 5))
    with pytest.raises(StaleEpochError):
        robot.apply(Command(np.zeros(7), 4))


def test_stop_latches_until_cleared(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -30))
    robot.apply(_act(dx=0.008))
    robot.stop("hand in the cell")
    robot.stop("second reason")
    assert not robot.observe()["joint_velocity"].any()
    with pytest.raises(RobotStoppedError, match="hand in the cell"):
        robot.apply(_act())
    with pytest.raises(RobotStoppedError):
        place(robot, task, at(0, 0, -30))
    robot.clear()
    robot.apply(_act())


def test_unknown_camera_and_body_are_named(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"'wirst'; did you mean 'wrist'"):
        make(cameras=("wirst",))
    robot, _ = make()
    with pytest.raises(ConfigError, match=r"'sockte'; did you mean 'socket'"):
        robot.reset(at(0, 0, -100), {"sockte": at(0, 0, 0)})


def test_real_time_keeps_absolute_deadlines(make: Make) -> None:
    clock = FakeClock(7_000_000_000)
    robot, task = make(realtime=True, clock=clock)
    place(robot, task, at(0, 0, -30))
    start = clock.now_ns()
    robot.apply(_act())
    assert clock.now_ns() - start == 100_000_000
    clock.advance(0.03)  # thinking does not shift the beat
    robot.apply(_act())
    assert clock.now_ns() - start == 200_000_000
    clock.advance(5.0)  # a long pause is not made up for
    robot.apply(_act())
    robot.apply(_act())
    assert clock.now_ns() - start == 5_300_000_000


def test_close_is_idempotent(make: Make) -> None:
    robot, _ = make()
    robot.close()
    robot.close()


def test_without_cameras_nothing_imports_opengl() -> None:
    code = (
        "import sys; from robolearn.sim.drivers import fr3_sim; from robolearn.sim.tasks import peg_insert as t\n"
        "fr3_sim.build(fr3_sim.Config(), scene=t.scene(t.Config())).observe()\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('OpenGL', 'torch') or m == 'robolearn.sim.render'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": ""}, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
