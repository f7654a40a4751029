"""The simulated UR5e: published numbers, reach, and the same behaviour as the other arm."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest
from moving_world import ARMS, DOWN, FORWARD, act, begin, scene
from sim_world import OPENING, at, place, run

from robolearn.core.spec import validate_all
from robolearn.core.types import Command, Skill
from robolearn.hal.chain import Chain
from robolearn.hal.safety import SafeRobot
from robolearn.sim import arm, rotation
from robolearn.sim.drivers import fr3_sim, ur5e_sim
from robolearn.sim.robot import SimRobot
from robolearn.sim.tasks import peg_insert
from robolearn.sim.tasks.peg_insert import PegInsert

# Universal Robots' Denavit-Hartenberg parameters: a, d [m], alpha [rad].
DH = (
    (0.0, 0.1625, np.pi / 2),
    (-0.425, 0.0, 0.0),
    (-0.3922, 0.0, 0.0),
    (0.0, 0.1333, np.pi / 2),
    (0.0, 0.0997, -np.pi / 2),
    (0.0, 0.0996, 0.0),
)


@pytest.fixture
def pair() -> Iterator[tuple[SimRobot, PegInsert]]:
    config = peg_insert.TIERS["default"]
    robot = ur5e_sim.build(ur5e_sim.Config(), scene=peg_insert.scene(config))
    yield robot, peg_insert.build(config)
    robot.close()


def flange(q: np.ndarray) -> np.ndarray:
    """(4, 4) frame of the flange by the published table, base frame of the arm."""
    frame = np.eye(4)
    for angle, (a, d, alpha) in zip(q, DH, strict=True):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(angle), np.sin(angle)
        frame = frame @ np.array(
            [[ct, -st * ca, st * sa, a * ct], [st, ct * ca, -ct * sa, a * st], [0, sa, ca, d], [0, 0, 0, 1]]
        )
    return frame


def test_its_flange_is_where_the_published_table_puts_it() -> None:
    model = arm.build(scene(), "ur5e")
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(20):
        q = rng.uniform(-3, 3, 6)
        data.qpos[:6] = q
        mujoco.mj_kinematics(model, data)
        wanted = flange(q)
        stand = np.array(arm.ARMS["ur5e"].stand)
        np.testing.assert_allclose(data.body("hand").xpos, wanted[:3, 3] + stand, atol=1e-9)
        np.testing.assert_allclose(data.body("hand").xmat.reshape(3, 3), wanted[:3, :3], atol=1e-9)


def test_the_chain_of_the_hardware_layer_is_the_same_arm() -> None:
    model, chain = arm.build(scene(), "ur5e"), Chain.load("ur5e")
    data, q = mujoco.MjData(model), np.random.default_rng(1).uniform(-2, 2, 6)
    data.qpos[:6] = q
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(chain.pose(q)[:3] + arm.ARMS["ur5e"].stand, data.site("tcp").xpos, atol=1e-9)


def test_masses_and_torques_are_the_published_ones_and_inertias_physical() -> None:
    model = arm.build(peg_insert.scene(peg_insert.Config()), "ur5e")
    masses = [float(model.body(f"link{i}").mass[0]) for i in range(1, 7)]
    assert masses == [3.761, 8.058, 2.846, 1.37, 1.3, 0.365]
    data = mujoco.MjData(model)
    data.ctrl[:] = 1e3
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qfrc_actuator, [150, 150, 150, 28, 28, 28])
    for principal in model.body_inertia[model.body_mass > 0]:
        assert 0 < principal.max() <= principal.sum() - principal.max() + 1e-12


def test_it_speaks_like_the_other_arm_but_for_its_joints() -> None:
    specs = [module.build(module.Config(), scene=scene()).spec for module in (fr3_sim, ur5e_sim)]
    assert specs[1].name == "ur5e_sim"
    assert specs[0].action == specs[1].action
    assert list(specs[0].observation) == list(specs[1].observation)
    for key, spec in specs[1].observation.items():
        if key.startswith("joint_"):
            assert spec.shape == (6,)
        else:
            assert spec == specs[0].observation[key]


@pytest.mark.parametrize("name", list(ARMS))
@pytest.mark.parametrize("turn", [DOWN, FORWARD, rotation.multiply(FORWARD, rotation.about_z(np.pi / 2))])
def test_the_usual_place_is_within_reach_from_above_and_from_the_front(name: str, turn: np.ndarray) -> None:
    robot = ARMS[name].build(ARMS[name].Config(), scene=scene())
    limits = arm.limits(name)
    for x, y, z in itertools.product((-0.1, 0.0, 0.1), (-0.1, 0.0, 0.1), (0.0, 0.1)):
        pose = np.array([0.5 + x, y, 0.05 + z, *turn])
        robot.reset(pose, {})
        raw = robot.observe()
        np.testing.assert_allclose(raw["tcp_pose"][:3], pose[:3], atol=1e-5)
        np.testing.assert_allclose(rotation.matrix(raw["tcp_pose"][3:]), rotation.matrix(turn), atol=1e-5)
        assert (raw["joint_position"] > limits.lower + 0.02).all()
        assert (raw["joint_position"] < limits.upper - 0.02).all()
        assert all(robot._data.body(f"link{i}").xpos[2] > 0.04 for i in range(2, robot._joints + 1))


@pytest.mark.parametrize("name", list(ARMS))
def test_it_moves_where_it_is_told_with_the_hand_forward(name: str) -> None:
    robot = ARMS[name].build(ARMS[name].Config(), scene=scene())
    begin(robot, (0.42, 0.0, 0.1), turn=FORWARD)
    act(robot, 10, move=(0.0, 0.0, 0.004))
    moved = robot.observe()["tool_pose"][:3] - [0.42, 0.0, 0.1]
    assert moved[0] > 0.01, "z of the tip is along x of the base"
    assert np.abs(moved[1:]).max() < 1e-3


def test_it_stands_still_without_a_command(pair: tuple[SimRobot, PegInsert]) -> None:
    robot, task = pair
    place(robot, task, at(0, 0, -30))
    before = validate_all(robot.spec.observation, robot.observe())["tool_pose"]
    for _ in range(20):
        robot.apply(Command(np.zeros(7), 0))
    np.testing.assert_allclose(robot.observe()["tool_pose"], before, atol=2e-5)


def test_it_moves_in_tip_axes_without_overshoot(pair: tuple[SimRobot, PegInsert]) -> None:
    robot, task = pair
    for axis in range(3):
        place(robot, task, at(0, 0, -60))
        start, delta = robot.observe()["tool_pose"], np.zeros(7)
        delta[axis] = 0.004
        robot.apply(Command(delta, 0))
        for _ in range(5):
            robot.apply(Command(np.zeros(7), 0))
        moved = rotation.matrix(start[3:]).T @ (robot.observe()["tool_pose"][:3] - start[:3])
        assert 0.0015 < moved[axis] <= 0.004
        assert np.abs(np.delete(moved, axis)).max() < 3e-4


def test_pressing_force_is_stiffness_times_displacement(pair: tuple[SimRobot, PegInsert]) -> None:
    robot, task = pair
    place(robot, task, at(20, 0, -1))
    for dz in (0.002, 0.005, 0.008):
        for _ in range(12):
            robot.apply(Command(np.array([0.0, 0.0, dz, 0, 0, 0, 0]), 0))
        raw = robot.observe()
        assert raw["wrench"][2] == pytest.approx(-1e3 * dz, abs=0.3)
        assert raw["tool_pose"][2] > OPENING[2] - 2e-4


@pytest.mark.parametrize("name", list(ARMS))
@pytest.mark.parametrize("move", [(0.008, 0.0, 0.004), (0.0, 0.008, 0.0), (-0.008, 0.0, 0.0)], ids=["press", "y", "x"])
def test_the_safety_layer_keeps_it_in_the_box(name: str, move: tuple[float, float, float]) -> None:
    """The layer limits what is commanded; the moving arm runs on by 1 to 2.5 mm, either arm."""
    config = peg_insert.TIERS["default"]
    limits = peg_insert.limits(config)
    robot, task = ARMS[name].build(ARMS[name].Config(), scene=peg_insert.scene(config)), peg_insert.build(config)
    safe = SafeRobot(robot, limits, epoch=0)
    place(robot, task, at(20, 0, -1))
    for _ in range(40):
        safe.apply(np.array([*move, 0.0, 0.0, 0.0, 0.0]))
        tcp = safe.observe()["tcp_pose"][:3]
        assert (tcp > np.array(limits.low) - 3e-3).all()
        assert (tcp < np.array(limits.high) + 3e-3).all()


def test_the_informed_expert_inserts_the_peg(pair: tuple[SimRobot, PegInsert]) -> None:
    for seed in range(2):
        success, _, peak = run(*pair, seed, skill=Skill.INFORMED)
        assert success
        assert peak < 10


@pytest.mark.slow
def test_the_informed_expert_nearly_always_succeeds() -> None:
    config = peg_insert.TIERS["hard"]
    robot = ur5e_sim.build(ur5e_sim.Config(), scene=peg_insert.scene(config))
    outcomes = [run(robot, peg_insert.build(config), seed, skill=Skill.INFORMED)[0] for seed in range(40)]
    assert sum(outcomes) >= 38


@pytest.mark.render
def test_cameras_show_the_scene() -> None:
    robot = ur5e_sim.build(ur5e_sim.Config(), scene=scene(), cameras=("wrist", "side", "front"))
    try:
        begin(robot, (0.5, 0.0, 0.12))
        for key, picture in robot.observe().items():
            if key.startswith("camera/"):
                assert picture.std() > 15, key
                assert 40 < picture.mean() < 220, key
        assert robot.render(320, 240).std() > 15
    finally:
        robot.close()
