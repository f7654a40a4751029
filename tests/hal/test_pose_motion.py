"""The pose reference: norms of its derivatives, its box, its way to a goal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.core.errors import ConfigError, SpecError
from robolearn.hal import geometry
from robolearn.hal.pose_motion import CartesianLimits, PoseLimiter

LOW, HIGH = np.array([0.3, -0.3, 0.0]), np.array([0.7, 0.3, 0.5])
DOWN = np.array([0.5, 0.0, 0.2, 0.0, 1.0, 0.0, 0.0])
GENTLE = CartesianLimits(0.25, 2.0, 100.0, 0.8, 6.0, 300.0)
FASTEST = CartesianLimits(3.0, 9.0, 4500.0, 2.5, 17.0, 8500.0)


def random_pose(rng: np.random.Generator, margin: float = 0.0) -> np.ndarray:
    """A pose in the box grown by ``margin`` [m], turned any way."""
    q = rng.normal(size=4)
    return np.concatenate([rng.uniform(LOW - margin, HIGH + margin), q / np.linalg.norm(q)])


def body_rates(poses: np.ndarray, dt: float) -> np.ndarray:
    """(T - 1, 3) angular velocity in the pose's own axes from one pose to the next."""
    pairs = zip(poses[:-1, 3:], poses[1:, 3:], strict=True)
    return np.array([geometry.to_rotvec(geometry.multiply(geometry.conjugate(a), b)) for a, b in pairs]) / dt


def check(limits: CartesianLimits, dt: float, poses: np.ndarray) -> None:
    """Every norm within its limit, every position in the box, every quaternion of unit length."""
    v, w = np.diff(poses[:, :3], axis=0) / dt, body_rates(poses, dt)
    for rate, name in ((v, ""), (w, "turn_")):
        for order, of in enumerate(("velocity", "acceleration", "jerk")):
            most = np.linalg.norm(np.diff(rate, order, axis=0), axis=1).max() / dt**order
            assert most <= getattr(limits, name + of) * (1 + 1e-7), name + of
    assert (poses[:, :3] >= LOW).all()
    assert (poses[:, :3] <= HIGH).all()
    np.testing.assert_allclose(np.linalg.norm(poses[:, 3:], axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("limits", [GENTLE, FASTEST])
@pytest.mark.parametrize("dt", [0.01, 0.005, 0.001])
def test_an_adversary_does_not_break_the_norms(limits: CartesianLimits, dt: float) -> None:
    rng = np.random.default_rng(int(1e4 * dt))
    limiter = PoseLimiter(limits, LOW, HIGH, dt)
    limiter.seed(DOWN)
    poses, goal = [DOWN] * 4, DOWN
    turned_over = np.concatenate([HIGH, [0.0, 0.0, 1.0, 0.0]])
    for k in range(3000):
        mode = k // 150 % 5
        if mode == 0 or (mode in (1, 2) and k % 50 == 0):
            goal = random_pose(rng, 0.1)
        elif mode == 3:
            goal = turned_over if k % 2 else DOWN
        poses.append(limiter.brake() if mode == 4 else limiter.step(goal))
        np.testing.assert_array_equal(limiter.pose, poses[-1])
    check(limits, dt, np.array(poses))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    commands=st.lists(st.tuples(st.sampled_from(["brake", "goal", "flip"]), st.integers(1, 30)), max_size=8),
)
def test_nothing_asked_breaks_the_norms(seed: int, commands: list[tuple[str, int]]) -> None:
    rng, dt = np.random.default_rng(seed), 0.005
    limiter = PoseLimiter(FASTEST, LOW, HIGH, dt)
    start = random_pose(rng)
    limiter.seed(start)
    poses = [start] * 4
    for kind, times in commands:
        goals = (random_pose(rng, 0.2), random_pose(rng))
        for k in range(times):
            goal = goals[k % 2 if kind == "flip" else 0]
            poses.append(limiter.brake() if kind == "brake" else limiter.step(goal))
    check(FASTEST, dt, np.array(poses))


def test_goals_are_reached_from_any_motion_and_held() -> None:
    rng = np.random.default_rng(3)
    limiter = PoseLimiter(GENTLE, LOW, HIGH, 0.005)
    for _ in range(10):
        limiter.seed(random_pose(rng))
        away, goal = random_pose(rng), random_pose(rng)
        for _ in range(int(rng.integers(1, 80))):
            limiter.step(away)
        for _ in range(1600):
            reached = limiter.step(goal)
        assert np.abs(geometry.pose_error(reached, goal)).max() < 1e-6
        assert limiter.at_rest


def test_a_turn_takes_the_short_way_whatever_the_sign_of_the_quaternion() -> None:
    goal = DOWN.copy()
    goal[3:] = geometry.turn(DOWN[3:], np.array([0.0, 0.3, 0.1]))
    for sign in (1.0, -1.0):
        limiter = PoseLimiter(FASTEST, LOW, HIGH, 0.005)
        limiter.seed(DOWN)
        path = np.array([limiter.step(goal * [1, 1, 1, sign, sign, sign, sign]) for _ in range(200)])
        left = [np.linalg.norm(geometry.pose_error(pose, goal)[3:]) for pose in path]
        assert max(left) < 0.32
        assert left[-1] < 1e-6


def test_the_twist_is_what_the_poses_did_in_base_axes() -> None:
    rng = np.random.default_rng(5)
    limiter = PoseLimiter(GENTLE, LOW, HIGH, 0.005)
    limiter.seed(DOWN)
    goal = random_pose(rng)
    for _ in range(40):
        before = limiter.pose
        after = limiter.step(goal)
        np.testing.assert_allclose(limiter.twist, geometry.pose_error(before, after) / 0.005, atol=1e-9)


def test_a_seed_may_carry_a_twist() -> None:
    limiter = PoseLimiter(GENTLE, LOW, HIGH, 0.005)
    twist = np.array([0.05, -0.02, 0.01, 0.1, 0.2, -0.1])
    limiter.seed(DOWN, twist)
    np.testing.assert_allclose(limiter.twist, twist, atol=1e-12)
    assert not limiter.at_rest
    before = limiter.pose
    after = limiter.brake()
    np.testing.assert_allclose(geometry.pose_error(before, after) / 0.005, twist, atol=6.0 * 0.005)
    for _ in range(100):
        limiter.brake()
    assert limiter.at_rest


def test_what_is_no_pose_is_refused_and_moves_nothing() -> None:
    limiter = PoseLimiter(GENTLE, LOW, HIGH, 0.005)
    with pytest.raises(SpecError, match="seed"):
        limiter.step(DOWN)
    limiter.seed(DOWN)
    bad = DOWN.copy()
    bad[0] = math.nan
    for goal in (bad, DOWN[:6], 2 * DOWN, np.zeros(7)):
        with pytest.raises(SpecError, match="goal"):
            limiter.step(goal)
    with pytest.raises(SpecError, match="twist"):
        limiter.seed(DOWN, np.zeros(3))
    np.testing.assert_array_equal(limiter.pose, DOWN)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="turn_jerk"):
        CartesianLimits(1, 1, 1, 1, 1, 0.0)
    with pytest.raises(ConfigError, match="below upper"):
        PoseLimiter(GENTLE, HIGH, LOW, 0.005)
