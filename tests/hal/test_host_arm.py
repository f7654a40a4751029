"""Arms that do not do what the reference does: stuck, moved by hand, elsewhere after a pause, without a wrench."""

from dataclasses import replace

import numpy as np
import pytest
from host_rig import START, config, ready, tcp_of

from robolearn.core.errors import ConfigError
from robolearn.hal.host.wire import Mode

FAR = np.array([0.6, 0.1, 0.3, 0, 1, 0, 0])


def test_an_arm_that_is_stuck_is_waited_for() -> None:
    """The reference stays within 25 mm of it, and a journey is not over before the arm has made it."""
    rig = ready()
    rig.follows = 0.0
    for _ in range(40):
        rig.next_report()
        rig.tick(rig.goto(FAR))
    ahead = max(np.linalg.norm(setpoint.pose[:3] - rig.tip[:3]) for setpoint in rig.published)
    assert 0.02 < ahead < 0.026
    assert not rig.report.settled
    rig.follows = 0.2
    assert rig.go(FAR, seconds=10.0)


def test_a_stopped_arm_moved_by_hand_is_not_drawn_back() -> None:
    rig = ready()
    rig.drive(0.3)
    rig.host.stop("a person")
    rig.run(1.5)
    rig.q = rig.chain.solve(FAR, rig.chain.home).q
    assert [rig.tick().setpoint for _ in range(50)] == [None] * 50


@pytest.mark.parametrize("elsewhere", [False, True])
def test_after_a_pause_of_the_process_the_reference_starts_anew(elsewhere: bool) -> None:
    """It was stopped by the scheduler, or the machine slept and its clock with it."""
    rig = ready()
    rig.drive(0.3)
    if elsewhere:
        rig.q = rig.chain.solve(FAR, rig.chain.home).q
    else:
        rig.now += 10**9
    late = rig.order()
    assert rig.tick(late).setpoint is None
    assert rig.count("gap") == 1
    assert rig.count("old") == 1, "orders from before are void"
    rig.next_report()
    rig.tick(rig.delta(0.0))
    first = rig.tick().setpoint
    assert first is not None
    assert np.linalg.norm(first.pose[:3] - rig.tip[:3]) < 1e-4


@pytest.mark.parametrize("wrench", [None, np.full(6, np.nan)])
def test_without_a_wrench_no_force_limit_is_kept_so_nothing_moves(wrench: np.ndarray | None) -> None:
    rig = ready(config(force=30.0))
    rig.drive(0.2)
    rig.changes["wrench"] = wrench
    rig.run(0.2)
    assert rig.host.mode is not Mode.DRIVING
    assert "wrench" in rig.host.trouble
    rig.changes["wrench"] = np.zeros(6)
    rig.changes["wrench_ns"] = rig.now
    rig.run(0.2)
    assert "wrench" in rig.host.trouble, "an old one is none either"


def test_a_force_limit_needs_a_wrench_topic() -> None:
    settings = config()
    with pytest.raises(ConfigError, match=r"force.*topics\.wrench"):
        replace(settings, force=30.0, topics=replace(settings.topics, wrench=""))


def test_the_newer_process_of_a_lease_drives_and_the_older_one_is_out() -> None:
    rig = ready()
    rig.drive(0.2, epoch=4)
    rig.next_report()
    rig.tick(rig.delta(0.004, epoch=4, sender=8))
    rig.next_report()
    goal = rig.host._shaper.goal.copy()
    rig.tick(rig.delta(-0.008, epoch=4))
    assert rig.count("stale_sender") == 1
    assert np.array_equal(rig.host._shaper.goal, goal)


def test_a_gripper_nobody_has_commanded_is_left_alone() -> None:
    settings = config()
    rig = ready(replace(settings, gripper=replace(settings.gripper, held=None)))
    rig.changes["gripper"] = 0.7
    assert rig.go(START)
    assert all(setpoint.gripper is None for setpoint in rig.published)
    assert rig.next_report().executed[6] == pytest.approx(0.7), "what it is, not 0: that would close it"


def test_a_turn_about_the_tip_keeps_the_tcp_in_its_box() -> None:
    """A long tool: turning the tip swings the TCP."""
    settings = config(tilt=None, tip=(0.0, 0.0, 0.2))
    rig = ready(settings, tip=[0.5, 0.0, 0.0, 0, 1, 0, 0])
    for _ in range(60):
        rig.next_report()
        rig.tick(rig.delta(turn=(0.08, 0.0, 0.0)))
    low, high = np.array(settings.workspace.low), np.array(settings.workspace.high)
    tcp = np.array([tcp_of(rig, setpoint.pose) for setpoint in rig.published])
    assert (tcp > low - 2e-3).all()
    assert (tcp < high + 2e-3).all()
    assert rig.count("workspace") > 0


def test_a_zero_twist_is_commanded_when_an_arm_lags_behind_its_twists() -> None:
    """Only the twist is published there: where the reference would be must not pull the arm for ever."""
    rig = ready(config(profile="cartesian_twist"))
    rig.drive(1.0, x=0.008)
    rig.follows = 0.05
    for _ in range(10):
        rig.next_report()
        rig.tick(rig.delta(0.0))
    assert np.abs(rig.published[-1].twist).max() < 1e-6


def test_an_arm_that_moves_by_itself_is_not_engaged() -> None:
    rig = ready()
    rig.changes["velocity"] = np.full(7, 0.3)
    rig.next_report()
    assert rig.tick(rig.delta(0.004)).setpoint is None
    assert rig.count("moving") == 1
