"""A learner that has diverged says so instead of going on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.errors import TrainingDivergedError
from robolearn.core.types import Batch
from robolearn.policies import rlpd
from robolearn.policies.parts.divergence import DivergenceGuard

from .helpers import batch, learner, state_spec

ONE = np.ones(4, np.float32)


def guard(**changes: float) -> DivergenceGuard:
    made = DivergenceGuard("test", **{"gamma": 0.9, "patience": 5, "nan_patience": 2, **changes})
    made.saw(ONE, ONE)
    return made


def test_the_bound_follows_rewards_and_discounts() -> None:
    made = DivergenceGuard("test", gamma=0.9)
    made.saw(0.0 * ONE, 0.0 * ONE)
    assert made.bound == 1.0  # every row was terminal, and rewards so small count as 1
    made.saw(-3.0 * ONE, ONE)
    assert made.bound == pytest.approx(30.0)
    made.saw(ONE, 0.9 * ONE, entropy=4.0)
    assert made.bound == pytest.approx(50.0)


def test_impossible_values_are_endured_for_a_while_only() -> None:
    made = guard()
    for _ in range(3):
        made.check({"q_max": 1.0, "critic_loss": 1e9})
    for _ in range(4):
        made.check({"q_max": 101.0})
    made.check({"q_max": 99.0})  # begins anew
    for _ in range(4):
        made.check({"q_max": -101.0, "q_mean": 0.0})
    with pytest.raises(
        TrainingDivergedError, match=r"test: .*q_max is -101.* more than 10, since update call 9 \(5 "
    ) as e:
        made.check({"q_max": -101.0})
    assert "learning rate" in str(e.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_loss_is_named(value: float) -> None:
    made = guard()
    made.check({"critic_loss": value})
    made.check({"critic_loss": 0.0})
    made.check({"critic_loss": value})
    with pytest.raises(TrainingDivergedError, match="critic_loss is not finite, since update call 3"):
        made.check({"critic_loss": value})


@given(st.lists(st.floats(-100.0, 100.0), min_size=1, max_size=60))
def test_possible_values_never_raise(values: list[float]) -> None:
    made = guard()
    for value in values:
        made.check({"q_mean": value, "q_max": value})


def test_a_healthy_learner_goes_on() -> None:
    spec = state_spec()
    made = learner(rlpd, rlpd.Config(critics=2, hidden=16, batch=8, utd=2), spec)
    for call in range(60):
        made.update(batch(spec, made.batch_rows, seed=call % 3))


def test_a_diverging_learner_stops() -> None:
    """Each row bootstraps from three times itself (Tsitsiklis and Van Roy 1997), so that values have no end."""
    spec = state_spec()
    config = rlpd.Config(
        critics=2, target_critics=1, hidden=16, batch=8, utd=4, gamma=0.99, tau=1.0, critic_lr=1e-2, layer_norm=False
    )
    made = learner(rlpd, config, spec)
    data = batch(spec, made.batch_rows)
    after = {key: 3.0 * value for key, value in data.observation.items()}
    rows = Batch(data.observation, data.action, data.reward, np.ones_like(data.reward), after, data.demo)
    calls = 0

    def train() -> None:
        nonlocal calls
        while calls < 500:
            made.update(rows)
            calls += 1

    with pytest.raises(TrainingDivergedError, match=r"rlpd: training has diverged: q_max is .* allow no more than 100"):
        train()
    assert calls >= 49


def test_a_broken_row_stops_a_learner() -> None:
    spec = state_spec()
    made = learner(rlpd, rlpd.Config(critics=2, hidden=16, batch=8, utd=2), spec)
    data = batch(spec, made.batch_rows)
    broken = Batch(data.observation, data.action, data.reward * np.nan, data.discount, data.observation, data.demo)
    for _ in range(2):
        made.update(broken)
    with pytest.raises(TrainingDivergedError, match="critic_loss"):
        made.update(broken)
