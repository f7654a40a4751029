"""The tanh-Normal distribution of SAC (Haarnoja et al. 2018, appendix C), as functions of a network's raw output."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ACTION_LIMIT = 1.0 - 1e-5
"""Largest absolute action: at exactly 1 the density of a tanh-Normal is infinite."""


def split(raw: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation, each (B, A), before the tanh, of a network output (B, 2A)."""
    half = raw.shape[-1] // 2
    return raw[..., :half], raw[..., half:].clamp(low, high)


def sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Action a = tanh(u), u = mean + std * noise, (B, A), and its log density (B,).

    log pi(a) = sum_d [log N(u; mean, std) - log(1 - tanh(u)^2)],
    with log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)).
    """
    u = mean + log_std.exp() * noise
    log_density = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
    return u.tanh().clamp(-ACTION_LIMIT, ACTION_LIMIT), (log_density - log_slope).sum(-1)


def draw(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Action (B, A) as ``sample`` gives it, without its density."""
    return torch.addcmul(mean, log_std.exp(), noise).tanh_().clamp_(-ACTION_LIMIT, ACTION_LIMIT)


def actor_gradient(raw: Tensor, noise: Tensor, d_value: Tensor, temperature: Tensor, low: float, high: float) -> Tensor:
    """Gradient (B, 2A) of L = mean(temperature * log pi(a)) - sum(a * d_value) with respect to the raw output.

    With a = tanh(u) and u = mean + std * noise, d log pi / du = 2 a and da / du = 1 - a^2; the density's own
    normalisation gives -1 per log std. Where the log std is clipped its gradient is zero.

    Args:
        raw: (B, 2A) output of the network.
        noise: (B, A) the noise the action was drawn with.
        d_value: (B, A) gradient of what the action should increase.
        temperature: weight of the entropy.
        low, high: bounds of the log std.
    """
    half = raw.shape[-1] // 2
    mean, log_std = raw[..., :half], raw[..., half:]
    spread = log_std.clamp(low, high).exp() * noise
    a = (mean + spread).tanh()
    share = temperature / len(raw)
    d_u = 2.0 * share * a - d_value * (1.0 - a * a) * (a.abs() <= ACTION_LIMIT)
    d_log_std = (d_u * spread - share) * ((log_std >= low) & (log_std <= high))
    return torch.cat([d_u, d_log_std], -1)
