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
from robolearn.policies.parts.realtime import Guide

from .chunks import CHUNK, MODE, TWO, learned_two_ways, two_ways, unit

HERE = {"x": np.zeros((1, 2), np.float32)}


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
    plans = planner.plan(HERE, 400)[..., 0]
    up = plans[:, 0] > 0.0
    assert 0.35 < up.mean() < 0.65
    assert (np.abs(plans) < MODE / 2).mean() < 0.02
    assert np.median(np.abs(np.abs(plans) - MODE)) < 0.05
    assert ((plans > 0.0) == up[:, None]).mean() > 0.98  # a plan stays in its mode


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
    weights = np.array([1.0, 1.0, 0.4, 0.0], np.float32)
    previous = np.full((CHUNK, 1), sign * MODE, np.float32)
    guide = Guide(previous, weights, 5.0)
    plans = np.concatenate([planner.plan(HERE, 1, guide=guide) for _ in range(60)])
    assert np.abs(plans[:, :2] - previous[:2]).max() < 1e-5
    assert (np.sign(plans[:, 2:, 0]) == sign).mean() > 0.9
    free = planner.plan(HERE, 60)
    assert (np.sign(free[:, 2:, 0]) == sign).mean() < 0.75


def test_a_guide_without_weights_changes_nothing() -> None:
    first, second = learned_two_ways(flow, updates=20), learned_two_ways(flow, updates=20)
    guide = Guide(np.full((CHUNK, 1), 0.9, np.float32), np.zeros(CHUNK, np.float32), 5.0)
    np.testing.assert_array_equal(first.plan(HERE, 3), second.plan(HERE, 3, guide=guide))


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
