"""The greedy policy as a running average of the one that learns (Polyak and Juditsky 1992)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from robolearn.policies.parts.acting import AVERAGE, acting_tensors
from robolearn.policies.parts.flat import Flat
from robolearn.policies.parts.pixels import Encoder


class ActorAverage:
    """Averages an actor and its image encoder. The plain mean at first, later an exponential one.

    Args:
        actor, encoder: what learns.
        share: how much of it enters the average at each update, in (0, 1]; 1 follows it exactly.

    Attributes:
        actor, encoder: the averages.
    """

    def __init__(self, actor: Flat, encoder: Encoder | None, share: float) -> None:
        self._newest, self._newest_encoder, self._share = actor, encoder, share
        self.actor, self.encoder = actor.like(), copy.deepcopy(encoder)
        self.actor.data.copy_(actor.data)

    def update(self, count: Tensor) -> None:
        """Take in the newest parameters, after ``count`` updates of them in all."""
        share = (1.0 / count).clamp(min=self._share)
        self.actor.data.lerp_(self._newest.data, share)
        if self.encoder is not None and self._newest_encoder is not None:
            with torch.no_grad():
                for mine, newest in zip(self.encoder.parameters(), self._newest_encoder.parameters(), strict=True):
                    mine.lerp_(newest, share)

    def tensors(self) -> dict[str, Tensor]:
        """The average as ``NetworkPolicy`` loads it, by name (live tensors)."""
        return {AVERAGE + name: tensor for name, tensor in acting_tensors(self.actor, self.encoder).items()}
