"""Force-limited Cartesian impedance control of the tool tip.

    F   = [K_p clip(p_ref - p, c_p) - D_p v,  K_r clip(log(R_ref R'), c_r) - D_r w]
    tau = J' F + n n' (k (q_0 - q) - d dq) + gravity and Coriolis torques

(Hogan, "Impedance Control", 1985; the clip of the error bounds the static force whatever stands in the way.) n spans
the null space of a 7-joint arm's Jacobian; an arm of six joints has none, and no such term. Torques are clipped to the
joint limits by the model's motors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from robolearn.core.spec import Array


@dataclass(frozen=True)
class Gains:
    """Gains of the controller, at the tool tip.

    Attributes:
        stiffness: translational stiffness [N/m].
        damping: translational damping [N s/m]; above critical, so that a step does not overshoot.
        clip: largest position error that pulls [m]; stiffness * clip is the largest static force.
        rot_stiffness: rotational stiffness [N m/rad]; soft, like a remote-centre compliance device, so that a tool
            pressed on a rim settles flat and the torque tells where the rim is, not how well the tool was aligned.
        rot_damping: rotational damping [N m s/rad].
        rot_clip: largest rotation error that pulls [rad].
        posture_stiffness, posture_damping: null-space spring towards the start posture [N m/rad, N m s/rad].
    """

    stiffness: float = 1000.0
    damping: float = 180.0
    clip: float = 0.008
    rot_stiffness: float = 4.0
    rot_damping: float = 0.6
    rot_clip: float = 0.1
    posture_stiffness: float = 10.0
    posture_damping: float = 4.0


class Impedance:
    """Torque law for one arm; holds views into ``data`` and work arrays, so that a tick allocates little.

    Args:
        model, data: compiled world whose first joints and motors are the arm's.
        site: id of the controlled site.
        joints: number of joints of the arm, 6 or 7.

    Attributes:
        ref_position: (3,) reference of the site in the base frame [m].
        ref_rotation: (3, 3) its reference orientation.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, site: int, gains: Gains, joints: int = 7) -> None:
        self.gains = gains
        self._model, self._data, self._site = model, data, site
        # Rows 0-5: Jacobian of the site; row 6, of seven joints: the unit null vector, so that one product serves both.
        self._rows = np.zeros((joints, model.nv))
        self._columns = self._rows.T[:joints]
        self._jacobian, self._arm, self._null = self._rows[:6], self._rows[:6, :joints], self._rows[6:, :joints]
        self._jac_pos, self._jac_rot = self._rows[:3], self._rows[3:6]
        self._position = data.site_xpos[site]
        self._rotation = data.site_xmat[site].reshape(3, 3)
        self._efforts = np.zeros(joints)
        self._q, self._ctrl, self._bias = data.qpos[:joints], data.ctrl[:joints], data.qfrc_bias[:joints]
        self._posture = self._q.copy()
        self._posture_pull = 0.0
        self.ref_position = np.zeros(3)
        self.ref_rotation = np.eye(3)

    def restart(self, posture: Array | None = None) -> None:
        """Hold the present pose; ``posture`` (n,), else the present one, becomes the null-space target."""
        self._posture = self._q.copy() if posture is None else posture.copy()
        self.ref_position[:] = self._position
        self.ref_rotation[:] = self._rotation

    def prepare(self) -> None:
        """Once a control period: null space and posture error, which change little within it."""
        self._jac()
        for null in self._null:
            null[:] = np.linalg.svd(self._arm)[2][6]
            self._posture_pull = self.gains.posture_stiffness * float(null @ (self._posture - self._q))

    def velocity(self) -> Array:
        """(6,) linear and angular velocity of the site in the base frame [m/s, rad/s]."""
        self._jac()
        return np.asarray(self._jacobian @ self._data.qvel)

    def tick(self) -> None:
        """Write motor torques for the present state; positions and velocities of ``data`` must be up to date."""
        gains, data, efforts = self.gains, self._data, self._efforts
        self._jac()
        vx, vy, vz, wx, wy, wz, *spin = (self._rows @ data.qvel).tolist()
        ex, ey, ez = (self.ref_position - self._position).tolist()
        (_, xy, xz), (yx, _, yz), (zx, zy, _) = (self.ref_rotation @ self._rotation.T).tolist()
        rx, ry, rz = 0.5 * (zy - yz), 0.5 * (xz - zx), 0.5 * (yx - xy)  # sin(angle) axis: within 0.2 % at 0.1 rad
        kp, dp = gains.stiffness * _limit(ex, ey, ez, gains.clip), gains.damping
        kr, dr = gains.rot_stiffness * _limit(rx, ry, rz, gains.rot_clip), gains.rot_damping
        wrench = (
            kp * ex - dp * vx,
            kp * ey - dp * vy,
            kp * ez - dp * vz,
            kr * rx - dr * wx,
            kr * ry - dr * wy,
            kr * rz - dr * wz,
        )
        efforts[:] = (*wrench, self._posture_pull - gains.posture_damping * spin[0]) if spin else wrench
        tau = self._columns @ efforts
        tau += self._bias
        self._ctrl[:] = tau

    def _jac(self) -> None:
        mujoco.mj_jacSite(self._model, self._data, self._jac_pos, self._jac_rot, self._site)


def _limit(x: float, y: float, z: float, bound: float) -> float:
    """Factor that shortens a vector to ``bound``."""
    norm = math.sqrt(x * x + y * y + z * z)
    return 1.0 if norm <= bound else bound / norm
