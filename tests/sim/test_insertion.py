"""What insertion tasks share: frames, history, aligned actions, the approach and its symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.errors import ConfigError
from robolearn.sim import insertion, rotation
from robolearn.sim.person import Person

unit = st.floats(-1, 1)
three = st.tuples(unit, unit, unit)
MOTION = insertion.Aligned((8.0, 8.0, 8.0), (0.3, 0.3, 6.0))
STRAIGHT = np.array([1.0, 0.0, 0.0, 0.0])


def _pose(position: tuple[float, ...], turn: tuple[float, ...]) -> np.ndarray:
    return np.concatenate([position, rotation.from_rotvec(np.array(turn))])


@given(three, three, three, unit)
def test_relative_inverts_displaced(
    place: tuple[float, ...], turn: tuple[float, ...], offset: tuple[float, ...], angle: float
) -> None:
    frame = _pose(place, turn)
    position, turned = insertion.relative(insertion.displaced(frame, np.array(offset), angle), frame)
    np.testing.assert_allclose(position, offset, atol=1e-12)
    np.testing.assert_allclose(rotation.to_rotvec(turned), [0, 0, angle], atol=1e-9)


@given(st.floats(0, 179), st.floats(-180, 180))
def test_tilt_is_the_angle_between_the_z_axes_whatever_the_yaw(tilt: float, yaw: float) -> None:
    turn = rotation.multiply(
        rotation.about_z(math.radians(yaw)), rotation.from_rotvec(np.array([math.radians(tilt), 0, 0]))
    )
    assert insertion.tilt_deg(turn) == pytest.approx(tilt, abs=1e-4)


def test_frames_of_the_ages_come_newest_first_and_the_first_one_is_repeated() -> None:
    frames: list[np.ndarray] = []
    states = []
    for number in range(5):
        frames, state = insertion.remember(frames, np.full(2, float(number)), (0, 1, 3))
        states.append(state[::2].tolist())
    assert states == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 0], [4, 3, 1]]
    assert len(frames) == 4
    assert state.dtype == np.float32


@pytest.mark.parametrize("ages", [(), (1, 2), (0, 3, 2), (0, 0)])
def test_ages_rise_from_zero(ages: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="history: expected rising ages"):
        insertion.check_ages(ages)


@given(three, three, three)
def test_scripted_actions_move_as_asked_in_the_right_direction(
    step: tuple[float, ...], goal: tuple[float, ...], noise: tuple[float, ...]
) -> None:
    """A displacement that is too long is shortened, not bent."""
    wanted = 0.02 * np.array(step)
    action = MOTION.scripted(wanted, STRAIGHT, rotation.from_rotvec(0.001 * np.array(goal)), np.zeros(6))
    assert np.abs(action).max() <= 1.0
    moved = MOTION.command(action, STRAIGHT, STRAIGHT)
    shortened = wanted / max(1.0, np.abs(wanted).max() / 0.008)
    np.testing.assert_allclose(moved[:3], shortened, atol=1e-7)
    np.testing.assert_allclose(moved[3:6], 0.001 * np.array(goal), atol=1e-6)


def test_the_approach_straightens_before_it_goes_in_and_backs_out_beside_the_hole() -> None:
    assert insertion.approach(np.array([0, 0, -0.005]), STRAIGHT)[2] == pytest.approx(0.0045)
    assert insertion.approach(np.array([0.003, 0, -0.001]), STRAIGHT)[2] == pytest.approx(-0.005), "back out"
    assert insertion.approach(np.array([0.003, 0, -0.001]), STRAIGHT)[0] == pytest.approx(-0.0048)
    assert insertion.approach(np.array([0.003, 0, 0.01]), STRAIGHT)[2] == pytest.approx(0.0045), "inside: go on"
    rolled = rotation.about_z(0.1)
    assert insertion.approach(np.array([0, 0, -0.005]), rolled)[2] < 0.0
    assert insertion.approach(np.array([0, 0, -0.005]), rolled, near_rad=0.2)[2] > 0.0


def test_the_search_presses_and_slides_and_lifts_what_caught_on_an_edge() -> None:
    """A tip that is a tenth of a millimetre deep and stays there although it is pushed along has caught."""

    def step(depth: float, speed: float) -> np.ndarray:
        return insertion.search(np.array([0.002, 0.0, depth]), STRAIGHT, speed, growth_m=0.001, reach_m=0.005)

    pressed, caught = step(0.0001, 0.01), step(0.0001, 0.0005)
    assert pressed[2] > 0
    np.testing.assert_allclose(caught, pressed * (1, 1, -1), atol=1e-12)
    np.testing.assert_array_equal(step(0.0, 0.0005), step(0.0, 0.01))
    assert step(0.004, 0.0)[2] > 0, "inside: go on"


def test_a_person_goes_to_where_the_hole_seems_to_be_at_their_own_pace() -> None:
    person = Person(np.random.default_rng(0), (0.002, 0.002), 6)
    person.aim, person.pace = np.array([0.002, -0.001]), 0.5
    step = insertion.as_a_person(np.array([0.002, -0.001, -0.005]), STRAIGHT, person)
    np.testing.assert_allclose(step, [0, 0, 0.5 * 0.0045], atol=1e-12)
    assert insertion.as_a_person(np.array([0, 0, -0.005]), STRAIGHT, person)[0] > 0


@pytest.mark.parametrize("quarters", [1, 2, 3])
@given(position=three, turn=three, step=three)
def test_the_approach_is_equivariant_under_turns_about_the_hole(
    quarters: int, position: tuple[float, ...], turn: tuple[float, ...], step: tuple[float, ...]
) -> None:
    """Seen in turned axes, the scripted tool does the turned thing."""
    (symmetry,) = insertion.turned(1, (quarters,))
    about = rotation.about_z(quarters * math.pi / 2)
    place, tilt = 0.01 * np.array(position), rotation.from_rotvec(0.3 * np.array(turn))
    there = rotation.matrix(about) @ place
    tilted = rotation.multiply(rotation.multiply(about, tilt), rotation.conjugate(about))
    plain, other = insertion.approach(place, tilt), insertion.approach(there, tilted)
    np.testing.assert_allclose(symmetry.action(np.append(plain, step))[:3], other, atol=1e-12)
