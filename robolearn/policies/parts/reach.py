"""How what an actor puts out becomes an action: it is the action, with or without a bound on how far that lies from the
one that a base proposes, or it is added to that."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from robolearn.policies.parts.tanh_normal import ACTION_LIMIT


class Reach(Protocol):
    """How the actor's output o (..., A) in (-1, 1) becomes an action, given the one that it starts from (..., A)."""

    @property
    def proposals(self) -> str:
        """Observation key of the proposals; empty when there are none."""

    @property
    def init_log_std(self) -> float | None:
        """Where the actor's log standard deviation starts, with a greedy output of 0; None: an untouched network."""

    @property
    def spread(self) -> float:
        """See ``scattered``."""

    def action(self, output: Tensor, start: Tensor) -> Tensor:
        """a(o), (..., A)."""

    def gradient(self, d_action: Tensor, output: Tensor, start: Tensor) -> Tensor:
        """Gradient (..., A) by the output from that by the action."""

    def output(self, action: Tensor, start: Tensor) -> Tensor:
        """The output (..., A) whose action comes nearest to the given one."""


class FullReach:
    """The output is the action."""

    proposals = ""
    init_log_std: float | None = None
    spread = 0.0

    def action(self, output: Tensor, start: Tensor) -> Tensor:
        """The output."""
        return output

    def gradient(self, d_action: Tensor, output: Tensor, start: Tensor) -> Tensor:
        """The same gradient."""
        return d_action

    def output(self, action: Tensor, start: Tensor) -> Tensor:
        """The action."""
        return action


FULL_REACH = FullReach()


class Correction:
    """The output is added to the action that it starts from: a = clip(start + scale * o).

    Args:
        proposals: observation key of the actions that a base proposes.
        scale: largest change of each element of an action; 0 for none.
        init_log_std, spread: see ``Reach``.
    """

    def __init__(self, proposals: str, scale: float, init_log_std: float, spread: float = 0.0) -> None:
        self.proposals, self.scale, self.init_log_std, self.spread = proposals, scale, init_log_std, spread

    def action(self, output: Tensor, start: Tensor) -> Tensor:
        """(..., A) action of a correction."""
        return (start + self.scale * output).clamp(-ACTION_LIMIT, ACTION_LIMIT)

    def gradient(self, d_action: Tensor, output: Tensor, start: Tensor) -> Tensor:
        """Scaled; 0 where the action is at its limit."""
        return self.scale * d_action * ((start + self.scale * output).abs() <= ACTION_LIMIT)

    def output(self, action: Tensor, start: Tensor) -> Tensor:
        """The correction that leads to an action, as far as it reaches."""
        if self.scale == 0.0:
            return torch.zeros_like(action)
        return ((action - start) / self.scale).clamp(-ACTION_LIMIT, ACTION_LIMIT)


class Within:
    """The output is the action, brought within a distance of the one that it starts from.

    A network that has to put out an action learns it more precisely than one that has to put out its difference from
    whatever comes in.

    Args:
        proposals: observation key of the actions that a base proposes.
        distance: largest change of each element of an action; 2 for any.
    """

    init_log_std: float | None = None
    spread = 0.0

    def __init__(self, proposals: str, distance: float) -> None:
        self.proposals, self.distance = proposals, distance

    def action(self, output: Tensor, start: Tensor) -> Tensor:
        """(..., A) the nearest action within reach."""
        return torch.minimum(torch.maximum(output, start - self.distance), start + self.distance)

    def gradient(self, d_action: Tensor, output: Tensor, start: Tensor) -> Tensor:
        """The same gradient of ascent; of outputs out of reach only what leads them back."""
        beyond = (output - start) * ((output - start).abs() > self.distance)
        return d_action * (d_action * beyond <= 0.0)

    def output(self, action: Tensor, start: Tensor) -> Tensor:
        """The action."""
        return action


def scattered(proposals: Tensor, spread: float, rng: torch.Generator) -> Tensor:
    """Proposals (B, ..., A) with Gaussian noise, whose deviation is uniform in [0, spread], drawn for each row.

    An actor that learns to correct these, and not only what the base proposes, can leave a base that is far from right:
    outside its demonstrations a clone often commands its limits, and nothing in the data shows the way back from there.
    """
    if spread == 0.0 or proposals.numel() == 0:
        return proposals
    deviation = spread * torch.rand(len(proposals), *[1] * (proposals.ndim - 1), generator=rng)
    noise = deviation * torch.randn(proposals.shape, generator=rng)
    return (proposals + noise.to(proposals.device)).clamp(-ACTION_LIMIT, ACTION_LIMIT)
