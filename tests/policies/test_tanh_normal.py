"""The tanh-Normal distribution."""

from __future__ import annotations

import torch
from torch import distributions as D

from robolearn.policies.parts import tanh_normal

LOW, HIGH = -2.0, 1.0


def made(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(9, 8, generator=generator, dtype=torch.float64),
        torch.randn(9, 4, generator=generator, dtype=torch.float64),
    )


def test_log_density_is_that_of_the_transformed_normal() -> None:
    raw, noise = made(0)
    mean, log_std = tanh_normal.split(raw, LOW, HIGH)
    action, log_density = tanh_normal.sample(mean, log_std, noise)
    expected = D.TransformedDistribution(D.Normal(mean, log_std.exp()), D.TanhTransform())
    torch.testing.assert_close(log_density, expected.log_prob(action).sum(-1), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(tanh_normal.draw(mean, log_std, noise), action)


def test_gradient_equals_autograd_also_where_the_log_std_is_clipped() -> None:
    raw, noise = made(1)
    raw = (raw * 2.0).requires_grad_()
    d_value, temperature = made(2)[1], torch.tensor(0.3, dtype=torch.float64)
    mean, log_std = tanh_normal.split(raw, LOW, HIGH)
    action, log_density = tanh_normal.sample(mean, log_std, noise)
    (temperature * log_density.mean() - (action * d_value).sum()).backward()
    ours = tanh_normal.actor_gradient(raw.detach(), noise, d_value, temperature, LOW, HIGH)
    assert (raw.detach()[:, 4:] > HIGH).any()
    torch.testing.assert_close(ours, raw.grad)


def test_actions_never_reach_one() -> None:
    mean = torch.full((1, 2), 50.0)
    action, log_density = tanh_normal.sample(mean, torch.zeros(1, 2), torch.zeros(1, 2))
    assert action.max().item() <= tanh_normal.ACTION_LIMIT < 1.0
    assert torch.isfinite(log_density).all()
