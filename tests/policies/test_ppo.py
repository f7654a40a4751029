"""The parts of PPO, against the plainest way to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.core.spec import Array
from robolearn.policies.parts import ppo


def by_definition(
    reward: Array, discount: Array, last: Array, value: Array, after: Array, gamma: float, lam: float
) -> list[float]:
    """The sum of A_t, term by term."""
    found = []
    for t in range(len(reward)):
        total, k = 0.0, t
        while True:
            delta = float(reward[k]) + gamma * float(discount[k]) * float(after[k]) - float(value[k])
            total += (gamma * lam) ** (k - t) * delta
            if last[k]:
                break
            k += 1
        found.append(total)
    return found


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_advantages_are_the_sums_they_stand_for(seed: int, steps: int, gamma: float, lam: float) -> None:
    rng = np.random.default_rng(seed)
    last = rng.random(steps) < 0.2
    last[-1] = True
    discount = np.where(last & (rng.random(steps) < 0.5), 0.0, 1.0).astype(np.float32)
    reward, value, after = rng.standard_normal((3, steps)).astype(np.float32)
    found = ppo.advantages(reward, discount, last, value, after, gamma=gamma, lam=lam)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(reward, discount, last, value, after, gamma, lam), atol=1e-4)


def test_only_a_terminal_state_is_worth_nothing_and_nothing_crosses_the_end_of_a_piece() -> None:
    reward, value = np.zeros(4, np.float32), np.zeros(4, np.float32)
    after = np.array([0.0, 10.0, 0.0, 10.0], np.float32)
    last = np.array([False, True, False, True])
    terminal_then_time_out = np.array([1.0, 0.0, 1.0, 1.0], np.float32)
    found = ppo.advantages(reward, terminal_then_time_out, last, value, after, gamma=0.9, lam=0.5)
    np.testing.assert_allclose(found, [0.0, 0.0, 0.9 * 0.5 * 9.0, 9.0], rtol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(-2.0, 1.0))
def test_densities_and_divergences_are_those_of_torch(seed: int, log_std: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    sample, mean, old = torch.randn(3, 7, 4, generator=rng)
    std = torch.full((4,), math.exp(log_std))
    new, before = torch.distributions.Normal(mean, std), torch.distributions.Normal(old, std)
    expected = new.log_prob(sample).sum(-1) - before.log_prob(sample).sum(-1)
    found = ppo.log_prob(sample, mean, log_std) - ppo.log_prob(sample, old, log_std)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    expected = torch.distributions.kl_divergence(new, before).sum(-1)
    torch.testing.assert_close(ppo.divergence(mean, old, log_std), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"), [(1.3, 1.0, 0.0), (1.3, -1.0, 1.0), (0.7, 1.0, -1.0), (0.7, -1.0, 0.0)]
)
def test_what_goes_too_far_is_not_rewarded_but_may_come_back(ratio: float, advantage: float, slope: float) -> None:
    at = torch.tensor([ratio], requires_grad=True)
    torch.autograd.backward(ppo.clipped_loss(at, torch.tensor([advantage]), 0.2))
    assert at.grad is not None
    assert float(at.grad) == pytest.approx(slope)


def test_numpy_acts_as_torch_learns() -> None:
    rng = torch.Generator().manual_seed(0)
    network = ppo.relu_mlp((5, 16, 16, 3), rng, gain=0.5, bias=0.25)
    x = torch.randn(5, generator=rng)
    arrays = [parameter.detach().numpy() for parameter in network.parameters()]
    layers: list[tuple[Array, Array | None]] = list(zip(arrays[::2], arrays[1::2], strict=True))
    np.testing.assert_allclose(ppo.mlp_forward(layers, x.numpy()), network(x).detach().numpy(), atol=1e-5)
    zero = ppo.relu_mlp((5, 16, 3), rng, gain=0.0, bias=None)
    assert not zero(x).any()
    assert [tuple(p.shape) for p in zero.parameters()] == [(16, 5), (16,), (3, 16)]
