"""What a robot host does without orders and after a stop: hold, disengage, latch, and who may clear it."""

from dataclasses import replace

import numpy as np
import pytest
from host_rig import START, Rig, bounds_broken, config, ready, rest_time, speeds

from robolearn.core.errors import RobotStoppedError
from robolearn.hal import geometry
from robolearn.hal.host.wire import Mode, OrderKind

FAR = np.array([0.6, 0.1, 0.3, 0.0, 1.0, 0.0, 0.0])
NEAR = [0.4, -0.1, 0.16, 0.0, 1.0, 0.0, 0.0]
PROFILES = ["cartesian_pose", "cartesian_twist", "joint_position", "joint_forward"]


def at_full_speed(profile: str = "cartesian_pose", **more: object) -> Rig:
    rig = ready(config(profile=profile, **more), tip=NEAR)
    for _ in range(4):
        rig.next_report()
        rig.tick(rig.goto(FAR))
    linear, _ = speeds(rig.published[-3:])
    assert np.linalg.norm(linear[-1]) > (0.35 if profile.startswith("joint") else 0.9) * rig.config.motion.velocity
    return rig


@pytest.mark.parametrize("profile", PROFILES)
def test_silence_at_full_speed_is_a_reference_at_rest_within_150_ms(profile: str) -> None:
    rig = at_full_speed(profile)
    last = len(rig.published)
    rig.run(1.0)
    assert rest_time(rig.published, last) <= 0.150
    assert rig.count("stale") == 1
    assert bounds_broken(rig.published, rig.config) == []


def test_then_it_holds_where_the_arm_is() -> None:
    rig = at_full_speed()
    rig.follows = 0.05
    rig.run(0.15)
    measured = rig.tip
    assert np.linalg.norm(rig.published[-1].pose[:3] - FAR[:3]) > 0.05
    rig.run(0.3)
    assert rig.host.mode is Mode.HOLDING
    assert np.linalg.norm(rig.published[-1].pose[:3] - measured[:3]) < 0.01
    held = rig.published[-1].pose
    rig.run(0.4)
    assert np.array_equal(rig.published[-1].pose, held), "it holds one pose and does not follow the arm about"


def test_a_held_pose_is_the_measured_one() -> None:
    rig = ready()
    rig.follows = 1e-4  # something is in its way
    rig.drive(0.5)
    assert np.linalg.norm(rig.published[-1].pose[:3] - rig.tip[:3]) > 0.004
    rig.run(0.4)
    assert np.abs(rig.published[-1].pose - rig.tip).max() < 1e-5


def test_after_a_second_of_silence_nothing_is_published() -> None:
    rig = at_full_speed()
    silent = rig.now
    while rig.tick().setpoint is not None:
        assert rig.now - silent < 2e9
    assert (rig.now - silent) * 1e-9 == pytest.approx(rig.config.disengage_s, abs=0.02)
    assert rig.host.mode is Mode.IDLE
    rig.run(0.5)
    assert rig.tick().setpoint is None


@pytest.mark.parametrize("profile", PROFILES)
def test_it_engages_again_from_where_the_arm_is(profile: str) -> None:
    rig = at_full_speed(profile)
    rig.run(1.5)
    rig.q = rig.q + 0.05
    rig.next_report()
    rig.tick(rig.delta(0.008))
    assert len(rig.runs) == 2
    assert np.linalg.norm(rig.published[0].pose[:3] - rig.report.observation["tool_pose"][:3]) < 1e-3
    if rig.published[0].joints is not None:
        assert np.abs(rig.published[0].joints - rig.report.observation["joint_position"]).max() < 1e-3
    rig.drive(0.3)
    for run in rig.runs:
        assert bounds_broken(run, rig.config) == []


def test_driving_goes_on_from_a_hold_without_a_step() -> None:
    rig = at_full_speed()
    rig.run(0.3)
    assert rig.host.mode is Mode.HOLDING
    rig.next_report()
    rig.tick(rig.delta(-0.008))
    assert rig.host.mode is Mode.DRIVING
    rig.run(0.3)
    assert len(rig.runs) == 1
    assert bounds_broken(rig.published, rig.config) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_a_stop_decelerates_within_bounds_and_latches(profile: str) -> None:
    rig = at_full_speed(profile)
    rig.host.stop("a person")
    stopped = len(rig.published)
    rig.run(0.5)
    assert rest_time(rig.published, stopped) <= 0.05
    assert bounds_broken(rig.published, rig.config) == []
    rig.next_report()
    rig.tick(rig.delta(0.008), rig.goto(FAR), rig.order(OrderKind.HOLD))
    assert rig.host.mode is Mode.STOPPED
    assert rig.count("refused") == 3
    report = rig.next_report()
    assert report.rejected
    assert report.mode is Mode.STOPPED
    assert rig.host.refusal == "a person"


@pytest.mark.parametrize("profile", ["joint_position", "joint_forward"])
def test_a_stopped_arm_does_not_move_its_elbow(profile: str) -> None:
    rig = at_full_speed(profile)
    rig.q[2] += 0.3  # the posture is far from the one the inverse kinematics prefers
    rig.host.stop("a person")
    rig.run(0.2)
    held = rig.published[-1].joints
    assert rig.host.at_rest
    rig.run(1.0)
    assert np.array_equal(rig.published[-1].joints, held)


def test_a_stop_is_idempotent_and_keeps_the_first_reason() -> None:
    rig = ready()
    rig.host.stop("first")
    rig.host.stop("second")
    assert rig.host.reason == "first"
    assert rig.count("stopped") == 1
    assert [values for kind, values in rig.events if kind == "stop"] == [{"reason": "first"}]


def test_a_newer_lease_does_not_clear_a_stop() -> None:
    rig = ready()
    rig.host.stop("first")
    rig.next_report()
    assert rig.tick(rig.delta(0.008, epoch=99, sender=9)).setpoint is None
    assert rig.host.mode is Mode.STOPPED


def test_a_stopped_host_stays_stopped_and_lets_a_person_move_the_arm() -> None:
    rig = at_full_speed()
    rig.host.stop("a person")
    rig.run(5.0)
    assert rig.tick().setpoint is None, "an arm that is moved by hand must not be drawn back"
    assert rig.host.mode is Mode.STOPPED
    rig.next_report()
    assert rig.tick(rig.delta(0.008)).setpoint is None


def test_reset_is_refused_while_the_reference_brakes_or_the_arm_moves() -> None:
    rig = at_full_speed()
    rig.host.stop("a person")
    rig.velocity = np.zeros(7)
    with pytest.raises(RobotStoppedError, match=r"moving|braking"):
        rig.host.reset("Ada")
    rig.run(1.0)
    rig.changes["velocity"] = np.full(7, 0.05)
    rig.tick()
    with pytest.raises(RobotStoppedError, match="still moving"):
        rig.host.reset("Ada")
    rig.changes.clear()
    rig.tick()
    rig.host.reset("Ada")
    assert rig.host.mode is Mode.IDLE
    assert rig.host.reason == ""


def test_reset_is_refused_while_the_reference_still_brakes_though_the_arm_stands() -> None:
    rig = at_full_speed()
    rig.follows = 0.0
    rig.tick()
    rig.host.stop("a person")
    rig.tick()
    with pytest.raises(RobotStoppedError, match="braking"):
        rig.host.reset("Ada")


def test_reset_is_refused_while_the_cause_is_present() -> None:
    rig = ready(config(force=30.0))
    rig.wrench = np.array([0, 0, 40.0, 0, 0, 0])
    rig.tick()
    assert rig.host.mode is Mode.STOPPED
    rig.run(0.5)
    with pytest.raises(RobotStoppedError, match=r"40\.0 N"):
        rig.host.reset("Ada")
    rig.wrench = np.zeros(6)
    rig.tick()
    rig.host.reset("Ada")
    assert rig.host.mode is Mode.IDLE


def test_reset_is_refused_without_feedback() -> None:
    rig = ready()
    rig.host.stop("a person")
    rig.changes["problem"] = "nothing arrives"
    rig.tick()
    with pytest.raises(RobotStoppedError, match="nothing arrives"):
        rig.host.reset("Ada")
    assert rig.host.mode is Mode.STOPPED


def test_orders_sent_before_a_reset_stay_void() -> None:
    rig = ready()
    rig.host.stop("a person")
    rig.next_report()
    before = [rig.delta(0.008), rig.goto(START)]
    rig.host.reset("Ada")
    assert rig.tick(*before).setpoint is None
    assert rig.count("old") == 2
    rig.next_report()
    assert rig.tick(rig.delta(0.001)).setpoint is not None


def test_a_pause_holds_and_ends_with_resume() -> None:
    rig = at_full_speed()
    on_the_way = rig.goto(FAR)
    rig.host.hold("a person")
    assert rig.host.mode is Mode.HOLDING
    rig.next_report()
    rig.tick(rig.delta(0.008))
    assert rig.count("refused") == 1
    rig.host.resume()
    rig.tick(replace(on_the_way, sender=8))
    assert rig.count("old") == 1, "orders from before the pause are void"
    rig.next_report()
    rig.tick(rig.delta(0.008))
    assert rig.host.mode is Mode.DRIVING
    assert bounds_broken(rig.published, rig.config) == []


def test_reset_ends_a_pause_and_resume_does_not_clear_a_stop() -> None:
    rig = ready()
    rig.host.hold("a person")
    rig.host.reset("Ada")
    rig.next_report()
    assert rig.tick(rig.delta(0.001)).setpoint is not None
    rig.host.stop("a person")
    rig.host.resume()
    rig.next_report()
    rig.tick(rig.delta(0.001))
    assert rig.host.mode is Mode.STOPPED


@pytest.mark.parametrize("why", ["stop", "silence", "pause"])
def test_an_arm_outside_its_workspace_is_not_drawn_in(why: str) -> None:
    """An arm may start outside. Nothing but an order moves it: neither a hold nor a stop, nor an action of zeros."""
    outside = [0.5, 0.0, 0.6, 0.0, 1.0, 0.0, 0.0]
    rig = ready(tip=outside)
    rig.tick(rig.goto(START))
    rig.run(0.05)
    {"stop": lambda: rig.host.stop("x"), "silence": lambda: None, "pause": lambda: rig.host.hold("x")}[why]()
    rig.run(0.2)
    before = rig.tip[2]
    rig.run(2.0)
    assert abs(rig.tip[2] - before) < 2e-3


def test_an_action_of_zeros_outside_the_workspace_moves_nothing() -> None:
    rig = ready(tip=[0.5, 0.0, 0.6, 0.0, 1.0, 0.0, 0.0])
    before = rig.tip
    rig.drive(1.0, 0.0)
    assert np.abs(rig.tip - before).max() < 1e-3
    rig.drive(0.5, 0.0)
    assert rig.go(START), "and a goto brings it in"
    assert geometry.tilt(rig.tip[3:]) < 0.01


def test_a_settled_goto_is_there_and_at_rest() -> None:
    rig = ready(tip=NEAR)
    assert rig.go(FAR)
    assert np.linalg.norm(rig.tip[:3] - FAR[:3]) < 2e-3
    assert np.abs(rig.velocity).max() < 0.1
    assert bounds_broken(rig.published, rig.config) == []


def test_a_goto_is_not_settled_while_the_arm_moves_nor_a_delta_ever() -> None:
    rig = ready(tip=FAR)
    rig.changes["velocity"] = np.full(7, 0.2)
    for _ in range(5):
        rig.next_report()
        rig.tick(rig.goto(FAR))
        assert not rig.report.settled
    rig.changes.clear()
    assert rig.go(FAR)
    rig.drive(1.0, 0.0)
    assert not rig.report.settled
