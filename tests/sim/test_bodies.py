"""Bodies that move by themselves and bodies on threads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_world import ARMS, BOTTLE_AT, CUBE_AT, FRICTION, PITCH, act, begin, scene

from robolearn.core.errors import ConfigError
from robolearn.core.spec import validate_all
from robolearn.core.types import Command
from robolearn.sim.drivers import fr3_sim
from robolearn.sim.robot import SimRobot

FAR = (0.4, -0.1, 0.3)


@pytest.fixture(scope="module")
def robot() -> SimRobot:
    return fr3_sim.build(fr3_sim.Config(), scene=scene())


def test_the_observation_shows_bodies_and_screws_as_the_spec_says(robot: SimRobot) -> None:
    begin(robot, FAR, angle=1.5)
    raw = validate_all(robot.spec.observation, robot.observe())
    assert set(robot.spec.observation) == set(raw)
    np.testing.assert_array_equal(raw["body/cube"], CUBE_AT)
    np.testing.assert_array_equal(raw["joint/cap"], [1.5, 0.0])
    assert raw["joint_position"].shape == raw["joint_velocity"].shape == (7,)


def test_a_free_cube_rests_without_jitter_or_sinking(robot: SimRobot) -> None:
    begin(robot, FAR)
    act(robot, 10)
    poses = []
    for _ in range(20):
        act(robot, 1)
        poses.append(robot.observe()["body/cube"])
    assert np.ptp(np.array(poses), axis=0).max() < 1e-7
    np.testing.assert_allclose(poses[-1], CUBE_AT, atol=2e-5)


def test_a_dropped_cube_falls_and_is_stopped_by_the_table(robot: SimRobot) -> None:
    begin(robot, FAR)
    robot.reset(np.array([*FAR, 0, 1.0, 0, 0]), {"cube": CUBE_AT + np.array([0, 0, 0.05, 0, 0, 0, 0])})
    act(robot, 1)
    fallen = 0.07 - robot.observe()["body/cube"][2]
    assert 0.03 < fallen <= 0.5 * 9.81 * 0.1**2 + 2e-3
    act(robot, 10)
    np.testing.assert_allclose(robot.observe()["body/cube"][2], 0.02, atol=1e-4)


def turned_by(robot: SimRobot, torque: float, *, start: float, steps: int = 5) -> tuple[float, float, float]:
    """Angle, rate and lift [m] of the cap after a torque [N m] on it for some steps."""
    begin(robot, FAR, angle=start)
    dof = int(robot._model.joint("cap_turn").dofadr[0])
    robot._data.qfrc_applied[dof] = torque
    try:
        act(robot, steps)
        angle, rate = robot.observe()["joint/cap"]
        return float(angle), float(rate), float(robot._data.joint("cap_lift").qpos[0])
    finally:
        robot._data.qfrc_applied[dof] = 0.0


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_screw_turns_only_above_its_friction(robot: SimRobot, sign: float) -> None:
    held, _, _ = turned_by(robot, 0.9 * sign * FRICTION, start=3.0)
    assert held == pytest.approx(3.0, abs=2e-4)
    moved, _, _ = turned_by(robot, 1.1 * sign * FRICTION, start=3.0, steps=2)
    assert sign * (moved - 3.0) > 0.1


@pytest.mark.parametrize(("torque", "stop"), [(1.0, 2 * math.pi), (-1.0, 0.0)])
def test_stops_hold(robot: SimRobot, torque: float, stop: float) -> None:
    angle, rate, lift = turned_by(robot, torque, start=3.0)
    assert angle == pytest.approx(stop, abs=3e-3)
    assert abs(rate) < 1e-3
    assert lift == pytest.approx(stop * PITCH / (2 * math.pi), abs=5e-5)


@settings(max_examples=15, deadline=None)
@given(angle=st.floats(0.0, 2 * math.pi), torque=st.floats(-0.06, 0.06))
def test_it_advances_by_the_pitch_per_turn(robot: SimRobot, angle: float, torque: float) -> None:
    angle, _, lift = turned_by(robot, torque, start=angle, steps=1)
    assert lift == pytest.approx(angle * PITCH / (2 * math.pi), abs=2e-5)


def test_a_cap_stays_where_it_is_left(robot: SimRobot) -> None:
    begin(robot, FAR, angle=2.0)
    act(robot, 20)
    np.testing.assert_allclose(robot.observe()["joint/cap"], [2.0, 0.0], atol=1e-5)


def test_a_gripped_cap_turns_with_the_hand(robot: SimRobot) -> None:
    begin(robot, (0.5, 0.15, 0.075))
    act(robot, 6, grip=0.0)
    start = robot.observe()["tool_pose"][3:]
    act(robot, 20, yaw=-0.05, grip=0.0)  # the tip's z points down: unscrews
    raw = robot.observe()
    turned = 2.0 * math.acos(min(1.0, abs(float(start @ raw["tool_pose"][3:]))))
    assert turned > 0.3
    assert raw["joint/cap"][0] == pytest.approx(turned, abs=0.02)


@pytest.mark.parametrize("arm", list(ARMS))
def test_same_calls_give_the_same_bits(arm: str) -> None:
    ends = []
    for _ in range(2):
        robot = ARMS[arm].build(ARMS[arm].Config(), scene=scene())
        for _ in range(2):  # and an episode does not depend on the one before
            rng = np.random.default_rng(5)
            begin(robot, (0.5, 0.0, 0.03), angle=0.5)
            for i in range(12):
                move = rng.uniform(-0.008, 0.008, 3)
                robot.apply(Command(np.array([*move, 0, 0, *rng.uniform(-0.1, 0.1, 1), float(i % 6 < 2)]), 0))
            ends.append(robot.observe())
    for other in ends[1:]:
        for key, value in ends[0].items():
            np.testing.assert_array_equal(value, other[key])


def test_what_a_reset_does_not_name_returns_to_where_the_last_one_put_it(robot: SimRobot) -> None:
    begin(robot, (0.5, 0.0, 0.02), angle=1.0)
    act(robot, 6, grip=0.0)
    act(robot, 6, move=(0, 0, -0.008), grip=0.0)
    robot.reset(np.array([*FAR, 0, 1.0, 0, 0]), {"cap": np.array([2.0])})
    raw = robot.observe()
    np.testing.assert_array_equal(raw["body/cube"], CUBE_AT)
    np.testing.assert_array_equal(raw["joint/cap"], [2.0, 0.0])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"cub": CUBE_AT}, "unknown body 'cub'; did you mean 'cube'"),
        ({"cube": CUBE_AT[:3]}, "'cube': expected 7 finite numbers"),
        ({"cube": CUBE_AT * 2}, "'cube': expected a unit quaternion"),
        ({"cube": np.full(7, np.nan)}, "'cube': expected 7 finite numbers"),
        ({"bottle": BOTTLE_AT[:4]}, "'bottle': expected 7 finite numbers"),
        ({"cap": BOTTLE_AT}, "'cap': expected 1 finite numbers"),
        ({"cap": np.array([7.0])}, "'cap': expected an angle in 0..6.28319 rad, got 7"),
    ],
)
def test_a_wrong_place_is_refused(robot: SimRobot, places: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        robot.reset(np.array([*FAR, 0, 1.0, 0, 0]), places)


@pytest.mark.render
def test_cameras_show_what_moves() -> None:
    watched = fr3_sim.build(fr3_sim.Config(), scene=scene(), cameras=("wrist", "side", "front"))
    try:
        pictures = []
        for shift, angle in ((0.0, 0.0), (0.06, 6.0)):
            begin(watched, (0.5, 0.0, 0.15), angle=angle)
            watched.reset(
                np.array([0.5, 0, 0.15, 0, 1.0, 0, 0]), {"cube": CUBE_AT + np.array([0, shift, 0, 0, 0, 0, 0])}
            )
            pictures.append({k: v.astype(int) for k, v in watched.observe().items() if k.startswith("camera/")})
        for key, picture in pictures[0].items():
            assert picture.std() > 15, key
            assert np.abs(picture - pictures[1][key]).max() > 50, key
    finally:
        watched.close()
