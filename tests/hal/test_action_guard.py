"""Which action is allowed: nearest, within every bound, and untouched when it is fine."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.core.errors import SpecError
from robolearn.hal import geometry
from robolearn.hal.guard import ActionGuard, check_pose, parse_action, shorten, within_tilt
from robolearn.hal.host.observing import action_spec
from robolearn.hal.limits import CartesianDelta, SafetyLimits

LOW, HIGH = (0.3, -0.2, 0.05), (0.6, 0.2, 0.4)
DOWN = np.array([0.0, 1.0, 0.0, 0.0])
MIDDLE = np.array([0.45, 0.0, 0.2, *DOWN])


def guard(**more: float) -> ActionGuard:
    limits = SafetyLimits(LOW, HIGH, **{"translation": 0.01, "rotation": 0.1, "tilt": 0.3, **more})
    return ActionGuard(action_spec(0.008, 0.1), limits, CartesianDelta())


def kinds(changes: list) -> list[str]:
    return [change.kind for change in changes]


def test_an_allowed_action_passes_unchanged() -> None:
    action = np.array([0.004, -0.004, 0.003, 0.01, 0.0, -0.05, 0.5])
    allowed, changes = guard().limit(action, MIDDLE)
    assert np.array_equal(allowed, action)
    assert changes == []


def test_bounds_are_per_number_and_steps_by_length() -> None:
    allowed, changes = guard().limit(np.array([1.0, 1.0, 0, 0, 0, 0, 2.0]), MIDDLE)
    assert kinds(changes) == ["clipped", "step"]
    assert np.linalg.norm(allowed[:3]) == pytest.approx(0.01)
    assert allowed[0] == pytest.approx(allowed[1])
    assert allowed[6] == 1.0


def test_a_change_tells_before_and_after() -> None:
    asked = np.array([0.1, 0, 0, 0, 0, 0, 0.0])
    _, (change,) = guard().limit(asked, MIDDLE)
    assert np.array_equal(change.asked, asked)
    assert change.allowed[0] == 0.008


def test_rounding_is_no_intervention() -> None:
    action = np.array([0.008, 0, 0, 0, 0, 0.1, 1.0], dtype=np.float32).astype(np.float64)
    _, changes = guard().limit(action, MIDDLE)
    assert changes == []


def test_a_wall_is_slid_along() -> None:
    pose = MIDDLE.copy()
    pose[0] = 0.6
    allowed, changes = guard().limit(np.array([0.005, 0.005, 0, 0, 0, 0, 0]), pose)
    assert kinds(changes) == ["workspace"]
    assert allowed[:3] == pytest.approx([0.0, 0.005, 0.0], abs=1e-12)


def test_outside_only_inwards() -> None:
    pose = MIDDLE.copy()
    pose[0] = 0.7
    out, _ = guard().limit(np.array([0.005, 0.001, 0, 0, 0, 0, 0]), pose)
    assert out[:3] == pytest.approx([0.0, 0.001, 0.0], abs=1e-12)
    back, changes = guard().limit(np.array([-0.005, 0.001, 0, 0, 0, 0, 0]), pose)
    assert back[:3] == pytest.approx([-0.005, 0.001, 0.0])
    assert changes == []


def test_no_tilt_beyond_the_limit_and_back_is_free() -> None:
    upright, changes = guard().limit(np.array([0, 0, 0, 0.1, 0, 0, 0]), MIDDLE)
    assert changes == []
    pose = np.array([*MIDDLE[:3], *geometry.turn(DOWN, np.array([0.28, 0.0, 0.0]))])
    upright, changes = guard().limit(np.array([0, 0, 0, 0.1, 0, 0, 0]), pose)
    assert kinds(changes) == ["tilt"]
    assert geometry.tilt(geometry.turn(pose[3:], upright[3:6])) == pytest.approx(0.3, abs=1e-5)
    beyond = geometry.turn(DOWN, np.array([0.5, 0.0, 0.0]))
    assert not within_tilt(beyond, np.array([0.05, 0.0, 0.0]), 0.3).any()
    assert within_tilt(beyond, np.array([-0.05, 0.0, 0.0]), 0.3).any()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=7, max_size=7),
    st.lists(st.floats(-0.1, 1.1), min_size=3, max_size=3),
    st.lists(st.floats(-0.25, 0.25), min_size=3, max_size=3),
)
def test_whatever_is_asked_the_result_is_allowed(numbers: list[float], place: list[float], turn: list[float]) -> None:
    """From anywhere in the box or near it, with any orientation near upright."""
    low, high = np.array(LOW), np.array(HIGH)
    position = low + np.array(place) * (high - low)
    pose = np.array([*position, *geometry.turn(DOWN, np.array(turn))])
    tool = guard()
    allowed, _ = tool.limit(np.array(numbers), pose)
    assert (allowed >= tool.low - 1e-12).all()
    assert (allowed <= tool.high + 1e-12).all()
    assert np.linalg.norm(allowed[:3]) <= 0.01 + 1e-12
    assert np.linalg.norm(allowed[3:6]) <= 0.1 + 1e-12
    after = position + geometry.to_matrix(pose[3:]) @ allowed[:3]
    outside = np.maximum(low - position, 0) + np.maximum(position - high, 0)
    assert (np.maximum(low - after, 0) + np.maximum(after - high, 0) <= outside + 1e-12).all()
    before, then = geometry.tilt(pose[3:]), geometry.tilt(geometry.turn(pose[3:], allowed[3:6]))
    assert then <= max(0.3, before) + 1e-5
    again, changes = tool.limit(allowed, pose)
    assert np.abs(again - allowed).max() < 1e-9
    assert changes == []


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ([0.0] * 6, "shape"),
        ([[0.0] * 7], "shape"),
        ([math.nan] * 7, "finite"),
        ([math.inf] * 7, "finite"),
        ("go", "numbers|shape"),
        (None, "shape|finite|numbers"),
        ([None] * 7, "numbers|finite"),
        ({"x": 1}, "numbers"),
    ],
)
def test_what_is_no_action_is_named(action: object, says: str) -> None:
    problem = parse_action(action, (7,))
    assert isinstance(problem, str)
    assert any(word in problem for word in says.split("|"))


def test_numbers_of_other_types_become_float64() -> None:
    parsed = parse_action(np.ones(7, dtype=np.int32), (7,))
    assert isinstance(parsed, np.ndarray)
    assert parsed.dtype == np.float64


def test_shorten_keeps_the_direction() -> None:
    assert np.array_equal(shorten(np.array([0.3, 0.4, 0.0]), 1.0), [0.3, 0.4, 0.0])
    assert shorten(np.array([3.0, 4.0, 0.0]), 1.0) == pytest.approx([0.6, 0.8, 0.0])


@pytest.mark.parametrize("pose", [np.zeros(7), np.zeros(6), [0, 0, 0, 2, 0, 0, 0], [np.nan, 0, 0, 1, 0, 0, 0]])
def test_what_is_no_pose_is_refused(pose: object) -> None:
    with pytest.raises(SpecError):
        check_pose("goal", np.asarray(pose, dtype=float))
