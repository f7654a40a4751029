"""From command messages to the simulated arm; what is malformed is counted and ignored."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array
from robolearn.ros.context import Newest
from robolearn.sim.joint_control import Trajectory
from robolearn.sim.live_arm import LiveArm

JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
BASE_FRAMES = ("fr3_link0", "base", "base_link", "world", "")
LOG_EVERY_S = 5.0
MAX_REASONS = 50


class Commands:
    """Takes the newest message of every command topic and hands it to the arm.

    Attributes:
        taken: command kind -> messages obeyed.
        ignored: reason -> messages ignored.
    """

    def __init__(self, node: Any, arm: LiveArm, qos: Any) -> None:
        from geometry_msgs.msg import PoseStamped, TwistStamped
        from std_msgs.msg import Float64MultiArray
        from trajectory_msgs.msg import JointTrajectory

        self._arm, self._log = arm, node.get_logger()
        topics = (
            ("target_pose", PoseStamped, self._pose),
            ("servo_node/delta_twist_cmds", TwistStamped, self._twist),
            ("joint_trajectory_controller/joint_trajectory", JointTrajectory, self._trajectory),
            ("forward_position_controller/commands", Float64MultiArray, self._forward),
            ("gripper_controller/commands", Float64MultiArray, self._grip),
        )
        self._inputs = [(topic, Newest(node, kind, topic, qos), obey) for topic, kind, obey in topics]
        self.taken: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self._logged_s: dict[str, float] = {}

    def poll(self) -> None:
        """Obey what has arrived since the last call. The last kind obeyed is the active controller."""
        for topic, newest, obey in self._inputs:
            message = newest.take()
            if message is None:
                continue
            try:
                obey(message)
                self.taken[topic] += 1
            except (ConfigError, ValueError) as error:
                self._ignore(f"{topic}: {error}")

    def _ignore(self, reason: str) -> None:
        self.ignored[reason] += 1
        now = time.monotonic()
        if now - self._logged_s.get(reason, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_s[reason] = now
            self._log.warning(f"ignored a command ({self.ignored[reason]} such so far): {reason}")
        if len(self._logged_s) > MAX_REASONS:  # a flood of different nonsense must not eat memory
            self._logged_s.clear()
            self.ignored = Counter({"others": self.ignored.total()})

    def _pose(self, message: Any) -> None:
        _in_base(message.header.frame_id)
        p, q = message.pose.position, message.pose.orientation
        self._arm.aim_pose(np.array([p.x, p.y, p.z, q.w, q.x, q.y, q.z]))

    def _twist(self, message: Any) -> None:
        _in_base(message.header.frame_id)
        v, w = message.twist.linear, message.twist.angular
        self._arm.aim_twist(np.array([v.x, v.y, v.z, w.x, w.y, w.z]))

    def _trajectory(self, message: Any) -> None:
        names = list(message.joint_names)
        if sorted(names) != sorted(JOINTS):
            raise ConfigError(f"expected joints {', '.join(JOINTS)}, got {', '.join(names) or 'none'}")
        order = [names.index(joint) for joint in JOINTS]
        points = message.points
        if not points:
            raise ConfigError("a trajectory without points")
        times = np.array([p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in points])
        start = message.header.stamp
        if start.sec or start.nanosec:  # zero means now
            times -= max(0.0, time.time() - start.sec - 1e-9 * start.nanosec)
            if times[-1] < 0.0:
                raise ConfigError("a trajectory that ended before it arrived")
        positions = _rows([p.positions for p in points], order, "positions")
        velocities = None
        if all(len(p.velocities) for p in points):
            velocities = _rows([p.velocities for p in points], order, "velocities")
        left = times >= 0.0
        self._arm.follow(Trajectory(positions[left], times[left], None if velocities is None else velocities[left]))

    def _forward(self, message: Any) -> None:
        self._arm.forward(np.array(message.data))

    def _grip(self, message: Any) -> None:
        if len(message.data) != 1:
            raise ConfigError(f"gripper: expected 1 number, got {len(message.data)}")
        self._arm.grip(message.data[0])


def _in_base(frame: str) -> None:
    if frame not in BASE_FRAMES:
        raise ConfigError(f"expected frame {BASE_FRAMES[0]}, got '{frame}'")


def _rows(rows: list[Any], order: list[int], what: str) -> Array:
    for row in rows:
        if len(row) != len(order):
            raise ConfigError(f"{what}: expected {len(order)} numbers in every point, got {len(row)}")
    return np.array(rows, dtype=np.float64)[:, order]
