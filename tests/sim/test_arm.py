"""The arm's kinematics, masses and inertias are the published ones."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from robolearn.core.errors import ConfigError
from robolearn.sim import arm, ik, rotation
from robolearn.sim.tasks import peg_insert


@pytest.fixture
def world() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = arm.build(peg_insert.scene(peg_insert.Config()))
    data = mujoco.MjData(model)
    data.qpos[:] = arm.home()
    mujoco.mj_forward(model, data)
    return model, data


def test_flange_at_home_is_where_the_published_chain_puts_it(world: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = world
    np.testing.assert_allclose(data.body("hand").xpos, (0.3069, 0.0, 0.5903), atol=1e-4)
    np.testing.assert_allclose(data.site("tcp").xpos, (0.3069, 0.0, 0.5903 - 0.1034), atol=1e-4)
    np.testing.assert_allclose(data.site("tcp").xmat.reshape(3, 3), np.diag([1.0, -1.0, -1.0]), atol=1e-9)
    assert model.nv == 7


def test_masses_are_the_published_ones(world: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, _ = world
    arm_mass = sum(float(model.body(f"link{i}").mass[0]) for i in range(8))
    assert arm_mass == pytest.approx(17.89, abs=0.01)
    hand = sum(float(model.body(name).mass[0]) for name in ("hand", "left_finger", "right_finger"))
    assert hand == pytest.approx(0.7126, abs=1e-4)


def test_inertias_are_physical(world: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = world
    for principal in model.body_inertia[model.body_mass > 0]:
        assert (principal > 0).all()
        assert principal.max() <= principal.sum() - principal.max() + 1e-12
    dense = arm.mass_matrix(model, data)
    np.testing.assert_allclose(dense, dense.T, atol=1e-12)
    assert np.linalg.eigvalsh(dense).min() > arm.ARMATURE * 0.9


def test_mass_matrix_maps_accelerations_to_torques(world: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    """Against inverse dynamics, which does not use the dense matrix."""
    model, data = world
    rng = np.random.default_rng(0)
    data.qvel[:] = 0.0
    data.qacc[:] = 0.0
    mujoco.mj_inverse(model, data)
    at_rest = data.qfrc_inverse.copy()
    acceleration = rng.normal(size=7)
    data.qacc[:] = acceleration
    mujoco.mj_inverse(model, data)
    np.testing.assert_allclose(arm.mass_matrix(model, data) @ acceleration, data.qfrc_inverse - at_rest, atol=1e-9)


def test_motors_hold_the_torque_limits(world: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = world
    data.ctrl[:] = 1e3
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qfrc_actuator, arm.limits().torque)


def test_no_shape_of_the_arm_has_mass_or_meets_another(world: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = world
    assert data.ncon == 0
    links = [model.body(f"link{i}").id for i in range(8)]
    shapes = np.isin(model.geom_bodyid, links)
    assert shapes.any()
    assert not model.geom_contype[shapes].any()


def test_ik_reaches_a_pose_and_refuses_one_out_of_reach(world: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = world
    tcp = model.site("tcp").id
    pose = np.array([0.5, 0.05, 0.2, *rotation.multiply(rotation.about_z(0.3), np.array([0.0, 1.0, 0.0, 0.0]))])
    joints = ik.solve(model, data, tcp, pose, arm.home())
    data.qpos[:] = joints
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(data.site_xpos[tcp], pose[:3], atol=1e-6)
    np.testing.assert_allclose(data.site_xmat[tcp].reshape(3, 3), rotation.matrix(pose[3:]), atol=1e-6)
    limits = arm.limits()
    assert ((joints >= limits.lower) & (joints <= limits.upper)).all()
    with pytest.raises(ConfigError, match="out of the arm's reach"):
        ik.solve(model, data, tcp, np.array([1.5, 0.0, 0.2, 0.0, 1.0, 0.0, 0.0]), arm.home())
