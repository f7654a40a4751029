"""Inverse kinematics by damped least squares."""

from __future__ import annotations

import mujoco
import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array
from robolearn.sim import rotation


def solve(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    site: int,
    pose: Array,
    start: Array,
    *,
    iterations: int = 60,
    damping: float = 1e-4,
    tolerance: float = 1e-7,
) -> Array:
    """Joint angles (n,) that bring ``site`` to ``pose`` (7,), from ``start`` (n,); ``data`` is left there.

    The arm's joints are the first n. Each step is dq = J' (J J' + damping I)^-1 e (Wampler 1986), clamped to the joint
    limits.

    Raises:
        ConfigError: the pose cannot be reached.
    """
    n = len(start)
    low, high, q = model.jnt_range[:n, 0], model.jnt_range[:n, 1], data.qpos[:n]
    whole, error, measured = np.zeros((6, model.nv)), np.zeros(6), np.zeros(4)
    jacobian = whole[:, :n]
    q[:] = start
    for _ in range(iterations):
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mju_mat2Quat(measured, data.site_xmat[site])
        error[:3] = pose[:3] - data.site_xpos[site]
        error[3:] = rotation.to_rotvec(rotation.multiply(pose[3:], rotation.conjugate(measured)))
        if np.abs(error).max() < tolerance:
            return np.array(q)
        mujoco.mj_jacSite(model, data, whole[:3], whole[3:], site)
        step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(6), error)
        q[:] = np.clip(q + step, low, high)
    raise ConfigError(
        f"start pose {np.round(pose, 4).tolist()} is out of the arm's reach; "
        f"left {1e3 * np.linalg.norm(error[:3]):.1f} mm and {np.linalg.norm(error[3:]):.3f} rad"
    )
