"""Proximal policy optimisation (Schulman et al. 2017) for a Normal policy of fixed deviation: its parts.

    A_t = sum_k (gamma lambda)^k delta_(t+k),   delta_t = r_t + gamma d_t V(s'_t) - V(s_t)

where d_t is 0 at a terminal state alone, and the sum ends with the piece of an episode that the step belongs to
(generalised advantage estimation, Schulman et al. 2016, eq. 11 and 16).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from robolearn.core.spec import Array


def advantages(
    reward: Array, discount: Array, last: Array, value: Array, next_value: Array, *, gamma: float, lam: float
) -> Array:
    """(T,) float32 generalised advantages.

    Args:
        reward: (T,).
        discount: (T,) 0 at terminal states, else 1: time-outs and cut pieces count the value of what comes after.
        last: (T,) bool, True where the next element is not the step that followed.
        value, next_value: (T,) of the state before and after each step.
        gamma, lam: discount per step, and weight of longer returns.
    """
    delta = (reward + gamma * discount * next_value - value).astype(np.float64)
    keep = gamma * lam * (1.0 - last.astype(np.float64))
    found, running = np.zeros(len(delta), np.float64), 0.0
    for t in range(len(delta) - 1, -1, -1):
        found[t] = running = delta[t] + keep[t] * running
    return found.astype(np.float32)


def log_prob(sample: Tensor, mean: Tensor, log_std: float) -> Tensor:
    """(B,) log density of samples (B, A) under Normal(mean, exp(log_std)), without the constant that ratios lose."""
    return ((sample - mean) * math.exp(-log_std)).square().sum(-1) * -0.5


def divergence(mean: Tensor, old: Tensor, log_std: float) -> Tensor:
    """(B,) KL divergence, exact, of two Normals of the same deviation."""
    return ((mean - old) * math.exp(-log_std)).square().sum(-1) * 0.5


def clipped_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Scalar: minus the clipped surrogate (Schulman et al. 2017, eq. 7)."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()


def relu_mlp(widths: tuple[int, ...], rng: torch.Generator, *, gain: float, bias: float | None) -> nn.Sequential:
    """A ReLU MLP: orthogonal weights (Saxe et al. 2014) with gain sqrt(2), and ``gain`` in the last layer.

    Args:
        widths: of input, hidden layers and output.
        rng: draws the weights.
        gain: 0 for an output that starts at zero.
        bias: of the output; None for none.
    """
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        is_last = i == len(widths) - 2
        linear = nn.Linear(fan_in, fan_out, bias=not is_last or bias is not None)
        nn.init.orthogonal_(linear.weight, gain if is_last else 2.0**0.5, generator=rng)
        if linear.bias is not None:
            nn.init.constant_(linear.bias, float(bias or 0.0) if is_last else 0.0)
        layers += [linear] if is_last else [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def mlp_forward(weights: list[tuple[Array, Array | None]], x: Array) -> Array:
    """``relu_mlp`` in numpy for one input: (weight (out, in), bias) per layer."""
    for i, (weight, bias) in enumerate(weights):
        x = weight @ x
        if bias is not None:
            x = x + bias
        if i + 1 < len(weights):
            x = np.maximum(x, 0.0)
    return x
