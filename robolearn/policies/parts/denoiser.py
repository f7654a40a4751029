"""Denoisers: networks that look at a noisy chunk of actions, the time and the observation, and say how to clean it.

What depends on the time alone and on the observation alone is computed apart: while a chunk is made the observation
stays, and the grid of times is the same for every chunk, so a policy computes the one once a chunk and the other once
a set of weights. Training and acting run the same code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

TIME_SCALE = 100.0
"""Times lie in [0, 1]; the embedding sees them times this, as many as there are noise levels (Chi et al. 2023)."""

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``Denoiser.denoise``."""


class Denoiser(nn.Module, ABC):
    """A network f(x, t, c): (B, H, A) noisy actions, (B,) times in [0, 1], (B, To, D) condition -> (B, H, A)."""

    @abstractmethod
    def of_time(self, time: Tensor) -> Tensor:
        """Whatever depends on times (B,) alone; its first dimension is B."""

    @abstractmethod
    def of_condition(self, condition: Tensor) -> Tensor:
        """Whatever depends on conditions (B, To, D) alone; its first dimension is B."""

    @abstractmethod
    def denoise(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """f of actions (B, H, A) and of what ``of_time`` and ``of_condition`` gave for B rows, or one row for all."""

    def acting(self) -> Denoise:
        """``denoise`` for a policy: of the weights as they are now, at least until they change."""
        return self.denoise

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """f(x, t, c)."""
        return self.denoise(x, self.of_time(time), self.of_condition(condition))


class TimeEmbedding(nn.Module):
    """Sines and cosines of the time (Vaswani et al. 2017, section 3.5), Dense, Mish, Dense: (B,) -> (B, width)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        powers = torch.arange(half) * (-math.log(10_000.0) / max(half - 1, 1))
        self.register_buffer("frequencies", TIME_SCALE * powers.exp(), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, 2 * width), nn.Mish(), nn.Linear(2 * width, width))

    def forward(self, time: Tensor) -> Tensor:
        """Embedding of times in [0, 1]."""
        angle = time[:, None] * self.frequencies
        embedding: Tensor = self.layers(torch.cat([angle.sin(), angle.cos()], -1))
        return embedding
