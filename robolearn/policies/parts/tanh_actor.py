"""A tanh-Normal actor that learns to climb a value, with its temperature (SAC, Haarnoja et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robolearn.policies.parts import mlp, tanh_normal
from robolearn.policies.parts.acting import acting_tensors
from robolearn.policies.parts.average import ActorAverage
from robolearn.policies.parts.flat import Adam, Flat
from robolearn.policies.parts.mlp import MlpShape, Workspace
from robolearn.policies.parts.pixels import Encoder

Climb = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Outputs (B, A) -> (mean value, its gradient (B, A) by the outputs)."""
Imitate = Callable[[Tensor], Tensor]
"""Means before the tanh (B, A) -> gradient (B, A) of an imitation loss by them."""


class TanhActor:
    """Network, running average, temperature and their optimisers.

    L_pi = mean(alpha * log pi - value),  L_alpha = alpha * (-log pi - target entropy).

    Args:
        shape: of the network, 2A outputs.
        batch: rows of one update.
        ahead: rows of one ``draw``.
        average: share of the network that enters the average after each update.
        encoder: image encoder the average takes along.
        init_log_std: with a number, the output layer starts at zero but for this bias of the log standard deviations,
            so that the greedy output is 0; None leaves it as drawn.
        rng: draws initial parameters.
    """

    def __init__(
        self,
        shape: MlpShape,
        batch: int,
        *,
        ahead: int,
        learning_rate: float,
        temperature_lr: float,
        grad_clip: float,
        log_std: tuple[float, float],
        average: float,
        init_temperature: float,
        target_entropy: float,
        encoder: Encoder | None,
        init_log_std: float | None = None,
        rng: torch.Generator,
        device: torch.device,
    ) -> None:
        self.shape, self._log_std, self._target_entropy = shape, log_std, target_entropy
        self._encoder = encoder
        self._half = shape.outputs // 2
        self.values = Flat(shape.parameters, device)
        shape.initialise(self.values, rng)
        if init_log_std is not None:
            last = len(shape.hidden)
            self.values.views[f"w{last}"].zero_()
            self.values.views[f"b{last}"][..., self._half :] = init_log_std
        self._average = ActorAverage(self.values, encoder, average)
        self._work = Workspace(shape, batch, device)
        self._ahead_work = Workspace(shape, ahead, device, gradients=False)
        self._log_temperature = Flat({"value": (1,)}, device)
        self._log_temperature.data.fill_(math.log(init_temperature))
        self._adam = Adam(self.values, learning_rate, grad_clip=grad_clip)
        self._temperature_adam = Adam(self._log_temperature, temperature_lr)

    @property
    def temperature(self) -> Tensor:
        """alpha, a number."""
        return self._log_temperature.data[0].exp()

    def draw(self, features: Tensor, noise: Tensor, *, density: bool) -> tuple[Tensor, Tensor]:
        """Outputs (R, A) drawn with ``noise`` (R, A), and their log density (R,) (zeros unless asked for)."""
        raw = mlp.forward(self.shape, self.values.views, features, self._ahead_work)[0]
        mean, log_std = tanh_normal.split(raw, *self._log_std)
        if density:
            return tanh_normal.sample(mean, log_std, noise)
        return tanh_normal.draw(mean, log_std, noise), raw.new_zeros(len(raw))

    def improve(self, features: Tensor, noise: Tensor, climb: Climb, imitate: Imitate | None) -> dict[str, Tensor]:
        """One step of network and temperature; metrics."""
        temperature = self.temperature
        raw = mlp.forward(self.shape, self.values.views, features, self._work)[0]
        mean, log_std = tanh_normal.split(raw, *self._log_std)
        output, log_density = tanh_normal.sample(mean, log_std, noise)
        value, d_value = climb(output)
        d_raw = tanh_normal.actor_gradient(raw, noise, d_value, temperature, *self._log_std)
        if imitate is not None:
            d_raw[:, : self._half] += imitate(mean)
        mlp.backward(self.shape, self.values.views, self._work, d_raw[None], grads=self._adam.grads.views)
        self._adam.step()
        self._average.update(self._adam.step_count)
        entropy = -log_density.mean()
        self._temperature_adam.grads.data[0] = temperature * (entropy - self._target_entropy)
        self._temperature_adam.step()
        return {"actor_loss": -temperature * entropy - value, "entropy": entropy, "temperature": temperature}

    def acting(self) -> dict[str, Tensor]:
        """Newest and averaged network and encoder as ``NetworkPolicy`` loads them, by name (live tensors)."""
        return acting_tensors(self.values, self._encoder) | self._average.tensors()

    def tensors(self) -> dict[str, Tensor]:
        """What a resume needs beside ``acting``, by name (live tensors)."""
        named = {"log_temperature": self._log_temperature.data[:1]}
        return named | self._adam.tensors("actor_adam") | self._temperature_adam.tensors("temperature_adam")


def imitation_gradient(mean: Tensor, wanted: Tensor, demo: Tensor) -> Tensor:
    """Gradient (B, A), by the mean before the tanh, of |tanh(mean) - wanted|^2 averaged over demonstration rows.

    Args:
        mean: (B, A).
        wanted: (B, A) outputs to imitate.
        demo: (B,) 1 for rows that count, else 0.
    """
    greedy = mean.tanh()
    weight = (demo / demo.sum().clamp(min=1.0)).unsqueeze(-1)
    return 2.0 * weight * (greedy - wanted) * (1.0 - greedy * greedy)
