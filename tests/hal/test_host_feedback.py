"""When a robot host stops believing what the arm tells."""

import numpy as np
import pytest
from host_rig import Rig, bounds_broken, ready

from robolearn.hal.host.feedback import Feedback, Reading
from robolearn.hal.host.wire import Mode

MS = 1_000_000
HOUR = 3_600_000 * MS


def read(position: float = 0.0, *, stamp: int = 0, received: int = 0, **more: object) -> Reading:
    return Reading(np.full(7, position), np.zeros(7), stamp, received, **more)


def driving() -> Rig:
    rig = ready()
    rig.drive(0.5, 0.004)
    assert rig.host.mode is Mode.DRIVING
    return rig


def test_silence_of_the_arm_holds_and_refuses_until_it_speaks_again() -> None:
    rig = driving()
    rig.feeds = False
    for _ in range(30):
        rig.tick(rig.delta(0.004))
    assert rig.host.mode is Mode.HOLDING
    assert "old" in rig.host.trouble
    assert rig.host.feedback_counts["old"] > 0
    refused = rig.count("refused")
    rig.next_report()
    assert rig.tick(rig.delta(0.004)).setpoint is not None, "it still holds"
    assert rig.count("refused") == refused + 1
    assert ("feedback", {"problem": rig.events[-1][1]["problem"]}) in rig.events
    rig.feeds = True
    rig.next_report()
    rig.tick(rig.delta(0.004))
    assert rig.host.mode is Mode.DRIVING
    assert bounds_broken(rig.published, rig.config) == []


def test_the_reference_is_at_rest_150_ms_after_the_last_joint_state() -> None:
    rig = driving()
    rig.feeds = False
    rig.run(0.15)
    assert rig.host.at_rest
    held = rig.published[-1].pose
    rig.run(0.5)
    assert np.array_equal(rig.published[-1].pose, held), "an unknown arm is held where the reference is"


def test_the_same_numbers_again_and_again_though_the_arm_should_move_are_noticed() -> None:
    rig = driving()
    rig.changes = {"position": rig.q.copy(), "velocity": rig.velocity.copy()}
    rig.drive(0.6, 0.008)
    assert rig.host.feedback_counts["frozen"] > 0
    assert rig.host.mode is Mode.HOLDING


def test_the_same_numbers_of_an_arm_at_rest_are_fine() -> None:
    rig = ready()
    rig.changes = {"position": rig.q.copy(), "velocity": rig.velocity.copy()}
    rig.drive(1.0, 0.0)
    assert rig.host.trouble == ""


def test_states_that_come_300_ms_late_are_noticed_for_minutes() -> None:
    feedback, period = Feedback(0.1), 5 * MS
    for k in range(1, 200):
        assert feedback.judge(read(k, stamp=k * period, received=k * period), k * period, moving=True) == ""
    for k in range(200, 200 + 200 * 120):
        late = read(k, stamp=k * period - 300 * MS, received=k * period)
        assert "later than they used to" in feedback.judge(late, k * period, moving=True)
    assert feedback.counts["delayed"] == 200 * 120


def test_late_states_hold() -> None:
    rig = driving()
    rig.stamp_offset = -300 * MS
    rig.tick()
    assert rig.host.mode is Mode.HOLDING


def test_nearly_a_third_of_the_states_lost_is_no_trouble() -> None:
    rig, rng = ready(), np.random.default_rng(0)
    for _ in range(20):
        rig.next_report()
        rig.tick(rig.delta(0.002))
        for _ in range(10):
            rig.feeds = rng.random() > 0.3
            rig.tick()
        rig.feeds = True
    assert rig.host.trouble == ""
    assert rig.count("stale") == 0
    assert rig.count("feedback") == 0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_of_the_arms_clock_is_counted_and_no_trouble(jump: int) -> None:
    rig = driving()
    rig.stamp_offset = jump
    rig.drive(0.3, 0.004)
    assert rig.host.feedback_counts["clock_jump"] == 1
    assert rig.host.trouble == ""
    assert rig.host.mode is Mode.DRIVING
    rig.stamp_offset -= 300 * MS
    rig.tick()
    assert "later" in rig.host.trouble, "and lateness is still noticed afterwards"


def test_stamps_that_run_backwards_are_counted() -> None:
    rig = driving()
    for _ in range(10):
        rig.stamp_offset -= 10 * MS
        rig.tick()
    assert rig.host.feedback_counts["backwards"] == 10


@pytest.mark.parametrize("key", ["position", "velocity"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_believed(key: str, value: float) -> None:
    rig = driving()
    rig.changes[key] = np.full(7, value)
    rig.tick()
    assert rig.host.mode is Mode.HOLDING
    assert rig.host.feedback_counts["bad"] == 1
    rig.run(0.5)
    for setpoint in rig.published:
        assert np.isfinite(setpoint.pose).all()
    assert np.isfinite(rig.reports[-1].observation["joint_position"]).all()


def test_a_missing_joint_holds_and_is_named() -> None:
    rig = driving()
    rig.changes["problem"] = "joint_states lacks fr3_joint4"
    rig.tick(rig.delta(0.004))
    assert rig.host.mode is Mode.HOLDING
    assert rig.host.refusal == "joint_states lacks fr3_joint4"


def test_a_wrench_that_is_expected_and_does_not_come_holds() -> None:
    rig = driving()
    rig.changes["wrench"] = None
    rig.tick()
    assert rig.host.mode is Mode.HOLDING
    assert "wrench" in rig.host.trouble


def test_no_stamp_at_all_is_no_trouble() -> None:
    feedback = Feedback(0.1)
    for k in range(1, 100):
        assert feedback.judge(read(k, received=k * MS), k * MS, moving=True) == ""
    assert not feedback.counts


def test_a_sudden_jump_of_the_arm_moves_the_reference_within_bounds() -> None:
    rig = driving()
    rig.q = rig.q + np.array([0.2, 0, 0, 0, 0, 0.1, 0])
    rig.drive(1.0, 0.004)
    assert bounds_broken(rig.published, rig.config) == []
