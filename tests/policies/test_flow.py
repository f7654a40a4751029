"""Flow matching."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from robolearn.core.types import Batch
from robolearn.policies import bc, flow
from robolearn.policies.flow import FlowProcess
from robolearn.policies.parts.generation import Steering
from robolearn.policies.parts.planner import GenerativePlanner

from .chunks import (
    CHUNK,
    HERE,
    MODE,
    TWO,
    assert_a_guide_without_weights_changes_nothing,
    assert_guided_plans_keep_the_prefix_and_its_mode,
    assert_in_both_modes,
    learned_two_ways,
    two_ways,
    unit,
)


@pytest.fixture(scope="module")
def planner() -> GenerativePlanner:
    return learned_two_ways(flow)


def test_corruption_is_a_straight_line_from_noise_to_action() -> None:
    action = torch.rand(50, CHUNK, 2)
    noisy, time, velocity = FlowProcess(10).corrupt(action, torch.Generator().manual_seed(0))
    rest = (1.0 - time)[:, None, None]
    torch.testing.assert_close(noisy + rest * velocity, action)
    noise = noisy - time[:, None, None] * velocity
    assert abs(float(noise.mean())) < 0.2
    assert abs(float(noise.std()) - 1.0) < 0.1
    assert time.min() < 0.1
    assert time.max() > 0.9


def test_euler_steps_end_at_the_data_of_an_exact_field() -> None:
    goal = torch.rand(3, CHUNK, 2)
    process = FlowProcess(7)
    noise = torch.randn(3, CHUNK, 2)
    torch.testing.assert_close(process.times, torch.arange(7) / 7.0)

    def field(x: Tensor, k: int) -> Tensor:
        return (goal - x) / (1.0 - process.times[k])

    torch.testing.assert_close(process.generate(field, noise, None), goal)


def test_samples_are_in_both_modes_and_never_between(planner: GenerativePlanner) -> None:
    assert_in_both_modes(planner, between=0.02, loyal=0.98)


def test_regression_ends_between_the_modes() -> None:
    learner = bc.build_learner(bc.Config(hidden=32, updates=300), TWO, seed=0, statistics=unit(TWO))
    policy, rng = bc.build_policy(bc.Config(hidden=32, updates=300), TWO, seed=0), np.random.default_rng(0)
    while learner.updates < learner.total_updates:
        rows = two_ways(learner.batch_rows, rng)
        seen, none = {"x": rows.observation["x"][:, 0]}, np.zeros(len(rows.action), np.float32)
        learner.update(Batch(seen, rows.action[:, 0], none, none, seen, rows.demo))
    policy.load(learner.snapshot())
    assert abs(float(policy.act({"x": HERE["x"][0]}, explore=False)[0])) < MODE / 2


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_guided_plans_keep_the_prefix_and_its_mode(planner: GenerativePlanner, sign: float) -> None:
    assert_guided_plans_keep_the_prefix_and_its_mode(planner, sign)


def test_a_guide_without_weights_changes_nothing() -> None:
    assert_a_guide_without_weights_changes_nothing(flow)


def test_guidance_formula() -> None:
    """One network evaluation against equations 2 to 4 of the paper, for a field whose Jacobian is known."""
    process, t, k = FlowProcess(5), 0.4, 2
    slope = torch.tensor([[0.5, -0.2]])
    x, previous = torch.randn(1, CHUNK, 2), torch.rand(CHUNK, 2)
    weights = torch.tensor([0.9, 0.5, 0.1, 0.0]).unsqueeze(-1)
    for limit in (0.3, 100.0):
        got = process._steered(lambda y, _: slope * y, x, k, Steering(previous, weights, limit))
        clean = x + (1 - t) * slope * x
        pull = (1 + (1 - t) * slope) * weights * (previous - clean)
        factor = min(limit, (1 - t) / t * (t**2 + (1 - t) ** 2) / (1 - t) ** 2)
        torch.testing.assert_close(got, slope * x + factor * pull)
    still = process._steered(lambda y, _: slope * y, x, k, Steering(previous, 0.0 * weights, 5.0))
    torch.testing.assert_close(still, slope * x)
