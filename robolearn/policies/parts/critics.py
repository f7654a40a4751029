"""Critics that learn: an ensemble, its slowly following targets, and the optimiser."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robolearn.policies.parts import mlp
from robolearn.policies.parts.ensemble import CriticEnsemble
from robolearn.policies.parts.flat import Adam, Flat
from robolearn.policies.parts.mlp import MlpShape, Precision, Workspace


class Critics:
    """E action value functions Q_i(s, a) with targets Qbar <- Qbar + tau (Q - Qbar).

    Args:
        shape: of the networks, one output each.
        batch: rows of one update.
        drawn: networks M in the minimum of each target.
        ahead: rows per row of a batch at which targets are evaluated.
        tau: share of the critics that enters the targets after each update.
        rng: draws initial parameters and dropout masks.
    """

    def __init__(
        self,
        shape: MlpShape,
        batch: int,
        *,
        drawn: int,
        ahead: int = 1,
        learning_rate: float,
        grad_clip: float,
        tau: float,
        dropout: float,
        precision: Precision,
        rng: torch.Generator,
        device: torch.device,
    ) -> None:
        self.shape, self._batch, self._tau, self._dropout = shape, batch, tau, dropout
        self._precision, self._rng, self._device = precision, rng, device
        self.values = Flat(shape.parameters, device)
        shape.initialise(self.values, rng)
        self.target = self.values.like()
        self.target.data.copy_(self.values.data)
        self._drawn_shape = replace(shape, members=drawn)
        self._drawn = Flat(self._drawn_shape.parameters, device)
        self._target_work = Workspace(self._drawn_shape, batch * ahead, device, gradients=False)
        self._adam = Adam(self.values, learning_rate, grad_clip=grad_clip)
        self._ensemble = CriticEnsemble(shape, self.values, self._adam.grads, batch, precision=precision)

    def lowest(self, inputs: Tensor, subset: Tensor) -> Tensor:
        """(R,) smallest target value of the networks ``subset`` (M,) at ``inputs`` (R, I); R is fixed."""
        return self.judge(inputs, subset).amin(0)

    def judge(self, inputs: Tensor, subset: Tensor) -> Tensor:
        """(M, R) target values of the networks ``subset`` (M,) at ``inputs`` (R, I); R is fixed."""
        torch.index_select(self.target.networks, 0, subset, out=self._drawn.networks)
        q = mlp.forward(self._drawn_shape, self._drawn.views, inputs, self._target_work, precision=self._precision)
        return q[:, :, 0]

    def learn(self, inputs: Tensor, target: Tensor, *, input_grad: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step of all networks towards ``target`` (B,); returns what ``CriticEnsemble.regress`` does."""
        masks = mlp.dropout_masks(self.shape, self._batch, self._dropout, self._rng, self._device)
        found = self._ensemble.regress(inputs, target, masks=masks, input_grad=input_grad)
        self._adam.step()
        self.target.data.lerp_(self.values.data, self._tau)
        return found

    def ascend(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over networks and rows of Q_i(inputs), and its gradient by ``inputs`` (B, I)."""
        return self._ensemble.ascend(inputs)

    def tensors(self) -> dict[str, Tensor]:
        """What a resume needs, by name (live tensors)."""
        named = {f"critic.{name}": view for name, view in self.values.views.items()}
        named |= {f"target.{name}": view for name, view in self.target.views.items()}
        return named | self._adam.tensors("critic_adam")
