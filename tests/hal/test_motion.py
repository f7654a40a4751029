"""Motion references: bounds on what is published, whatever is asked; no overshoot; close to the least time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.core.errors import ConfigError, SpecError
from robolearn.hal.chain import Chain
from robolearn.hal.motion import AxisLimits, Envelope, Limiter
from robolearn.hal.stopping import Axis

FR3 = Chain.load("fr3").limits
PERIODS = (0.01, 0.005, 0.004, 0.002, 0.001)


def broken(limits: AxisLimits, dt: float, path: np.ndarray) -> dict[str, float]:
    """By how much positions (T, n) break each bound, relative (positions: absolute); rounding of positions allowed."""
    rounding = 5e-16 * (np.abs(path).max() + 1e-300)
    v, a, j = (np.diff(path, order, axis=0) / dt**order for order in (1, 2, 3))
    excess = {
        "velocity": ((np.abs(v) - 2 * rounding / dt) / limits.velocity).max() - 1,
        "acceleration": ((np.abs(a) - 4 * rounding / dt**2) / limits.acceleration).max() - 1,
        "jerk": ((np.abs(j) - 8 * rounding / dt**3) / limits.jerk).max() - 1,
        "lower": (limits.lower - path).max(),
        "upper": (path - limits.upper).max(),
    }
    if limits.envelope is not None:
        above = v - limits.envelope.upper(path[1:])
        below = limits.envelope.lower(path[1:]) - v
        excess["envelope"] = max(above.max(), below.max()) - 2 * rounding / dt
    return {name: float(value) for name, value in excess.items() if value > (0 if name in ("lower", "upper") else 1e-9)}


def follow(limiter: Limiter, steps: int, goal: Callable[[int], np.ndarray | None]) -> np.ndarray:
    """Positions (steps + 4, n) published, after the seed three times over; a goal of None brakes."""
    path = [limiter.position] * 4
    for k in range(steps):
        wanted = goal(k)
        path.append(limiter.brake() if wanted is None else limiter.step(wanted))
    return np.array(path)


def adversary(limiter: Limiter, rng: np.random.Generator) -> Callable[[int], np.ndarray | None]:
    """Goals that change character every so often: floods, flips, limits, small steps, stops, its own rest point."""
    low = np.where(np.isfinite(limiter.lower), limiter.lower, limiter.position - 1)
    high = np.where(np.isfinite(limiter.upper), limiter.upper, limiter.position + 1)
    reach = limiter.limits.acceleration * limiter.dt**2
    state = {"mode": 0, "left": 0, "every": 1, "goal": limiter.position}

    def goal(k: int) -> np.ndarray | None:
        if state["left"] == 0:
            state.update(mode=rng.integers(7), left=int(10 ** rng.uniform(0, 2.7)), every=int(10 ** rng.uniform(0, 2)))
        state["left"] -= 1
        mode, turn = state["mode"], k // state["every"]
        if mode == 0:
            state["goal"] = rng.uniform(low - 1, high + 1)
        elif mode == 1 and k % state["every"] == 0:
            state["goal"] = rng.uniform(low, high)
        elif mode == 2:
            state["goal"] = high + 1 if turn % 2 else low - 1
        elif mode == 3 and k % state["every"] == 0:
            state["goal"] = np.where(rng.random(len(low)) < 0.5, high, low)
        elif mode == 4:
            state["goal"] = state["goal"] + rng.normal(size=len(low)) * limiter.limits.velocity * limiter.dt
        elif mode == 5:
            state["goal"] = limiter.rest + rng.normal(size=len(low)) * reach * 10 ** rng.uniform(-6, 1)
        return None if mode == 6 else state["goal"]

    return goal


def single(velocity: float, acceleration: float, jerk: float, low: float = -9.0, high: float = 9.0) -> AxisLimits:
    """Limits of one axis."""
    return AxisLimits(*(np.array([x]) for x in (low, high, velocity, acceleration, jerk)))


@given(
    w=st.floats(-50, 50),
    share=st.floats(-1, 1),
    jerk=st.floats(1e-3, 10),
    acceleration=st.floats(1e-2, 10),
    part=st.floats(0.1, 1),
)
def test_the_distance_to_rest_is_what_braking_takes(
    w: float, share: float, jerk: float, acceleration: float, part: float
) -> None:
    axis = Axis(1e3, acceleration, jerk, acceleration, -math.inf, math.inf)
    limit, a = part * acceleration, share * acceleration
    foreseen, x, steps = axis.stop(w, a, limit), 0.0, 0
    while (abs(w) > 1e-12 or abs(a) > 1e-12) and steps < 100_000:
        before, a = a, axis.brake(w, a, limit)
        assert abs(a - before) <= jerk * (1 + 1e-12)
        w += a
        x += w
        steps += 1
    assert x == pytest.approx(foreseen, rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    dt=st.sampled_from(PERIODS),
    scale=st.tuples(st.floats(-2, 2), st.floats(-3, 1), st.floats(-1, 4), st.floats(-6, 1)),
    start=st.floats(0, 1),
    speed=st.floats(-2, 2),
    commands=st.lists(st.tuples(st.one_of(st.none(), st.floats(-0.5, 1.5)), st.integers(1, 40)), max_size=12),
)
def test_nothing_asked_breaks_a_bound(
    dt: float,
    scale: tuple[float, float, float, float],
    start: float,
    speed: float,
    commands: list[tuple[float | None, int]],
) -> None:
    acceleration = 10 ** scale[0]
    span = 10 ** scale[3]
    limits = single(acceleration * 10 ** scale[1], acceleration, acceleration * 10 ** scale[2], -span / 3, span)
    limiter = Limiter(limits, dt)
    limiter.seed(limiter.lower + start * (limiter.upper - limiter.lower), speed * limits.velocity)
    before = limiter.position - np.outer([3, 2, 1], limiter.velocity * dt)
    goals = [None if g is None else np.array([span * g]) for g, times in commands for _ in range(times)]
    path = follow(limiter, len(goals), goals.__getitem__)[3:]
    assert not broken(AxisLimits(limits.lower - 9, limits.upper + 9, *bounds(limits)), dt, np.vstack([before, path]))
    assert (path >= limits.lower).all()
    assert (path <= limits.upper).all()


def bounds(limits: AxisLimits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Velocity, acceleration, jerk."""
    return limits.velocity, limits.acceleration, limits.jerk


@pytest.mark.parametrize(
    ("dt", "steps"),
    [(0.005, 20_000), (0.001, 10_000), (0.01, 5_000), pytest.param(0.005, 10**6, marks=pytest.mark.slow)],
)
def test_an_adversary_does_not_break_the_bounds_of_an_fr3(dt: float, steps: int) -> None:
    limiter = Limiter(FR3, dt)
    limiter.seed(Chain.load("fr3").home)
    path = follow(limiter, steps, adversary(limiter, np.random.default_rng(steps)))
    assert not broken(FR3, dt, path)
    speed = np.abs(np.diff(path, axis=0)).max(axis=0) / dt
    assert (speed > 0.5 * FR3.velocity).all()  # it was not standing still


@pytest.mark.parametrize("dt", PERIODS)
def test_limits_of_all_sizes_hold(dt: float) -> None:
    rng = np.random.default_rng(int(1e4 * dt))
    acceleration = 10 ** rng.uniform(-2, 2, 16)
    centre, span = rng.normal(size=16), 10 ** rng.uniform(-6, 1, 16)
    velocity, jerk = acceleration * 10 ** rng.uniform(-3, 1, 16), acceleration * 10 ** rng.uniform(-1, 4, 16)
    limits = AxisLimits(centre - span, centre + span, velocity, acceleration, jerk)
    limiter = Limiter(limits, dt)
    limiter.seed(centre)
    assert not broken(limits, dt, follow(limiter, 2000, adversary(limiter, rng)))


@pytest.mark.parametrize("dt", PERIODS)
@pytest.mark.parametrize(("velocity", "acceleration", "jerk"), [(2.62, 10.0, 5000.0), (0.25, 2.0, 100.0)])
def test_a_goal_in_range_is_reached_without_overshoot_in_nearly_the_least_time(
    dt: float, velocity: float, acceleration: float, jerk: float
) -> None:
    goals = np.array([0.02, 0.1, 0.3, 1.0, -1.5])
    column = np.ones(5)
    limits = AxisLimits(-9 * column, 9 * column, velocity * column, acceleration * column, jerk * column)
    limiter = Limiter(limits, dt)
    limiter.seed(np.zeros(5))
    path = follow(limiter, int(7 / dt), lambda k: goals)[4:]
    assert ((path - goals) * np.sign(goals)).max() <= 1e-12
    assert limiter.at_rest
    np.testing.assert_allclose(path[-1], goals, atol=1e-6)
    for column_path, goal in zip(path.T, np.abs(goals), strict=True):
        far = goal > velocity**2 / acceleration
        least = goal / velocity + velocity / acceleration if far else 2 * math.sqrt(goal / acceleration)
        taken = dt * (1 + np.flatnonzero(np.abs(np.abs(column_path) - goal) > 1e-6).max())
        assert taken <= 1.15 * least + 2 * dt


def test_a_goal_that_turns_round_is_not_passed_by_more_than_stopping_takes() -> None:
    rng = np.random.default_rng(4)
    limits = single(2.0, 10.0, 300.0)
    limiter = Limiter(limits, 0.005)
    limiter.seed(np.zeros(1))
    for _ in range(100):
        away, goal = rng.uniform(-1, 1, (2, 1))
        follow(limiter, int(rng.integers(1, 60)), lambda k, goal=away: goal)
        ends = [limiter.position, limiter.rest, goal]
        path = follow(limiter, 400, lambda k, goal=goal: goal)
        # The way to the rest point may start the other way round by what easing off an acceleration takes.
        slack = abs(limits.acceleration[0]) ** 3 / limits.jerk[0] ** 2
        assert path.max() <= max(ends) + slack
        assert path.min() >= min(ends) - slack
        np.testing.assert_allclose(path[-1], goal, atol=1e-6)


def test_braking_is_quick_and_ends_at_rest_where_foreseen() -> None:
    limiter = Limiter(FR3, 0.005)
    limiter.seed(Chain.load("fr3").home)
    follow(limiter, 60, lambda k: FR3.upper)
    foreseen, speed = limiter.rest, np.abs(limiter.velocity)
    assert (speed > 1).all()
    steps = int((speed.max() / 10.0) / 0.005) + 4
    path = follow(limiter, steps, lambda k: None)
    assert limiter.at_rest
    np.testing.assert_allclose(path[-1], foreseen, atol=1e-9)


def test_a_start_outside_the_limits_only_comes_back() -> None:
    limits = single(1.0, 5.0, 200.0, -1.0, 1.0)
    for velocity in (None, np.array([3.0]), np.array([-0.4])):
        limiter = Limiter(limits, 0.005)
        limiter.seed(np.array([1.3]), velocity)
        path = follow(limiter, 600, lambda k: np.array([4.0]))
        assert (np.diff(path[3:], axis=0) <= 1e-12).all()
        assert path[-1] == pytest.approx(1.0, abs=1e-6)
        wide = AxisLimits(limits.lower - 9, limits.upper + 9, *bounds(limits))
        assert not broken(wide, 0.005, np.vstack([path[3] - limiter_start(velocity), path[3:]]))


def limiter_start(velocity: np.ndarray | None) -> np.ndarray:
    """Displacements of the three positions before the seed: outward velocity is refused, inward kept."""
    kept = 0.0 if velocity is None else min(0.0, float(velocity[0]))
    return np.outer([3, 2, 1], [0.005 * kept])


def test_a_seed_publishes_no_jump_and_forgets_the_motion_before() -> None:
    limiter = Limiter(single(1.0, 5.0, 200.0), 0.005)
    limiter.seed(np.zeros(1))
    follow(limiter, 50, lambda k: np.ones(1))
    limiter.seed(np.array([0.3]))
    assert limiter.at_rest
    np.testing.assert_array_equal(limiter.position, [0.3])
    assert abs(limiter.step(np.ones(1))[0] - 0.3) <= 200.0 * 0.005**3 * (1 + 1e-9)
    np.testing.assert_allclose(limiter.velocity / limiter.dt, limiter.acceleration)


def test_what_is_no_goal_is_refused_and_moves_nothing() -> None:
    limiter = Limiter(single(1.0, 5.0, 200.0), 0.005)
    with pytest.raises(SpecError, match="seed"):
        limiter.step(np.ones(1))
    limiter.seed(np.zeros(1))
    limiter.step(np.ones(1))
    before = limiter.position
    for goal in (np.array([math.nan]), np.array([math.inf]), np.zeros(2), np.zeros((1, 1))):
        with pytest.raises(SpecError, match="limiter: goal"):
            limiter.step(goal)
    with pytest.raises(SpecError, match="velocity"):
        limiter.seed(np.ones(1), np.array([math.nan]))
    np.testing.assert_array_equal(limiter.position, before)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"lower": [1.0]}, "below upper"),
        ({"lower": [math.nan]}, "below upper"),
        ({"velocity": [0.0]}, "velocity"),
        ({"acceleration": [math.inf]}, "acceleration"),
        ({"jerk": [-1.0]}, "jerk"),
        ({"jerk": [1.0, 1.0]}, "jerk"),
    ],
)
def test_limits_that_make_no_sense_are_refused(change: dict[str, list[float]], word: str) -> None:
    good = {"lower": [-1.0], "upper": [1.0], "velocity": [1.0], "acceleration": [5.0], "jerk": [200.0]}
    with pytest.raises(ConfigError, match=word):
        AxisLimits(**{k: np.array(v) for k, v in (good | change).items()})


@pytest.mark.parametrize("dt", [0.0, -0.01, math.nan, 1.0])
def test_a_period_out_of_the_question_is_refused(dt: float) -> None:
    with pytest.raises(ConfigError, match="period"):
        Limiter(single(1.0, 5.0, 200.0), dt)


def test_an_envelope_without_room_to_brake_is_refused() -> None:
    tight = Envelope(*(np.array([x]) for x in (1.0, 0.3, 1.0, 0.1, -0.1)))
    limits = single(1.0, 5.0, 200.0, -0.01, 0.01)
    with pytest.raises(ConfigError, match="no range"):
        Limiter(AxisLimits(limits.lower, limits.upper, *bounds(limits), tight), 0.005)


def test_a_share_of_the_limits_keeps_range_and_envelope() -> None:
    slow = FR3.scaled(velocity=0.1, acceleration=0.2, jerk=0.5)
    np.testing.assert_allclose(slow.velocity, 0.1 * FR3.velocity)
    np.testing.assert_allclose(slow.acceleration, 0.2 * FR3.acceleration)
    np.testing.assert_allclose(slow.jerk, 0.5 * FR3.jerk)
    assert slow.envelope is FR3.envelope
    np.testing.assert_array_equal(slow.upper, FR3.upper)
