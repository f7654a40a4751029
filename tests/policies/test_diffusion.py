"""Diffusion."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from robolearn.core.errors import ConfigError
from robolearn.policies import diffusion
from robolearn.policies.diffusion import LEVELS, DiffusionProcess
from robolearn.policies.parts.generation import Steering
from robolearn.policies.parts.planner import GenerativePlanner

from .chunks import (
    CHUNK,
    SMALL,
    assert_a_guide_without_weights_changes_nothing,
    assert_guided_plans_keep_the_prefix_and_its_mode,
    assert_in_both_modes,
    learned_two_ways,
)

Sampler = Literal["ddim", "dpm"]
samplers = pytest.mark.parametrize("sampler", ["ddim", "dpm"])


@pytest.fixture(scope="module")
def planner() -> GenerativePlanner:
    return learned_two_ways(diffusion)


def signal(time: Tensor) -> Tensor:
    """sqrt(A_k) of the squared-cosine schedule at times k / 100, by its definition, betas at most 0.999."""

    def bar(t: float) -> float:
        return float(np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2)

    betas = [min(1.0 - bar((i + 1) / LEVELS) / bar(i / LEVELS), 0.999) for i in range(LEVELS)]
    products = torch.tensor(np.cumprod(1.0 - np.array(betas)), dtype=torch.float32)
    return products[(time * LEVELS).round().long()].sqrt()


def test_corruption_follows_the_schedule() -> None:
    action = torch.rand(200, CHUNK, 2)
    noisy, time, noise = DiffusionProcess("ddim", 10).corrupt(action, torch.Generator().manual_seed(0))
    share = signal(time)[:, None, None]
    torch.testing.assert_close(noisy, share * action + (1.0 - share**2).sqrt() * noise, rtol=1e-4, atol=1e-4)
    levels = (time * LEVELS).round()
    assert levels.min() <= 2
    assert levels.max() >= 97
    assert abs(float(noise.std()) - 1.0) < 0.1


@samplers
@pytest.mark.parametrize("steps", [1, 4, 10, 100])
def test_steps_end_at_the_data_of_an_exact_network(sampler: Sampler, steps: int) -> None:
    process = DiffusionProcess(sampler, steps)
    assert len(process.times) == steps
    assert process.times[0] == pytest.approx((LEVELS - 1) / LEVELS)  # begins where noise is noise
    goal = 1.6 * torch.rand(3, CHUNK, 2) - 0.8
    share = signal(process.times)

    def network(x: Tensor, k: int) -> Tensor:
        return (x - share[k] * goal) / (1.0 - share[k] ** 2).sqrt()

    for _ in range(2):  # a sampler keeps nothing of the plan before
        out = process.generate(network, torch.randn(3, CHUNK, 2), None)
        torch.testing.assert_close(out, goal, rtol=0, atol=2e-3)


@samplers
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_steps_are_those_of_the_scheduler(sampler: Sampler, steps: int) -> None:
    """Of a network that is not linear and often clipped, also where the number of steps makes the last ones simple."""
    process, solver = DiffusionProcess(sampler, steps), diffusion._solver(sampler, steps)

    def network(x: Tensor, k: int) -> Tensor:
        return torch.sin((k + 1) * x) + 0.3 * x

    expected = noise = torch.randn(3, CHUNK, 2, generator=torch.Generator().manual_seed(steps))
    for k, level in enumerate(solver.timesteps):
        expected = solver.step(process._clean(network, expected, k), level, expected, return_dict=False)[0]
    torch.testing.assert_close(process.generate(network, noise, None), expected, rtol=0, atol=1e-4)


@samplers
def test_samples_are_in_both_modes_and_never_between(planner: GenerativePlanner, sampler: Sampler) -> None:
    if sampler == "dpm":
        planner = learned_two_ways(diffusion, sampler=sampler)
    assert_in_both_modes(planner, between=0.04, loyal=0.96)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_guided_plans_keep_the_prefix_and_its_mode(planner: GenerativePlanner, sign: float) -> None:
    assert_guided_plans_keep_the_prefix_and_its_mode(planner, sign)


def test_a_guide_without_weights_changes_nothing() -> None:
    process = DiffusionProcess("ddim", 5)
    x, none = 0.1 * torch.randn(1, CHUNK, 2), torch.zeros(CHUNK, 1)
    for k in range(5):
        still = process._steered(lambda y, _: 0.3 * y, x, k, Steering(torch.ones(CHUNK, 2), none, 5.0))
        torch.testing.assert_close(still, process._clean(lambda y, _: 0.3 * y, x, k))
    assert_a_guide_without_weights_changes_nothing(diffusion)


def test_there_are_not_more_steps_than_levels() -> None:
    with pytest.raises(ConfigError, match="inference_steps is 101; there are 100"):
        diffusion.Config(**SMALL | {"inference_steps": 101})
