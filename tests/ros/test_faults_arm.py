"""Faults of the arm's side: 4 the host dies, 5 joint states, 6 cameras, 10 out of reach, 11 force, 12 gripper."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from faults import (
    FAR,
    FAST,
    NEAR,
    RESEND_S,
    SPACE,
    START,
    TIME_TO_REST_S,
    Recorder,
    World,
    broken_bounds,
    peak_speed,
    pose_of,
    rest_after,
    tell,
    world,
)
from ros_world import until

from robolearn.core.errors import StaleEpochError
from robolearn.hal.chain import Chain
from robolearn.hal.host.config import preset
from robolearn.hal.host.shaping import joint_limits
from robolearn.hal.host.wire import Mode, OrderKind

__all__ = ["world"]


def joint_speed(world: World) -> float:
    return float(np.abs(world.client.report.observation["joint_velocity"]).max())


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("frozen", "later|changed|old"),
        ("delayed", "later|old"),
        ("backwards", "later"),
        ("missing_joint", "lacks fr3_joint4"),
    ],
)
def test_5_joint_states_that_cannot_be_trusted_hold_the_arm(world: World, fault: str, says: str) -> None:
    epoch = world.epoch()
    world.go(NEAR, epoch)
    world.swing(epoch)
    world.fault("joint_states", fault)
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        world.client.send(OrderKind.GOTO, FAR, epoch=epoch)
        time.sleep(RESEND_S)
    until("the trouble is told", lambda: any(w in world.client.status.get("trouble", "") for w in says.split("|")))
    assert world.mode in (Mode.HOLDING, Mode.IDLE)
    assert world.order(OrderKind.GOTO, FAR, epoch).rejected
    until("it is idle", lambda: world.mode is Mode.IDLE, 5.0)
    world.fault("joint_states", "none")
    until("it is trusted again", lambda: not world.client.status.get("trouble"))
    poses = world.poses.take()
    assert peak_speed(poses) > FAST
    assert broken_bounds(poses) == []
    world.go(START)


@pytest.mark.parametrize("fault", ["drop30", "clock_jump", "reordered"])
def test_5_joint_states_that_are_only_odd_change_nothing(world: World, fault: str) -> None:
    epoch = world.epoch()
    world.go(START, epoch)
    world.fault("joint_states", fault)
    goal = START.copy()
    goal[:3] += [0.03, 0.05, 0.03]
    world.go(goal, epoch)
    time.sleep(0.3)
    tip = world.client.report.observation["tool_pose"]
    assert np.linalg.norm(tip[:3] - goal[:3]) < 0.004
    assert not world.client.status.get("trouble")
    if fault == "clock_jump":
        until("jumps are counted", lambda: int(world.client.status.get("feedback/clock_jump", 0)) > 0)
    assert broken_bounds(world.poses.take()) == []


class Camera:
    """A camera of 128 x 128 noise at 20 Hz with faults."""

    def __init__(self, world: World, name: str) -> None:
        import rclpy
        from sensor_msgs.msg import Image

        from robolearn.ros import context

        self.fault = "none"
        self._kind = Image
        self.node = rclpy.create_node("camera", context=world.node.context, namespace=SPACE)
        self._publisher = self.node.create_publisher(Image, f"{name}/image_raw", context.SENSOR)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        rng = np.random.default_rng(0)
        last = rng.integers(30, 255, (128, 128, 3), dtype=np.uint8)
        while not self._over.wait(0.05):
            if self.fault == "dead":
                continue
            image = last if self.fault == "frozen" else rng.integers(30, 255, (128, 128, 3), dtype=np.uint8)
            last = image
            if self.fault == "black":
                image = np.zeros_like(image)
            if self.fault == "wrong_size":
                image = image[:64]
            message = self._kind(height=image.shape[0], width=128, encoding="rgb8", step=384, data=image.tobytes())
            message.header.stamp = self.node.get_clock().now().to_msg()
            self._publisher.publish(message)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.node.destroy_node()


@pytest.fixture
def camera(world: World) -> Iterator[Camera]:
    source = Camera(world, "faulty")
    yield source
    source.close()


def test_6_a_camera_that_shows_nothing_true_gates_the_policy(
    world: World, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robolearn.core.types import Command
    from robolearn.ros import camera_eyes
    from robolearn.ros.drivers import ros2

    monkeypatch.setattr(camera_eyes, "_PATIENCE_S", 10.0)
    robot = ros2.build(ros2.Config(SPACE), cameras=("faulty",))
    try:
        epoch = world.epoch()
        still = np.zeros(7)
        robot.observe()
        monkeypatch.setattr(camera_eyes, "_PATIENCE_S", 0.8)
        for fault in ("frozen", "black", "wrong_size", "dead"):
            robot.apply(Command(still, epoch))
            assert robot.observe()["camera/faulty"].shape == (128, 128, 3)
            camera.fault = fault
            until("it is noticed", lambda: _blind(robot), 10.0)
            assert world.mode in (Mode.HOLDING, Mode.IDLE), "nobody acts meanwhile, so the host holds"
            camera.fault = "none"
            monkeypatch.setattr(camera_eyes, "_PATIENCE_S", 10.0)
            assert robot.observe()["camera/faulty"].any()
            monkeypatch.setattr(camera_eyes, "_PATIENCE_S", 0.8)
    finally:
        robot.close()


def _blind(robot: Any) -> bool:
    from robolearn.ros.camera_eyes import BlindError

    try:
        robot.observe()
    except BlindError as error:
        return "faulty" in str(error)
    return False


def test_4_and_11_a_host_that_dies_stops_the_arm_and_the_next_one_stops_at_a_push(world: World) -> None:
    from sensor_msgs.msg import JointState

    world.go(NEAR)
    epoch = world.epoch()
    world.swing(epoch)
    world.host.child.kill()
    world.host.kill()
    died = time.time_ns()
    states = Recorder(world.node, JointState, "joint_states")
    time.sleep(0.6)
    poses = world.poses.take()
    held = pose_of(poses[-1].message)
    speeds = [np.abs(one.message.velocity).max() for one in states.take()[-100:]]
    assert max(speeds) < 0.05, "the controller holds the last target"
    assert max(one.sent_ns for one in poses) < died + 100_000_000

    later = world.client.later(2)  # reports' numbers start anew with the host
    world.start_host(force=30.0)
    world.client.wait(later, 2.0)
    until("it remembers the epoch", lambda: world.client.report.epoch == epoch and world.client.age_s < 0.2)
    tip = world.client.report.observation["tool_pose"]
    world.client.send(OrderKind.GOTO, NEAR, epoch=epoch - 1)
    until("the older one is refused", lambda: int(world.client.status.get("count/stale_epoch", 0)) > 0)
    assert world.mode is Mode.IDLE
    assert world.poses.take() == [], "it publishes nothing before the first valid order"
    world.order(OrderKind.DELTA, np.zeros(7), epoch)
    first = pose_of(world.poses.take()[0].message)
    tell(
        f"host killed at {FAST} m/s: arm at rest {1e3 * np.linalg.norm(tip[:3] - held[:3]):.2f} mm from the last "
        f"target; the next host starts {1e3 * np.linalg.norm(first[:3] - tip[:3]):.3f} mm from the arm"
    )
    assert np.linalg.norm(first[:3] - tip[:3]) < 1e-3

    world.go(START, epoch)
    world.forget()
    world.swing(epoch)
    world.fault("force_n", 40.0)
    until("it is stopped", lambda: world.mode is Mode.STOPPED, 5.0)
    until("the reason is told", lambda: "contact force" in world.client.status.get("reason", ""))
    reason = world.client.status["reason"]
    report = world.order(OrderKind.GOTO, FAR, epoch)
    assert report.rejected
    assert report.mode is Mode.STOPPED
    until("the arm comes to rest", lambda: joint_speed(world) < 0.02, 5.0)
    assert world.mode is Mode.STOPPED, "it stays stopped when the force is gone"
    poses = world.poses.take()
    stopped = next(one.sent_ns for one in world.reports.take() if _mode(one) is Mode.STOPPED)
    tell(f"push of 40 N at {peak_speed(poses):.3f} m/s: {reason}; rest {1e3 * rest_after(poses, stopped):.0f} ms later")
    assert rest_after(poses, stopped) < TIME_TO_REST_S
    assert broken_bounds(poses) == []
    until("a person clears it", world.cleared)


def _mode(report: object) -> Mode:
    from robolearn.hal.host.wire import Report
    from robolearn.ros.messages import from_message

    return Report.unpack(from_message(report.message)).mode


def test_10_where_the_arm_cannot_follow_the_published_joints_keep_their_bounds(world: World) -> None:
    from trajectory_msgs.msg import JointTrajectory

    plans = Recorder(world.node, JointTrajectory, "joint_trajectory_controller/joint_trajectory")
    assert world.host.stop() == 0
    box = {"workspace__low": "[-0.9, -0.9, 0.0]", "workspace__high": "[0.9, 0.9, 1.3]", "tilt": 3.2}
    world.start_host(profile="joint_position", **box)
    try:
        until("the new host reports", lambda: world.client.status.get("profile") == "joint_position")
        epoch = world.epoch()
        world.go(START, epoch)
        for goal in (
            [0.88, 0.6, 0.3, 0.0, 1.0, 0.0, 0.0],
            [0.05, 0.0, 1.1, 1.0, 0.0, 0.0, 0.0],
            [0.65, 0.15, 0.1, 0.0, 1.0, 0.0, 0.0],
        ):
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                world.client.send(OrderKind.GOTO, np.array(goal), epoch=epoch)
                time.sleep(RESEND_S)
        joints = np.array([one.message.points[0].positions for one in plans.take()])
        limits = joint_limits(preset("fr3_sim"), Chain.load("fr3"))
        shares = [
            (np.abs(np.diff(joints, n=order, axis=0)) * 200.0**order / bound).max()
            for order, bound in enumerate((limits.velocity, limits.acceleration, limits.jerk), start=1)
        ]
        tell(
            f"unreachable, singular, corner over {len(joints)} points: share of v, a, j {np.round(shares, 3).tolist()}"
        )
        assert len(joints) > 500
        assert max(shares) <= 1 + 1e-6
    finally:
        assert world.host.stop() == 0
        world.start_host()
        until("the new host reports", lambda: world.client.status.get("profile") == "cartesian_pose")


def test_a_driver_fences_the_one_before_as_soon_as_it_takes_the_arm(world: World) -> None:
    """Between a new lease and its first action an earlier holder moves nothing any more."""
    from robolearn.ros.drivers import ros2

    old = world.epoch()
    world.order(OrderKind.DELTA, np.zeros(7), old)
    robot = ros2.build(ros2.Config(SPACE))
    try:
        robot.take(old + 1)
        report = world.client.wait(lambda report: report.epoch == old + 1, 2.0)
        with pytest.raises(StaleEpochError):
            world.client.check_epoch(report, old)
        until("it does not move", lambda: world.mode is not Mode.DRIVING)
        world.client.send(OrderKind.GOTO, FAR, epoch=old)
        time.sleep(0.3)
        assert world.mode is not Mode.DRIVING
    finally:
        robot.close()


def test_12_a_gripper_that_does_not_arrive_is_told_and_never_waited_for(world: World) -> None:
    from robolearn.hal.host.config import Gripper
    from robolearn.ros.gripper import GripperPort

    port = GripperPort(world.node, Gripper(kind="forward", timeout_s=3.0))
    for second in (0.0, 1.0, 2.9):
        port.command(1.0, 0.6, int(second * 1e9))
        assert port.problem == ""
    port.command(1.0, 0.6, int(3.1e9))
    assert "has not reached opening 1.00 within 3 s, it is at 0.60" in port.problem
    port.command(1.0, 0.98, int(3.2e9))
    assert port.problem == "", "late is better than never"
