"""Faults of those who drive: bad numbers, floods, deaths, takeovers, stops. Numbers as in the list of faults.

1 numbers that make no sense, 2 steps and floods, 3 a policy process that freezes or dies, 7 stops, 8 two drivers,
9 takeover at peak speed. Real processes, genuine messages, recorded where the arm listens.
"""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
from faults import (
    FAR,
    FAST,
    MOTION,
    NEAR,
    SPACE,
    START,
    TIME_TO_REST_S,
    World,
    broken_bounds,
    last_order,
    peak_speed,
    pose_of,
    rest_after,
    tell,
    unbroken,
    world,
)
from ros_world import until

from robolearn.core.errors import RobotStoppedError
from robolearn.hal.host.wire import Mode, OrderKind

__all__ = ["world"]


def counted(world: World, name: str) -> int:
    return int(world.client.status.get(f"count/{name}", 0))


def test_1_numbers_that_make_no_sense_hold_and_are_counted(world: World) -> None:
    from std_msgs.msg import Float64MultiArray

    epoch = world.epoch()
    before = counted(world, "rejected")
    bad = [np.full(7, np.nan), np.array([np.inf, 0, 0, 0, 0, 0, 0]), np.zeros(6), np.zeros(0), np.zeros(100)]
    for values in bad:
        world.order(OrderKind.DELTA, np.zeros(7), epoch)
        report = world.order(OrderKind.DELTA, values, epoch)
        assert report.rejected
        assert report.mode is Mode.HOLDING
    raw = Float64MultiArray(data=[1.0, 2.0])
    world.order(OrderKind.DELTA, np.zeros(7), epoch)
    world.client._orders.publish(raw)
    until("all are counted", lambda: counted(world, "rejected") == before + len(bad) + 1)
    assert broken_bounds(world.poses.take()) == []


def test_2_steps_to_the_limit_beyond_and_a_flood_keep_the_published_bounds(world: World) -> None:
    epoch, rng = world.epoch(), np.random.default_rng(0)
    world.go(START, epoch)
    for size in (0.008, 0.5, 1e300):
        for _ in range(4):
            world.order(OrderKind.DELTA, size * rng.choice([-1.0, 1.0], 7), epoch)
    sent, end = 0, time.monotonic() + 1.5
    while time.monotonic() < end:
        world.client.send(OrderKind.DELTA, rng.normal(0, 0.02, 7), epoch=epoch)
        sent += 1
    world.order(OrderKind.HOLD, np.zeros(0), epoch, timeout_s=5.0)
    poses = world.poses.take()
    runs = unbroken(poses)
    tell(f"flood: {sent / 1.5:.0f} orders/s; {len(poses)} poses in {len(runs)} runs, {peak_speed(poses):.3f} m/s")
    assert sum(len(run) for run in runs if len(run) > 4) > 100
    assert broken_bounds(poses) == []


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_3_a_policy_that_freezes_or_dies_leaves_the_arm_at_rest_within_150_ms(world: World, number: int) -> None:
    world.go(NEAR)
    world.forget()
    epoch = world.epoch()
    driver = world.driver("goto", epoch)
    until("it is fast", lambda: peak_speed(world.poses.look()) > FAST)
    driver.child.send_signal(number)
    until("it holds", lambda: world.mode is Mode.HOLDING, 5.0)
    until("it is idle", lambda: world.mode is Mode.IDLE, 5.0)
    poses = world.poses.take()
    last = last_order(world.orders.take(), epoch)
    took = rest_after(poses, last.sent_ns)
    off = np.linalg.norm(world.client.report.observation["tool_pose"][:3] - pose_of(poses[-1].message)[:3])
    tell(
        f"{signal.Signals(number).name}: reference at rest {1e3 * took:.1f} ms after the last order, peak "
        f"{peak_speed(poses):.3f} m/s; the arm {1e3 * off:.2f} mm from it in the end"
    )
    driver.kill()
    assert took <= TIME_TO_REST_S + 0.005
    assert peak_speed(poses) > 0.15
    assert off < 0.003
    assert np.abs(world.client.report.observation["joint_velocity"]).max() < 0.02
    assert broken_bounds(poses) == []


def test_7_a_stop_in_motion_latches_and_only_a_person_clears_it_at_rest(world: World) -> None:
    epoch = world.epoch()
    world.go(NEAR, epoch)
    world.swing(epoch)
    threads = [threading.Thread(target=world.client.stop, args=("test",)) for _ in range(3)]
    before = counted(world, "stopped")
    for thread in threads:
        thread.start()
    refused = ""
    try:
        world.client.clear()
    except RobotStoppedError as error:
        refused = str(error)
    for thread in threads:
        thread.join()
    world.client.stop("again")
    until("it is stopped", lambda: world.mode is Mode.STOPPED)
    report = world.order(OrderKind.GOTO, FAR, epoch)
    assert report.rejected
    assert report.mode is Mode.STOPPED
    assert world.order(OrderKind.DELTA, np.zeros(7), world.epoch()).mode is Mode.STOPPED
    until("stops are counted", lambda: counted(world, "stopped") > before)
    tell(f"reset while it moved: {refused or 'came before the stop'}; stops counted {counted(world, 'stopped')}")
    until("it is at rest and can be cleared", world.cleared)
    assert broken_bounds(world.poses.take()) == []
    assert world.order(OrderKind.DELTA, np.zeros(7), world.epoch()).mode is Mode.DRIVING


def test_7_reset_is_refused_while_the_arm_moves(world: World) -> None:
    epoch = world.epoch()
    world.go(NEAR, epoch)
    world.swing(epoch)
    with pytest.raises(RobotStoppedError, match=r"moving|braking"):
        world.client.clear()


def test_8_a_client_cut_mid_drive_and_a_second_driver(world: World) -> None:
    """What exists of teleoperation: a client that leaves, and two who send with one lease."""
    from robolearn.ros.client import HostClient

    epoch = world.epoch()
    world.go(NEAR, epoch)
    with HostClient(SPACE) as other:
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            sequence = other.send(OrderKind.GOTO, FAR, epoch=epoch)
            world.client.send(OrderKind.DELTA, np.array([0.0, 0.008, 0, 0, 0, 0, 0]), epoch=epoch)
            other.wait(lambda report, s=sequence: report.number >= 0 and s > 0, 1.0)
            time.sleep(0.05)
        left = time.time_ns()
    until("it holds", lambda: world.mode is Mode.HOLDING, 5.0)
    until("it is idle", lambda: world.mode is Mode.IDLE, 5.0)
    poses = world.poses.take()
    assert broken_bounds(poses) == []
    last = last_order(world.orders.take(), epoch)
    assert last.sent_ns <= left
    assert rest_after(poses, last.sent_ns) <= TIME_TO_REST_S + 0.005


def test_9_a_takeover_at_peak_speed_has_no_step(world: World) -> None:
    world.go(NEAR)
    world.forget()
    first = world.epoch()
    driver = world.driver("goto", first)
    until("it is fast", lambda: peak_speed(world.poses.look()) > FAST)
    mine = world.epoch()
    for _ in range(5):
        world.order(OrderKind.DELTA, np.array([-0.008, 0.008, 0.0, 0, 0, 0.05, 0.2]), mine)
    driver.wait_for("fenced")
    driver.kill()
    poses = world.poses.take()
    seconds = [
        np.linalg.norm(np.diff(np.array(run)[:, :3], n=2, axis=0), axis=1).max()
        for run in unbroken(poses)
        if len(run) > 3
    ]
    tell(
        f"takeover at {peak_speed(poses):.3f} m/s: largest change of a step {1e6 * max(seconds):.0f} um, "
        f"allowed {1e6 * MOTION.acceleration * 0.005**2:.0f} um"
    )
    assert peak_speed(poses) > 0.15
    assert broken_bounds(poses) == []
