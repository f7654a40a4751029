"""What a family of generative policies is: how actions are corrupted to learn from, and how they are generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Network = Callable[[Tensor, int], Tensor]
"""(N, H, A) and the number of a time on the grid -> (N, H, A): a denoiser whose observation is fixed."""


@dataclass(frozen=True)
class Steering:
    """A ``Guide`` as tensors: previous (H, A), weights (H, 1), and the largest guidance weight."""

    previous: Tensor
    weights: Tensor
    limit: float

    def hold(self, moved: Tensor, held: Tensor) -> Tensor:
        """``held`` for the actions of weight 1, which will be executed whatever is generated; else ``moved``."""
        return torch.where(self.weights >= 1.0, held, moved)

    def pull(self, estimate: Tensor, x: Tensor) -> Tensor:
        """Gradient with respect to x of half the weighted squared distance, taken downhill.

            g = J^T W (previous - estimate),  J = d estimate / d x

        Args:
            estimate: (N, H, A) clean actions the network predicts from ``x``, with their graph.
        """
        error = (self.previous - estimate.detach()) * self.weights
        (gradient,) = torch.autograd.grad(estimate, x, error)
        return gradient


class Process(Protocol):
    """A generative process over chunks of actions.

    Attributes:
        times: (K,) the grid of times at which the network is asked, in order, within [0, 1].
    """

    times: Tensor

    def corrupt(self, action: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy actions (B, H, A), their times (B,) and what the network should say (B, H, A) of clean actions."""

    def generate(self, network: Network, noise: Tensor, steering: Steering | None) -> Tensor:
        """Clean actions (N, H, A) from standard normal noise (N, H, A)."""
