"""The critics of an ensemble, as one stack, with the two gradients that actor-critic learning needs."""

from __future__ import annotations

import torch
from torch import Tensor

from robolearn.policies.parts import mlp
from robolearn.policies.parts.flat import Flat
from robolearn.policies.parts.mlp import MlpShape, Precision, Workspace


class CriticEnsemble:
    """E action value functions Q_i(s, a) of inputs (s, a).

    Args:
        shape: of the networks, one output each.
        values: their parameters.
        grads: where ``regress`` leaves the gradients, in the same layout.
        batch: rows of every call.
        precision: of the matrix products.
    """

    def __init__(self, shape: MlpShape, values: Flat, grads: Flat, batch: int, *, precision: Precision) -> None:
        self._shape, self._precision = shape, precision
        self._values, self._grads = values.views, grads.views
        self._work = Workspace(shape, batch, values.data.device)

    def regress(
        self, inputs: Tensor, target: Tensor, *, masks: list[Tensor] | None = None, input_grad: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradient of L = mean over networks and rows of (Q_i(inputs) - target)^2.

        Args:
            inputs: (B, I).
            target: (B,).
            masks: dropout multipliers (E, B, H) per hidden layer.
            input_grad: also return dL/dinputs.

        Returns:
            Q - target and Q, each (E, B, 1), and dL/dinputs (B, I) or None.
        """
        q = mlp.forward(self._shape, self._values, inputs, self._work, masks=masks, precision=self._precision)
        error = q - target.unsqueeze(-1)
        d_inputs = mlp.backward(
            self._shape,
            self._values,
            self._work,
            error * (2.0 / error.numel()),
            grads=self._grads,
            input_grad=input_grad,
            precision=self._precision,
        )
        return error, q.clone(), d_inputs

    def ascend(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """V = mean over networks and rows of Q_i(inputs), and dV/dinputs (B, I)."""
        q = mlp.forward(self._shape, self._values, inputs, self._work, precision=self._precision)
        d_q = torch.full_like(q, 1.0 / q.numel())
        d_inputs = mlp.input_gradient(self._shape, self._values, self._work, d_q, precision=self._precision)
        return q.mean(), d_inputs
