"""What a host shows of its arm: kinematics and contact forces of one control period, in the terms of ``RobotSpec``."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from robolearn.core.spec import Array, ArraySpec
from robolearn.hal import geometry
from robolearn.hal.chain import Chain
from robolearn.hal.host.config import HostConfig
from robolearn.hal.host.feedback import Reading

_MEAN_NS = 50_000_000


UNITS = {
    "joint_position": "rad",
    "joint_velocity": "rad/s",
    "tcp_pose": "m, quaternion wxyz; base frame",
    "tcp_twist": "m/s, rad/s; base frame",
    "tool_pose": "m, quaternion wxyz; tip in the base frame",
    "tool_twist": "m/s, rad/s; tip, in tip axes",
    "tool_reference": "quaternion wxyz; commanded orientation in the base frame",
    "action": "last executed action, as sent",
    "wrench": "N, N m; environment on tool, about the tip, in tip axes, mean of the last 50 ms",
    "peak_force": "N; largest reading of the last control period",
    "gripper": "opening fraction",
}
"""Everything a host can show, with units; ``wrench`` and ``peak_force`` only where they are measured."""


def action_spec(max_translation: float, max_rotation: float) -> ArraySpec:
    """The 7 numbers every host takes, see ``CartesianDelta``."""
    t, r = max_translation, max_rotation
    return ArraySpec(
        "action",
        (7,),
        "float64",
        "tip displacement m, m, m, rad, rad, rad in tip axes; gripper opening fraction",
        (-t, -t, -t, -r, -r, -r, 0.0),
        (t, t, t, r, r, r, 1.0),
    )


class Observer:
    """Keeps the newest state of the arm.

    Attributes:
        seen: a trustworthy reading has been taken.
        position: (n,) joint angles [rad].
        tip, tcp: (7,) poses in the base frame; the chain is the arm with its tool's tip.
        force: size of the newest contact force [N].
    """

    def __init__(self, config: HostConfig, chain: Chain) -> None:
        self.seen = False
        self.position = np.zeros(len(chain.joints))
        self.tip = self.tcp = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
        self.force = 0.0
        self._config, self._chain, self._offset = config, chain, np.array(config.tip)
        self._velocity = np.zeros_like(self.position)
        self._gripper = 0.0 if config.gripper.held is None else config.gripper.held
        self._wrenches: deque[tuple[int, Array]] = deque()
        self._peak = 0.0

    @property
    def opening(self) -> float:
        """Opening fraction of the gripper."""
        return self._gripper

    @property
    def joint_speed(self) -> float:
        """Largest joint speed [rad/s]."""
        return float(np.abs(self._velocity).max())

    @property
    def tip_speeds(self) -> tuple[float, float]:
        """Speed of the tip [m/s] and how fast it turns [rad/s]."""
        twist = self._twist()
        return float(np.linalg.norm(twist[:3])), float(np.linalg.norm(twist[3:]))

    def take(self, reading: Reading) -> None:
        """Take a trustworthy reading."""
        self.position, self._velocity = reading.position, reading.velocity
        self.tip = self._chain.pose(reading.position)
        self.tcp = self.tcp_of(self.tip)
        if reading.gripper is not None and self._config.gripper.held is None:
            self._gripper = min(1.0, max(0.0, reading.gripper))
        wrench = reading.wrench
        if wrench is not None and (not self._wrenches or self._wrenches[-1][0] != reading.wrench_ns):
            self._wrenches.append((reading.wrench_ns, wrench))
            while self._wrenches[0][0] < reading.wrench_ns - _MEAN_NS:
                self._wrenches.popleft()
            self.force = math.hypot(*wrench[:3].tolist())
            self._peak = max(self._peak, self.force)
        self.seen = True

    def tcp_of(self, tip: Array) -> Array:
        """(7,) TCP pose that belongs to a tip pose."""
        tcp = tip.copy()
        tcp[:3] -= geometry.to_matrix(tip[3:]) @ self._offset
        return tcp

    def report(self, reference: Array, executed: Array) -> dict[str, Array]:
        """The observation of this control period; the peak force starts anew."""
        twist, axes = self._twist(), geometry.to_matrix(self.tip[3:])
        tcp_twist = twist.copy()
        tcp_twist[:3] += geometry.cross(twist[3:], self.tcp[:3] - self.tip[:3])
        shown = {
            "joint_position": self.position.copy(),
            "joint_velocity": self._velocity.copy(),
            "tcp_pose": self.tcp.copy(),
            "tcp_twist": tcp_twist,
            "tool_pose": self.tip.copy(),
            "tool_twist": (twist.reshape(2, 3) @ axes).ravel(),
            "tool_reference": reference.copy(),
            "action": executed.copy(),
            "gripper": np.array([self._gripper]),
        }
        if self._config.topics.wrench:
            wrenches = [wrench for _, wrench in self._wrenches] or [np.zeros(6)]
            shown["wrench"] = np.mean(wrenches, axis=0)
            shown["peak_force"] = np.array([self._peak])
            self._peak = 0.0
        return shown

    def _twist(self) -> Array:
        """(6,) twist of the tip in base axes: J qd."""
        return np.asarray(self._chain.jacobian(self.position) @ self._velocity)
