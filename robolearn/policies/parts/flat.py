"""Many parameters in one flat tensor, so that Adam and Polyak averaging are one operation each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Shape = tuple[int, ...]
_ALIGN = 16  # floats: every view starts on a 64-byte boundary


class Flat:
    """Named views into one flat float32 tensor that holds the parameters of E networks, one network after the other.

    Args:
        shapes: name -> (E, ...).

    Attributes:
        data: (E * P,) all values; padding between views stays zero.
        networks: (E, P) view of ``data``.
        views: name -> view of ``data`` in the shape asked for.
    """

    def __init__(self, shapes: Mapping[str, Shape], device: str | torch.device = "cpu") -> None:
        self.shapes = dict(shapes)
        members = next(iter(self.shapes.values()))[0]
        sizes = [math.prod(shape[1:]) for shape in self.shapes.values()]
        padded = [-(-size // _ALIGN) * _ALIGN for size in sizes]
        self.data = torch.zeros(members * sum(padded), device=device)
        self.networks = self.data.view(members, -1)
        self.views: dict[str, Tensor] = {}
        start = 0
        for (name, shape), size, room in zip(self.shapes.items(), sizes, padded, strict=True):
            self.views[name] = self.networks[:, start : start + size].view(shape)
            start += room

    def like(self) -> Flat:
        """A zero-filled store of the same layout (gradients, moments, target networks)."""
        return Flat(self.shapes, self.data.device)


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) on one ``Flat``, with an optional limit on the global gradient norm.

    Args:
        parameters: what is updated, in place.
        learning_rate: step size.
        grad_clip: largest L2 norm of the whole gradient; 0 for no limit.
        weight_decay: decoupled decay (AdamW); 0 for none.
    """

    def __init__(
        self, parameters: Flat, learning_rate: float, *, grad_clip: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.learning_rate, self.grad_clip, self.weight_decay = learning_rate, grad_clip, weight_decay
        self._parameters = parameters
        self.grads = parameters.like()
        self.first, self.second = parameters.like(), parameters.like()
        self.step_count = torch.zeros((), device=parameters.data.device)

    def step(self) -> None:
        """One step along ``grads``."""
        grad = self.grads.data
        if self.grad_clip > 0.0:
            grad.mul_((self.grad_clip / (grad.norm() + 1e-6)).clamp_(max=1.0))
        self.step_count.add_(1.0)
        torch._fused_adamw_(  # the kernel behind torch.optim.AdamW(fused=True), without its bookkeeping
            [self._parameters.data],
            [grad],
            [self.first.data],
            [self.second.data],
            [],
            [self.step_count],
            lr=self.learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """What a resume needs, by name; the tensors are live, not copies."""
        return {
            f"{prefix}.first": self.first.data,
            f"{prefix}.second": self.second.data,
            f"{prefix}.step": self.step_count,
        }
