"""Arm kinematics from published numbers: against MuJoCo, against finite differences, and back."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robolearn.core.errors import ConfigError, SpecError
from robolearn.hal import geometry
from robolearn.hal.chain import Chain
from robolearn.sim import arm
from robolearn.sim.tasks import peg_insert

ARMS = ("fr3", "servo6", "ur5e")


def postures(chain: Chain, count: int, seed: int = 0, margin: float = 0.0) -> np.ndarray:
    """(count, n) joint angles within the limits less ``margin``."""
    return np.random.default_rng(seed).uniform(
        chain.limits.lower + margin, chain.limits.upper - margin, (count, len(chain.joints))
    )


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    """The simulated FR3."""
    return arm.build(peg_insert.scene(peg_insert.Config()))


@pytest.mark.parametrize("site", ["tcp", "tip"])
def test_fr3_agrees_with_the_simulated_arm(model: mujoco.MjModel, site: str) -> None:
    data, index = mujoco.MjData(model), model.site(site).id
    chain = Chain.load("fr3", tip=(0.0, 0.0, 0.0) if site == "tcp" else model.site("tip").pos)
    jacobian, measured = np.zeros((6, model.nv)), np.zeros(4)
    for q in postures(chain, 50):
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mju_mat2Quat(measured, data.site_xmat[index])
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], index)
        there = np.concatenate([data.site_xpos[index], measured])
        np.testing.assert_allclose(geometry.pose_error(chain.pose(q), there), 0.0, atol=1e-12)
        np.testing.assert_allclose(chain.jacobian(q), jacobian, atol=1e-12)


def test_fr3_has_the_limits_of_the_simulated_arm() -> None:
    chain, limits = Chain.load("fr3"), arm.limits()
    np.testing.assert_array_equal(chain.limits.lower, limits.lower)
    np.testing.assert_array_equal(chain.limits.upper, limits.upper)
    np.testing.assert_array_equal(chain.torque, limits.torque)
    np.testing.assert_array_equal(chain.home, arm.home())


def test_the_velocity_envelope_of_the_fr3_ends_at_its_limits() -> None:
    limits = Chain.load("fr3").limits
    assert limits.envelope is not None
    middle = (limits.lower + limits.upper) / 2
    np.testing.assert_allclose(limits.envelope.upper(limits.upper), 0.0, atol=0.01)
    np.testing.assert_allclose(limits.envelope.lower(limits.lower), 0.0, atol=0.01)
    assert (limits.envelope.upper(middle) > 2).all()
    np.testing.assert_allclose(limits.envelope.upper(middle), -limits.envelope.lower(middle), rtol=1e-3)


@pytest.mark.parametrize("name", ARMS)
def test_the_jacobian_is_the_derivative_of_the_pose(name: str) -> None:
    chain, step = Chain.load(name, tip=(0.01, -0.02, 0.05)), 1e-6
    for q in postures(chain, 10):
        pose, jacobian = chain.pose_and_jacobian(q)
        np.testing.assert_array_equal(pose, chain.pose(q))
        for joint in range(len(q)):
            nudge = step * np.eye(len(q))[joint]
            change = geometry.pose_error(chain.pose(q - nudge), chain.pose(q + nudge)) / (2 * step)
            np.testing.assert_allclose(jacobian[:, joint], change, atol=1e-8)


def test_the_desktop_arm_stands_up_at_zero_and_points_down_at_home() -> None:
    chain = Chain.load("servo6")
    np.testing.assert_allclose(chain.pose(np.zeros(6))[:3], [0, 0, 0.72], atol=1e-12)
    pose = chain.pose(chain.home)
    np.testing.assert_allclose(geometry.matrix(pose[3:])[:, 2], [0, 0, -1], atol=1e-9)
    assert pose[0] > 0.2
    assert ((chain.home > chain.limits.lower) & (chain.home < chain.limits.upper)).all()


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("spread", [0.2, 0.5])
def test_inverse_finds_reachable_poses_from_nearby(name: str, spread: float) -> None:
    chain = Chain.load(name, tip=(0.0, 0.0, 0.05))
    rng, found = np.random.default_rng(1), 0
    for q in postures(chain, 60, seed=2):
        goal = chain.pose(q)
        solution = chain.solve(goal, q + rng.uniform(-spread, spread, len(q)))
        assert ((solution.q >= chain.limits.lower) & (solution.q <= chain.limits.upper)).all()
        error = geometry.pose_error(chain.pose(solution.q), goal)
        assert solution.converged == bool(np.linalg.norm(error[:3]) <= 1e-6 and np.linalg.norm(error[3:]) <= 1e-6)
        found += solution.converged
    assert found == 60


@pytest.mark.parametrize("name", ARMS)
def test_inverse_at_singular_postures_stays_finite_and_small(name: str) -> None:
    chain = Chain.load(name)
    rng = np.random.default_rng(0)
    stretched = np.clip(np.zeros(len(chain.joints)), chain.limits.lower, chain.limits.upper)
    for _ in range(20):
        goal = chain.pose(stretched)
        goal[:3] += rng.normal(size=3) * 0.02
        moved, position, rotation = chain.step_towards(stretched, goal, pull=0.0)
        assert np.abs(moved - stretched).max() <= position / (2 * 0.02) + 1e-9
        assert rotation == pytest.approx(0.0, abs=1e-9)
        near = np.clip(stretched + rng.normal(size=len(stretched)) * 0.02, chain.limits.lower, chain.limits.upper)
        solution = chain.solve(chain.pose(near), stretched)
        assert np.isfinite(solution.q).all()
        assert solution.position_error < 2e-3


def test_an_unreachable_pose_is_said_to_be_so() -> None:
    chain = Chain.load("fr3")
    goal = chain.pose(chain.home)
    goal[0] += 1.0
    solution = chain.solve(goal, chain.home)
    assert not solution.converged
    assert 0.3 < solution.position_error < 1.0
    assert ((solution.q >= chain.limits.lower) & (solution.q <= chain.limits.upper)).all()


def test_freedom_left_by_the_pose_goes_to_the_posture() -> None:
    chain = Chain.load("fr3")
    goal, q = chain.pose(chain.home), chain.home.copy()
    q[2] += 0.4
    start = chain.solve(goal, q, posture=q).q
    for _ in range(200):
        start, position, rotation = chain.step_towards(start, goal)
        assert position < 1e-5  # the tip stays, as the pull is projected
        assert rotation < 1e-5
    np.testing.assert_allclose(start, chain.home, atol=1e-2)


@pytest.mark.parametrize("bad", [np.zeros(6), np.full(7, math.nan)])
def test_poses_and_angles_that_are_none_are_refused(bad: np.ndarray) -> None:
    chain = Chain.load("fr3")
    with pytest.raises(SpecError):
        chain.solve(bad, chain.home)
    with pytest.raises(SpecError):
        chain.solve(chain.pose(chain.home), bad)


def test_joint_angles_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(SpecError, match="joint angles"):
        Chain.load("fr3").pose(np.zeros(6))


def test_unknown_arms_and_tips_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fr3'"):
        Chain.load("fr33")
    with pytest.raises(ConfigError, match="tip"):
        Chain.load("fr3", tip=(0.0, math.nan, 0.0))


def test_quaternions_of_all_turns() -> None:
    rng = np.random.default_rng(0)
    turns = [*Rotation.random(200, random_state=rng), *(Rotation.from_rotvec(math.pi * np.eye(3)[k]) for k in range(3))]
    for turn in turns:
        matrix = turn.as_matrix()
        q = np.array(geometry.quaternion(matrix.ravel().tolist()))
        np.testing.assert_allclose(geometry.matrix(q), matrix, atol=1e-12)
        assert q[0] >= 0
