"""The arm's side of a robot host: joint states and wrench in, setpoints out, in one of four profiles."""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np

from robolearn.core.clock import Clock
from robolearn.core.spec import Array
from robolearn.hal.host.config import HostConfig
from robolearn.hal.host.feedback import Reading
from robolearn.hal.host.shaping import Setpoint
from robolearn.ros import context
from robolearn.ros.context import Newest
from robolearn.ros.gripper import GripperPort

_NS = 1_000_000_000
_QUEUE = 20
"""Messages that may wait for a tick: several publishers may share the topic of joint states, and no force is missed."""


class ArmPort:
    """Topics of one arm.

    Joints are matched by name, never by position; what the message leaves out is named in ``Reading.problem``.
    """

    def __init__(self, node: Any, config: HostConfig, joints: tuple[str, ...], clock: Clock) -> None:
        from geometry_msgs.msg import WrenchStamped
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import JointState

        queue = QoSProfile(depth=_QUEUE, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._node, self._config, self._joints, self._clock = node, config, joints, clock
        self._states = Newest(node, JointState, config.topics.joint_states, queue, clock=clock, raw=True)
        self._kind = JointState
        wrench = config.topics.wrench
        self._wrench = Newest(node, WrenchStamped, wrench, queue, clock=clock) if wrench else None
        self._send = _sender(node, config, joints)
        self.gripper = GripperPort(node, config.gripper)
        self._names: tuple[str, ...] | None = None
        self._order: Array | None = None
        self._ours = frozenset(joints)
        self._grip_order = -1
        self._problem = f"nothing arrives on {self.states_topic}; is the arm's driver running?"
        nothing = np.zeros(len(joints))
        self._reading = Reading(nothing, nothing, 0, 0, problem=self._problem)
        self._force: Array | None = None

    @property
    def states_topic(self) -> str:
        """Resolved topic of the joint states."""
        return str(self._node.resolve_topic_name(self._config.topics.joint_states))

    @property
    def command_topic(self) -> str:
        """Resolved topic of the setpoints."""
        topics = self._config.topics
        profiles = {"cartesian_pose": topics.target_pose, "cartesian_twist": topics.twist}
        profiles |= {"joint_forward": topics.forward, "joint_position": topics.trajectory}
        return str(self._node.resolve_topic_name(profiles[self._config.profile]))

    def read(self) -> Reading:
        """The newest state; the same one again while nothing new has arrived."""
        message, arrived = self._newest_state()
        self._feel()
        if message is None and self._wrench is None:
            return self._reading
        position, velocity, problem = self._reading.position, self._reading.velocity, self._reading.problem
        stamp, received, grip = self._reading.stamp_ns, self._reading.received_ns, self._reading.gripper
        if message is not None:
            problem = self._match(tuple(message.name), len(message.position), len(message.velocity))
            if not problem and self._order is not None:
                everything = np.frombuffer(message.position, dtype=np.float64)
                position = everything[self._order]
                velocity = np.frombuffer(message.velocity, dtype=np.float64)[self._order]
                grip = self._opening(everything)
            stamp = message.header.stamp.sec * _NS + message.header.stamp.nanosec
            received = arrived
        self._reading = Reading(
            position,
            velocity,
            stamp,
            received,
            self._force,
            self._wrench.received_ns if self._wrench is not None else 0,
            grip,
            problem,
        )
        return self._reading

    def write(self, setpoint: Setpoint) -> None:
        """Publish a setpoint."""
        self._send(setpoint)
        self.gripper.command(setpoint.gripper, self._reading.gripper, self._clock.now_ns())

    def _newest_state(self) -> tuple[Any, int]:
        """The newest message with joints of ours and when it arrived [ns]; (None, 0): there is none.

        Others may publish on the same topic, a gripper for example. Before the first good one they count, so that a
        host with wrong joint names says what it sees.
        """
        from rclpy.serialization import deserialize_message

        foreign: tuple[Any, int] = (None, 0)
        for data, arrived in reversed(self._states.take_all()):
            message = deserialize_message(data, self._kind)
            if not self._ours.isdisjoint(message.name):
                return message, arrived
            foreign = (message, arrived) if foreign[0] is None else foreign
        return foreign if self._order is None else (None, 0)

    def _feel(self) -> None:
        """Of the wrenches since the last tick the one with the largest force: a short blow must not go unnoticed."""
        if self._wrench is None or not (found := self._wrench.take_all()):
            return
        forces = [message.wrench.force for message, _ in found]
        sizes = [math.hypot(force.x, force.y, force.z) for force in forces]
        most = max(range(len(sizes)), key=lambda i: math.inf if math.isnan(sizes[i]) else sizes[i])
        force, torque = forces[most], found[most][0].wrench.torque
        self._force = np.array([force.x, force.y, force.z, torque.x, torque.y, torque.z])

    def _match(self, names: tuple[str, ...], positions: int, velocities: int) -> str:
        """Find our joints in a message; why it cannot be used, or nothing."""
        if positions != len(names) or velocities != len(names):
            return (
                f"{self.states_topic}: {len(names)} names, {positions} positions and {velocities} velocities; "
                "expected as many of each"
            )
        if names == self._names:
            return self._problem
        self._names, self._problem = names, ""
        missing = [joint for joint in self._joints if joint not in names]
        if missing:
            self._problem = (
                f"{self.states_topic} lacks {', '.join(missing)} (has: {', '.join(names) or 'nothing'}); "
                "set the host's joints to the arm's names"
            )
            return self._problem
        self._order = np.array([names.index(joint) for joint in self._joints])
        self._grip_order = names.index(self._config.gripper.joint) if self._config.gripper.joint in names else -1
        return ""

    def _opening(self, positions: Array) -> float | None:
        if self._grip_order < 0:
            return None
        gripper = self._config.gripper
        return float((positions[self._grip_order] - gripper.closed) / (gripper.opened - gripper.closed))


def _sender(node: Any, config: HostConfig, joints: tuple[str, ...]) -> Any:
    """A function that publishes a setpoint in the profile of the configuration."""
    topics, clock = config.topics, node.get_clock()
    qos = context.COMMAND
    if config.profile == "cartesian_pose":
        from geometry_msgs.msg import PoseStamped

        poses, stamped = node.create_publisher(PoseStamped, topics.target_pose, qos), PoseStamped()
        stamped.header.frame_id = config.frame

        def send_pose(setpoint: Setpoint) -> None:
            x, y, z, w, i, j, k = setpoint.pose.tolist()
            position, turn = stamped.pose.position, stamped.pose.orientation
            position.x, position.y, position.z = x, y, z
            turn.w, turn.x, turn.y, turn.z = w, i, j, k
            stamped.header.stamp = clock.now().to_msg()
            poses.publish(stamped)

        return send_pose
    if config.profile == "cartesian_twist":
        from geometry_msgs.msg import TwistStamped

        twists, moving = node.create_publisher(TwistStamped, topics.twist, qos), TwistStamped()
        moving.header.frame_id = config.frame

        def send_twist(setpoint: Setpoint) -> None:
            linear, angular = moving.twist.linear, moving.twist.angular
            linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = setpoint.twist.tolist()
            moving.header.stamp = clock.now().to_msg()
            twists.publish(moving)

        return send_twist
    if config.profile == "joint_forward":
        from std_msgs.msg import Float64MultiArray

        numbers, values = node.create_publisher(Float64MultiArray, topics.forward, qos), Float64MultiArray()

        def send_forward(setpoint: Setpoint) -> None:
            if setpoint.joints is not None:
                values.data = array.array("d", setpoint.joints.tobytes())
                numbers.publish(values)

        return send_forward
    from builtin_interfaces.msg import Duration
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    plans = node.create_publisher(JointTrajectory, topics.trajectory, qos)
    reach = Duration(sec=0, nanosec=int(2e9 / config.rate_hz))  # two periods: the controller never runs dry

    def send_trajectory(setpoint: Setpoint) -> None:
        if setpoint.joints is not None:
            point = JointTrajectoryPoint(positions=array.array("d", setpoint.joints.tobytes()), time_from_start=reach)
            plans.publish(JointTrajectory(joint_names=list(joints), points=[point]))

    return send_trajectory
