"""The takeover as reward: when it falls due, and what ends an episode."""

from __future__ import annotations

import numpy as np
import pytest

from robolearn.core.errors import ConfigError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.rewards.intervention import Config, build

SPEC = TaskSpec("t", {"q": ArraySpec("q", (2,))}, ArraySpec("action", (2,), low=-1.0, high=1.0), 20, 10.0)
AFTER = {"q": np.zeros(2, np.float32)}


@pytest.mark.parametrize("task_reward", [-3.0, 0.0, 1.0])
@pytest.mark.parametrize("kind", [Kind.MID, Kind.TRUNCATED])
def test_only_a_takeover_counts(task_reward: float, kind: Kind) -> None:
    reward = build(Config(reward=-0.5), SPEC)
    assert reward.looks_ahead
    reward.reset()
    told = Judgement(task_reward, kind, False, {"peak_force_n": 2.0})
    assert reward.of(told, AFTER, taken_over=False) == Judgement(0.0, kind, False, told.info)
    assert reward.of(told, AFTER, taken_over=True) == Judgement(-0.5, kind, False, told.info)


def test_success_ends_and_is_worth_nothing() -> None:
    judged = build(Config(), SPEC).of(Judgement(1.0, Kind.TERMINATED, True), AFTER, taken_over=False)
    assert judged == Judgement(0.0, Kind.TERMINATED, True)


def test_a_failure_that_ends_is_worth_a_takeover() -> None:
    """Zero would be the best that there is."""
    judged = build(Config(), SPEC).of(Judgement(0.0, Kind.TERMINATED, False), AFTER, taken_over=False)
    assert judged == Judgement(-1.0, Kind.TERMINATED, False)


@pytest.mark.parametrize("bad", [0.0, 1.0, float("nan"), float("-inf")])
def test_a_takeover_is_worth_less_than_nothing(bad: float) -> None:
    with pytest.raises(ConfigError, match=r"intervention.reward is .*; expected a number below zero"):
        Config(reward=bad)
