"""SafeRobot: no action stream leaves the limits, every stop latches, every fault fails closed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.core.errors import ConfigError, RobotStoppedError, SpecError, StaleEpochError
from robolearn.core.spec import Array
from robolearn.core.types import Command
from robolearn.hal import geometry
from robolearn.hal.drivers import fake
from robolearn.hal.safety import CartesianDelta, SafeRobot, SafetyLimits

START = np.array([0.4, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0])
LIMITS = SafetyLimits(low=(0.3, -0.1, 0.25), high=(0.5, 0.1, 0.4), translation=0.03, rotation=0.15, tilt=0.5)


class Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, values: Any) -> None:
        self.seen.append((kind, dict(values)))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.seen]


def make(limits: SafetyLimits = LIMITS, **faults: Any) -> tuple[SafeRobot, fake.FakeRobot, Events]:
    events = Events()
    robot = fake.build(fake.Config(faults=fake.Faults(**faults)))
    return SafeRobot(robot, limits, epoch=3, on_event=events), robot, events


def action(*values: float) -> Array:
    return np.array([*values, *[0.0] * (7 - len(values))])


numbers = st.floats(-0.1, 0.1) | st.floats(allow_nan=True, allow_infinity=True)
actions = st.lists(numbers, min_size=7, max_size=7).map(np.array) | st.lists(numbers, max_size=9).map(np.array)
quaternions = st.lists(st.floats(-1, 1), min_size=4, max_size=4).map(np.array).filter(lambda q: q @ q > 0.01)


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, min_size=1, max_size=20), quaternions)
def test_no_action_stream_leaves_the_limits(stream: list[Array], q: Array) -> None:
    limits = SafetyLimits(LIMITS.low, LIMITS.high, translation=0.03, rotation=0.15)
    safe, robot, _ = make(limits)
    safe.reset(np.concatenate([START[:3], q / np.linalg.norm(q)]), {})
    bounds = robot.spec.action
    for wanted in stream:
        sent = safe.apply(wanted)
        bounds.validate(sent)
        np.testing.assert_array_equal(sent, robot.commands[-1].action)
        assert robot.commands[-1].epoch == 3
        assert np.linalg.norm(sent[:3]) <= limits.translation + 1e-12
        assert np.linalg.norm(sent[3:6]) <= limits.rotation + 1e-12
        position = robot.observe()["tcp_pose"][:3]
        assert (position >= np.array(limits.low) - 1e-9).all()
        assert (position <= np.array(limits.high) + 1e-9).all()
        assert safe.last_rejected == (wanted.shape != (7,) or not np.isfinite(wanted).all())
        if safe.last_rejected:
            assert not sent[:6].any()
    assert safe.counts["applied"] == len(stream)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3), min_size=1, max_size=30))
def test_no_turn_tilts_the_tool_too_far(turns: list[list[float]]) -> None:
    safe, robot, _ = make()
    safe.reset(START, {})
    for turn in turns:
        safe.apply(np.array([0, 0, 0, *turn, 0]))
        assert geometry.tilt(robot.observe()["tcp_pose"][3:]) <= 0.5 + 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3),
    st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=3),
    quaternions,
)
def test_outside_the_box_every_axis_only_moves_back_in(offset: list[float], delta: list[float], q: Array) -> None:
    safe, robot, _ = make(SafetyLimits(LIMITS.low, LIMITS.high, translation=0.03, rotation=0.15))
    robot.reset(np.concatenate([START[:3] + offset, q / np.linalg.norm(q)]), {})

    def outside() -> Array:
        position = robot.observe()["tcp_pose"][:3]
        beyond = np.maximum(np.array(LIMITS.low) - position, position - np.array(LIMITS.high))
        return np.asarray(np.maximum(0.0, beyond))

    before = outside()
    sent = safe.apply(action(*delta))
    assert (outside() <= before + 1e-9).all()
    assert np.linalg.norm(sent[:3]) <= 0.03 + 1e-12


def test_an_action_within_the_limits_is_untouched() -> None:
    safe, _, events = make()
    safe.reset(START, {})
    wanted = action(0.01, -0.005, 0.002, 0.05, 0.0, -0.02, 0.7)
    np.testing.assert_array_equal(safe.apply(wanted), wanted)
    assert not safe.last_altered
    assert safe.counts == {"applied": 1}
    assert events.kinds == []


def test_float32_rounding_is_no_alteration() -> None:
    safe, _, _ = make(SafetyLimits(LIMITS.low, LIMITS.high, translation=1.0, rotation=1.0))
    sent = safe.apply(np.array([0.05, 0, 0, 0.2, 0, 0, 1], dtype=np.float32))
    assert not safe.last_altered
    safe.spec.action.validate(sent)


def test_each_stage_counts_and_tells_once_an_episode() -> None:
    safe, _, events = make()
    safe.reset(START, {})
    for _ in range(2):
        safe.apply(action(0.2, 0, 0))
    assert safe.last_altered
    assert not safe.last_rejected
    assert (safe.counts["clipped"], safe.counts["step"]) == (2, 2)
    assert events.kinds == ["clipped", "step"]
    for _ in range(10):
        safe.apply(action(0, 0, -0.03))  # up: the tool points down
    assert safe.counts["workspace"] > 0
    safe.reset(START, {})
    safe.apply(action(0.2, 0, 0))
    assert events.kinds.count("clipped") == 2


def test_at_a_wall_the_arm_slides_along() -> None:
    safe, robot, _ = make()
    safe.reset(np.array([0.5, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0]), {})
    safe.apply(action(0.02, 0.01, 0.0))
    np.testing.assert_allclose(robot.observe()["tcp_pose"][:3], [0.5, -0.01, 0.3], atol=1e-12)


def test_sliding_along_a_wall_stays_within_the_robots_own_bounds() -> None:
    """At 22.5 degrees the part of a diagonal step along the wall is longer, in tool axes, than one axis may move."""
    safe, robot, _ = make(SafetyLimits(LIMITS.low, LIMITS.high, translation=1.0, rotation=1.0))
    turned = geometry.turn(START[3:], np.array([0.0, 0.0, np.pi / 8]))
    safe.reset(np.concatenate([[0.5, 0.0, 0.3], turned]), {})
    sent = safe.apply(action(0.05, 0.05, 0.0))
    safe.spec.action.validate(sent)
    assert np.abs(sent[:3]).max() == pytest.approx(0.05)
    assert robot.observe()["tcp_pose"][0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "bad",
    [
        action(np.nan),
        action(0, 0, np.inf),
        np.zeros(6),
        np.zeros((1, 7)),
        "left",
        None,
        [[0.0], [1.0, 2.0]],
        0.0,
        Command(np.zeros(7), 9),
    ],
)
def test_a_bad_action_holds_still_with_the_gripper_as_it_was(bad: object) -> None:
    safe, robot, events = make()
    safe.apply(action(0.01, 0, 0, 0, 0, 0, 0.6))
    before = robot.observe()["tcp_pose"]
    np.testing.assert_array_equal(safe.apply(bad), [0, 0, 0, 0, 0, 0, 0.6])
    np.testing.assert_array_equal(robot.observe()["tcp_pose"], before)
    assert safe.last_rejected
    assert safe.last_altered
    assert safe.counts["rejected"] == 1
    assert "rejected" in events.kinds
    safe.apply(action(0.01))
    assert not safe.last_rejected


def test_the_box_is_checked_against_the_newest_pose() -> None:
    """Applying again and again without observing does not walk out of the box."""
    safe, robot, _ = make()
    safe.reset(START, {})
    for _ in range(20):
        safe.apply(action(0.03))
    assert robot.observe()["tcp_pose"][0] == pytest.approx(0.5)


def test_a_stop_latches_until_a_person_clears_it() -> None:
    safe, robot, events = make()
    safe.stop("button")
    safe.stop("again")
    assert safe.stopped == "button"
    with pytest.raises(RobotStoppedError, match="button"):
        safe.apply(action())
    with pytest.raises(RobotStoppedError, match="button"):
        safe.reset(START, {})
    safe.observe()
    with pytest.raises(ConfigError, match="person"):
        safe.clear("  ")
    assert safe.stopped
    safe.clear("Ada")
    safe.apply(action(0.01))
    assert len(robot.commands) == 1
    assert events.seen == [("stop", {"reason": "button"}), ("clear", {"person": "Ada", "reason": "button"})]
    assert safe.counts["stopped"] == 1


def test_a_driver_that_raises_is_stopped() -> None:
    safe, robot, events = make(raise_on_apply=True)
    with pytest.raises(fake.FakeFaultError):
        safe.apply(action(0.01))
    robot.faults = fake.Faults()
    with pytest.raises(RobotStoppedError):
        robot.apply(Command(np.zeros(7), 3))
    with pytest.raises(RobotStoppedError, match="FakeFaultError"):
        safe.apply(action(0.01))
    assert events.kinds == ["stop"]


def test_a_stop_that_fails_latches_all_the_same() -> None:
    safe, robot, events = make(raise_on_apply=True, raise_on_stop=True)
    with pytest.raises(fake.FakeFaultError, match="to stop"):
        safe.apply(action(0.01))
    robot.faults = fake.Faults()
    robot.clear()
    with pytest.raises(RobotStoppedError):
        safe.apply(action(0.01))
    assert events.kinds == ["stop"]
    assert not robot.commands


@pytest.mark.parametrize("key", ["tcp_pose", "wrench", "joint_position"])
def test_a_nan_observation_stops(key: str) -> None:
    safe, robot, _ = make()
    safe.apply(action(0.01))
    robot.faults = fake.Faults(nan_observation=key)
    with pytest.raises(SpecError, match=key):
        safe.apply(action(0.01))
    assert len(robot.commands) == 1
    assert safe.counts["bad_observation"] == 1
    with pytest.raises(RobotStoppedError):
        safe.apply(action(0.01))


def test_a_missing_or_misshapen_observation_stops() -> None:
    for change in ({"tcp_pose": None}, {"wrench": np.zeros(3)}, {"tcp_pose": np.zeros(7)}):
        safe, robot, _ = make()
        raw = {k: v for k, v in (robot.observe() | change).items() if v is not None}
        robot.observe = lambda raw=raw: raw  # type: ignore[method-assign, misc]
        with pytest.raises(SpecError):
            safe.observe()
        assert safe.stopped


def test_force_above_the_limit_stops_before_the_next_step() -> None:
    limits = SafetyLimits(LIMITS.low, LIMITS.high, translation=0.03, rotation=0.15, force=30.0)
    safe, robot, events = make(limits, force_n=-20.0)
    safe.observe()
    safe.apply(action(0.01))
    robot.faults = fake.Faults(force_n=-40.0)
    assert safe.observe()["wrench"][2] == -40.0
    with pytest.raises(RobotStoppedError, match=r"40\.0 N"):
        safe.apply(action(0.01))
    assert events.kinds == ["force", "stop"]
    safe.clear("Ada")
    with pytest.raises(RobotStoppedError, match=r"40\.0 N"):
        safe.apply(action(0.01))  # the cause is still there
    assert len(robot.commands) == 1


def test_whoever_lost_the_robot_leaves_it_alone() -> None:
    safe, robot, _ = make()
    safe.apply(action(0.01))
    robot.apply(Command(np.zeros(7), 4))  # the next holder
    with pytest.raises(StaleEpochError):
        safe.apply(action(0.01))
    with pytest.raises(RobotStoppedError):
        safe.apply(action(0.01))
    safe.stop("button")
    with pytest.raises(StaleEpochError):
        safe.clear("Ada")
    robot.apply(Command(np.zeros(7), 4))  # was not stopped by the one who lost it


def test_what_the_driver_really_sent_is_returned_and_counted() -> None:
    safe, _, _ = make(lag=0.5)
    np.testing.assert_allclose(safe.apply(action(0.02)), action(0.01))
    assert safe.counts["driver"] == 1
    assert not safe.last_altered


def test_a_driver_that_returns_nonsense_is_stopped() -> None:
    for nonsense in (np.full(7, np.nan), np.zeros(6), None):
        safe, robot, _ = make()
        robot.apply = lambda command, nonsense=nonsense: nonsense  # type: ignore[method-assign, misc]
        with pytest.raises(SpecError):
            safe.apply(action(0.01))
        assert safe.stopped


@pytest.mark.parametrize(
    ("pose", "error"),
    [
        (np.full(7, np.nan), SpecError),
        (np.zeros(7), SpecError),
        (START[:3], SpecError),
        (START + np.array([0.2, 0, 0, 0, 0, 0, 0]), ConfigError),
        (np.concatenate([START[:3], [1.0, 0, 0, 0]]), ConfigError),  # upside down
    ],
)
def test_a_bad_start_is_refused_before_anything_moves(pose: Array, error: type[Exception]) -> None:
    safe, robot, _ = make()
    before = robot.observe()["tcp_pose"]
    with pytest.raises(error):
        safe.reset(pose, {})
    with pytest.raises(SpecError, match="socket"):
        safe.reset(START, {"socket": np.zeros(6)})
    np.testing.assert_array_equal(robot.observe()["tcp_pose"], before)
    assert not safe.stopped


@pytest.mark.parametrize(
    "change",
    [
        {"low": (0.5, 0.0, 0.0)},
        {"low": (float("-inf"), 0.0, 0.0)},
        {"low": (0.0, 0.0)},
        {"translation": 0.0},
        {"rotation": float("nan")},
        {"force": -1.0},
        {"tilt": 0.0},
    ],
)
def test_impossible_limits_are_refused(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "low": (0.0, -1.0, 0.0),
        "high": (0.5, 1.0, 1.0),
        "translation": 0.01,
        "rotation": 0.1,
    } | change
    with pytest.raises(ConfigError, match="safety limits"):
        SafetyLimits(**values)


def test_a_robot_that_does_not_fit_the_layout_is_refused() -> None:
    with pytest.raises(ConfigError, match="shape"):
        SafeRobot(fake.build(fake.Config()), LIMITS, epoch=1, layout=CartesianDelta(gripper=None))
    with pytest.raises(ConfigError, match="'flange'"):
        SafeRobot(fake.build(fake.Config()), LIMITS, epoch=1, layout=CartesianDelta(pose="flange"))


def test_close_is_passed_on() -> None:
    safe, robot, _ = make()
    safe.close()
    safe.close()
    assert robot.closed
