"""A simulated FR3 that speaks as a real arm's controllers do: ``python -m robolearn.ros.sim_arm``.

It publishes joint states with the gripper's finger among them (500 Hz), the pose and twist of the tool tip (250 Hz),
the wrench (100 Hz) and images, and obeys the command topics of four kinds of controllers; the last one used is active.
It has no safety layer: that is the host's part.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from robolearn.core.clock import MonotonicClock
from robolearn.core.errors import RobolearnError
from robolearn.ros import context
from robolearn.ros.sim_arm_cameras import CameraProcess
from robolearn.ros.sim_arm_commands import JOINTS, Commands
from robolearn.ros.sim_arm_faults import STALLED, JointFault, Joints
from robolearn.ros.sim_arm_pace import Pacer
from robolearn.ros.sim_arm_parameters import Changes, Settings, declare
from robolearn.sim.arm import FINGER_OPENING_M
from robolearn.sim.drivers.fr3_sim import GRIPPER
from robolearn.sim.live_arm import STEP_S, LiveArm

NODE = "sim_arm"
BASE, TIP, FINGER = "fr3_link0", "fr3_tool_tip", "fr3_finger_joint1"
POSE_EVERY, CHECK_EVERY = 2, 500
"""Rounds of 2 ms between poses and twists, and looks at the camera process."""
FULL_OPENING_M = FINGER_OPENING_M / GRIPPER
_ANSWER_S = 2.0


class SimArm:
    """The node's work; ``round`` is called 500 times a second.

    Attributes:
        arm: what is simulated.
        commands: what it is told.
        rounds: calls of ``round`` so far.
    """

    def __init__(self, node: Any, settings: Settings) -> None:
        from std_srvs.srv import Trigger

        self._node = node
        self.arm = LiveArm(settings.scene, settings.arm)
        self.commands = Commands(node, self.arm, context.COMMAND)
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._joint_fault, self._camera_fault, self._gripper_fault = JointFault(), "none", "none"
        self._force_s = 0.3
        self._messages()
        bodies = {name: self._body(name) for name in self.arm.bodies}
        self._changes = Changes(node, bodies, self._changed)
        node.create_service(Trigger, "~/restart", self._restart)
        self._cameras = CameraProcess(settings.cameras) if settings.cameras.names else None
        self._next_image_tick, self._image_ticks = 0.0, 1.0 / (settings.camera_hz * STEP_S)
        self.rounds = self._wrenches = self._ticks = 0

    def _messages(self) -> None:
        """Publishers, and one message for each that is filled again and again."""
        from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
        from sensor_msgs.msg import JointState

        make, sensor = self._node.create_publisher, context.SENSOR
        self._joints_out = make(JointState, "joint_states", context.STATE)
        self._pose_out = make(PoseStamped, "current_pose", sensor)
        self._twist_out = make(TwistStamped, "current_twist", sensor)
        self._wrench_out = make(WrenchStamped, "wrench", sensor)
        self._joints, self._pose = JointState(), PoseStamped()
        self._twist, self._wrench = TwistStamped(), WrenchStamped()
        self._state = np.zeros((3, 8))  # position, velocity, effort; the finger has the last column
        self._pose.header.frame_id = self._twist.header.frame_id = BASE
        self._wrench.header.frame_id = TIP

    def round(self, periods: int) -> None:
        """Obey, simulate ``periods`` of 2 ms, and publish what is due, once."""
        self.commands.poll()
        while not self._requests.empty():
            self._requests.get()()
        for _ in range(periods):
            self.arm.step()
        self.rounds += 1
        self._ticks += periods
        now = time.time_ns()
        self._publish_joints(now)
        if self.rounds % POSE_EVERY == 0:
            self._publish_tip(now)
        if self.arm.readings != self._wrenches:
            self._wrenches = self.arm.readings
            _fill_stamp(self._wrench, now)
            _fill(self._wrench.wrench.force, self._wrench.wrench.torque, self.arm.wrench.tolist())
            self._wrench_out.publish(self._wrench)
        if self._cameras is not None:
            self._film(self._cameras, now)

    def close(self) -> None:
        """End the camera process."""
        if self._cameras is not None:
            self._cameras.close()

    def _publish_joints(self, now: int) -> None:
        data, numbers = self.arm.data, self._state.copy()
        numbers[0, :7], numbers[1, :7], numbers[2, :7] = data.qpos, data.qvel, data.qfrc_actuator
        opening = STALLED if self._gripper_fault == "stalled" else self.arm.gripper
        numbers[0, 7] = opening * FULL_OPENING_M
        state = self._joint_fault.apply(Joints((*JOINTS, FINGER), numbers[0], numbers[1], numbers[2], now))
        if state is None:
            return
        message = self._joints
        _fill_stamp(message, state.stamp_ns)
        message.name = list(state.names)
        message.position = array("d", state.position.tobytes())
        message.velocity = array("d", state.velocity.tobytes())
        message.effort = array("d", state.effort.tobytes())
        self._joints_out.publish(message)

    def _publish_tip(self, now: int) -> None:
        pose = self._pose.pose
        _fill_stamp(self._pose, now)
        _fill_stamp(self._twist, now)
        x, y, z, qw, qx, qy, qz = self.arm.tip_pose().tolist()
        pose.position.x, pose.position.y, pose.position.z = x, y, z
        pose.orientation.w, pose.orientation.x, pose.orientation.y, pose.orientation.z = qw, qx, qy, qz
        _fill(self._twist.twist.linear, self._twist.twist.angular, self.arm.tip_twist().tolist())
        self._pose_out.publish(self._pose)
        self._twist_out.publish(self._twist)

    def _film(self, cameras: CameraProcess, now: int) -> None:
        if self._ticks >= self._next_image_tick:
            self._next_image_tick = max(self._next_image_tick + self._image_ticks, float(self._ticks))
            poses = {name: self._body(name) for name in self.arm.bodies}
            cameras.send(now, self._camera_fault, self.arm.data.qpos, poses)
        if self.rounds % CHECK_EVERY == 0 and not cameras.alive:
            self._node.get_logger().error("the camera process died: no more images")
            self.close()
            self._cameras = None

    def _body(self, name: str) -> Any:
        index = self.arm.bodies[name]
        return np.concatenate([self.arm.data.mocap_pos[index], self.arm.data.mocap_quat[index]])

    def _restart(self, request: Any, response: Any) -> Any:
        """Service: the arm stands at home, at rest."""
        done = threading.Event()

        def restart() -> None:
            self.arm.restart()
            done.set()

        self._requests.put(restart)
        response.success = done.wait(_ANSWER_S)
        response.message = "the arm is at home" if response.success else f"no answer within {_ANSWER_S:g} s"
        return response

    def _changed(self, name: str, value: Any) -> None:
        """A parameter changed: have the loop act on it."""
        self._requests.put(lambda: self._act(name, value))

    def _act(self, name: str, value: Any) -> None:
        if name.startswith("scene."):
            self.arm.place(name.removeprefix("scene."), np.array(value))
        elif name == "fault.joint_states":
            self._joint_fault = JointFault(value)
        elif name == "fault.camera":
            self._camera_fault = value
        elif name == "fault.gripper":
            self._gripper_fault = value
        elif name == "fault.force_s":
            self._force_s = value
        elif value > 0.0:
            self.arm.push(np.array([0.0, 0.0, value]), self._force_s)


def _fill_stamp(message: Any, stamp_ns: int) -> None:
    stamp = message.header.stamp
    stamp.sec, stamp.nanosec = divmod(stamp_ns, 1_000_000_000)


def _fill(first: Any, second: Any, numbers: list[float]) -> None:
    first.x, first.y, first.z, second.x, second.y, second.z = numbers


def run(node: Any, ended: threading.Event) -> None:
    """Declare, simulate and publish until ``ended`` is set.

    Raises:
        RobolearnError: a parameter makes no sense, or images cannot be drawn.
    """
    work = SimArm(node, declare(node))
    log = node.get_logger()
    gc.collect()
    gc.freeze()  # a full collection over all that was imported would stop the loop for milliseconds
    try:
        with context.SpinThread([node]):
            where = f"{node.get_namespace()}, ROS domain {context.domain_id()}"
            log.info(f"simulated arm in {where}: ready ({context.take_priority()})")
            pacer = Pacer(STEP_S, MonotonicClock())
            reported = 0
            while not ended.is_set():
                work.round(pacer.wait())
                if work.rounds % CHECK_EVERY == 0 and pacer.skipped > reported:
                    log.warning(f"{pacer.skipped - reported} periods of 2 ms were skipped: this machine is too busy")
                    reported = pacer.skipped
            log.info(
                f"ended: {pacer.overruns} late rounds, {pacer.skipped} skipped, {work.commands.taken.total()} commands"
            )
    finally:
        work.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 0 when it was told to end, 2 when it could not start."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    os.environ.update(context.with_profile(os.environ))
    try:
        with context.context(args=sys.argv if argv is None else argv) as ros:
            import rclpy

            node = rclpy.create_node(NODE, context=ros)
            try:
                run(node, ended)
            finally:
                node.destroy_node()
    except RobolearnError as error:
        sys.stderr.write(f"{NODE}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
