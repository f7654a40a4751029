import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.errors import ConfigError
from robolearn.policies import rlpd
from robolearn.run.config import TrainConfig
from robolearn.run.limiter import UpdateLimiter, limiter_of


@given(
    ratio=st.floats(0.25, 20),
    slack=st.integers(2, 100),
    start=st.integers(0, 300),
    per_call=st.integers(1, 20),
    turns=st.lists(st.booleans(), max_size=400),
)
def test_nobody_runs_away_and_nobody_is_stuck(
    ratio: float, slack: int, start: int, per_call: int, turns: list[bool]
) -> None:
    limiter = UpdateLimiter(ratio, slack=slack + int(per_call / ratio) + 1, start_steps=start)
    limiter.check(per_call)
    steps = updates = 0
    for actor_first in turns:
        actor, learner = limiter.actor_may(steps, updates), limiter.learner_may(updates, per_call, steps)
        assert actor or learner, "deadlock"
        if actor and (actor_first or not learner):
            steps += 1
        else:
            updates += per_call
        assert updates <= ratio * steps
        assert steps <= max(start, updates / ratio) + limiter.slack + 1


def test_a_learner_whose_calls_are_too_large_for_the_slack_is_refused() -> None:
    UpdateLimiter(1.0, slack=64).check(64)
    with pytest.raises(ConfigError, match="65 updates a call"):
        UpdateLimiter(1.0, slack=64).check(65)


def test_steps_that_are_kept_back_do_not_count_as_slack() -> None:
    UpdateLimiter(1.0, slack=69, held=5).check(64)
    with pytest.raises(ConfigError, match="need the robot 64 steps ahead"):
        UpdateLimiter(1.0, slack=69, held=5).check(65)


@pytest.mark.parametrize("robots", range(1, 61))
def test_robots_that_each_keep_a_row_back_and_the_learner_never_wait_for_each_other(robots: int) -> None:
    """As with a reward that looks ahead: a row is stored when the next step of its robot begins."""
    config = rlpd.Config()
    limiter = limiter_of(TrainConfig(policy=config, robots=robots))
    limiter.check(config.utd)
    begun, updates, kept = 0, 0, [0] * robots
    for turn in range(50 * robots):
        if limiter.actor_may(begun, updates):
            begun, kept[turn % robots] = begun + 1, 1
            continue
        stored = begun - sum(kept)  # all robots wait
        assert limiter.learner_may(updates, config.utd, stored), "deadlock"
        updates += config.utd
    assert updates > 0


def test_no_update_before_the_start_steps() -> None:
    limiter = UpdateLimiter(8, start_steps=100)
    assert not limiter.learner_may(0, 8, 99)
    assert limiter.learner_may(0, 8, 100)
    assert limiter.actor_may(100 + limiter.slack - 1, 0)


def test_target_is_where_the_learner_stops() -> None:
    limiter = UpdateLimiter(8)
    updates = 0
    while limiter.learner_may(updates, 20, 1001):
        updates += 20
    assert updates == limiter.target(1001, 20) == 8000
