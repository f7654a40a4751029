"""What a simulated arm measures at the tip of its tool."""

from __future__ import annotations

import mujoco
import numpy as np

from robolearn.core.spec import Array
from robolearn.sim import rotation
from robolearn.sim.scene import Scene

GRAVITY = 9.81


class ToolWeight:
    """Knows the held tool, so that its weight can be taken out of what the sensor at the tip reads.

    Args:
        data: the world of the arm.
        tip: id of the tip's site.
        scene: what the hand holds.
    """

    def __init__(self, data: mujoco.MjData, tip: int, scene: Scene) -> None:
        self._axes = data.site_xmat[tip].reshape(3, 3)
        self._weight = scene.tool_mass * GRAVITY
        self._lever = np.array(scene.tool.geoms[0].pos) - np.array(scene.tip)

    def to_environment(self, readings: Array) -> None:
        """Turn (n, 6) readings (what the hand does to the tool) into what the environment does to it, in place."""
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
