"""What a simulated arm measures at the tip of its tool."""

from __future__ import annotations

import mujoco
import numpy as np

from robolearn.core.spec import Array
from robolearn.sim import rotation
from robolearn.sim.scene import Scene

GRAVITY = 9.81


class ToolWeight:
    """Knows what the sensor at the tip carries, so that its weight can be taken out of what the sensor reads: the held
    tool, or hand and fingers where they move. What the fingers have picked up is part of the environment.

    Args:
        model, data: the world of the arm.
        tip: id of the tip's site.
        scene: what the hand holds.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, tip: int, scene: Scene) -> None:
        self._axes = data.site_xmat[tip].reshape(3, 3)
        if scene.tool is None:
            hand = int(model.site_bodyid[tip])
            self._weight = float(model.body_subtreemass[hand]) * GRAVITY
            self._lever = _centre(model, hand) - model.site_pos[tip]
        else:
            self._weight = scene.tool_mass * GRAVITY
            self._lever = np.array(scene.tool.geoms[0].pos) - np.array(scene.tip)

    def to_environment(self, readings: Array) -> None:
        """Turn (n, 6) readings (what the arm does to what the sensor carries) into what the environment does to it, in
        place."""
        down = -self._weight * self._axes[2]
        readings *= -1.0
        readings[:, :3] -= down
        readings[:, 3:] -= rotation.cross(self._lever, down)


def site_pose(data: mujoco.MjData, site: int) -> Array:
    """(7,) position [m] and quaternion (w, x, y, z) of a site in the base frame."""
    pose = np.empty(7)
    pose[:3] = data.site_xpos[site]
    mujoco.mju_mat2Quat(pose[3:], data.site_xmat[site])
    return pose


def _centre(model: mujoco.MjModel, body: int) -> Array:
    """(3,) centre of mass of a body and its fingers, in its axes [m]; fingers moving apart do not shift it."""
    total, moment = model.body_mass[body], model.body_mass[body] * model.body_ipos[body]
    for part in np.flatnonzero(model.body_parentid == body):
        turn = rotation.matrix(model.body_quat[part])
        total = total + model.body_mass[part]
        moment = moment + model.body_mass[part] * (model.body_pos[part] + turn @ model.body_ipos[part])
    return np.asarray(moment / total)
