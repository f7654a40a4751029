"""A stack of E independent MLPs evaluated together, with gradients written by hand.

Each hidden layer is ``Dense -> (dropout) -> LayerNorm -> ReLU`` (the order of RLPD, Ball et al. 2023), the output layer
is linear. Activations are (E, B, H), weights (E, in, out). ``reference`` computes the same with plain differentiable
operations; the tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from robolearn.policies.parts.flat import Flat, Shape

Precision = Literal["fp32", "bf16"]
Views = Mapping[str, Tensor]
EPSILON = 1e-6


@dataclass(frozen=True)
class MlpShape:
    """Size of a stack of MLPs.

    Attributes:
        members: number of independent networks E.
        inputs, outputs: width of input and output.
        hidden: width of each hidden layer.
        layer_norm: normalise each hidden layer before its ReLU, with learned gain and offset.
    """

    members: int
    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    layer_norm: bool = False

    @property
    def parameters(self) -> dict[str, Shape]:
        """Name -> shape of every parameter: ``w0, b0, gain0, offset0, w1, ...``."""
        widths = [self.inputs, *self.hidden, self.outputs]
        shapes: dict[str, Shape] = {}
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            shapes[f"w{i}"] = (self.members, fan_in, fan_out)
            shapes[f"b{i}"] = (self.members, 1, fan_out)
            if self.layer_norm and i < len(self.hidden):
                shapes[f"gain{i}"] = (self.members, 1, fan_out)
                shapes[f"offset{i}"] = (self.members, 1, fan_out)
        return shapes

    def initialise(self, values: Flat, generator: torch.Generator) -> None:
        """Xavier-uniform weights (Glorot & Bengio 2010, eq. 16), zero biases, unit gains."""
        for name, view in values.views.items():
            if name.startswith("w"):
                bound = math.sqrt(6.0 / (view.shape[1] + view.shape[2]))
                view.copy_((torch.rand(view.shape, generator=generator) * 2.0 - 1.0) * bound)
            else:
                view.fill_(1.0 if name.startswith("gain") else 0.0)


class Workspace:
    """Memory of one forward and backward pass, used again by the next: fresh memory costs more than the arithmetic.

    Attributes:
        dense: output of each hidden layer before gain, offset and ReLU (E, B, H); normalised in place.
        active: output of each hidden layer.
        gradient: of each hidden layer's output, turned in place into that of its Dense.
        rstd: 1 / standard deviation (E, B, 1) of each hidden layer's Dense output.
        out: (E, B, outputs) result of the pass.
        inputs, masks: what the last ``forward`` was given.
    """

    def __init__(self, shape: MlpShape, rows: int, device: torch.device, *, gradients: bool = True) -> None:
        keep_freed_memory()

        def make(width: int) -> Tensor:
            return torch.zeros(shape.members, rows, width, device=device)

        self.dense = [make(width) for width in shape.hidden]
        self.active = [make(width) for width in shape.hidden] if shape.layer_norm else self.dense
        self.gradient = [make(width) for width in shape.hidden] if gradients else []
        by_width = {width: make(width) for width in set(shape.hidden)}
        self.scratch = [by_width[width] for width in shape.hidden]
        self.rstd = [make(1) for _ in shape.hidden]
        self.mean, self.zero, self.one = make(1), make(1), make(1).fill_(1.0)
        self.epsilon = torch.full((1, 1, 1), EPSILON, device=device)
        self.out = torch.zeros(shape.members, shape.outputs, rows, device=device).transpose(1, 2)
        self.inputs = self.out
        self.masks: list[Tensor] | None = None


@cache
def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of returning them to the kernel and faulting them in again.

    Its threshold follows the largest block freed so far, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD); on other systems
    this does nothing.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _multiply(a: Tensor, b: Tensor, out: Tensor, precision: Precision) -> Tensor:
    if precision == "bf16":
        return out.copy_(torch.bmm(a.bfloat16(), b.bfloat16()))
    return torch.bmm(a, b, out=out)


def forward(
    shape: MlpShape,
    values: Views,
    x: Tensor,
    work: Workspace,
    *,
    masks: list[Tensor] | None = None,
    precision: Precision = "fp32",
) -> Tensor:
    """Outputs (E, B, outputs) of inputs (B, inputs); they live in ``work`` until its next use.

    Args:
        masks: one dropout multiplier (E, B, H) per hidden layer.
    """

    work.inputs = h = x.expand(shape.members, *x.shape)
    work.masks = masks
    for i in range(len(shape.hidden)):
        z = _multiply(h, values[f"w{i}"], work.dense[i], precision).add_(values[f"b{i}"])
        if masks is not None:
            z.mul_(masks[i])
        if shape.layer_norm:
            _normalise(z, work.rstd[i], work.mean, work.epsilon)
            h = torch.addcmul(values[f"offset{i}"], z, values[f"gain{i}"], out=work.active[i]).relu_()
        else:
            h = z.relu_()
    last = len(shape.hidden)
    w, b = values[f"w{last}"], values[f"b{last}"]
    if shape.outputs == 1:  # matrix products with one column are slow
        torch.sum(torch.mul(h, w.transpose(1, 2), out=work.scratch[-1]), -1, keepdim=True, out=work.out)
    else:
        _multiply(w.transpose(1, 2), h.transpose(1, 2), work.out.transpose(1, 2), precision)
    return work.out.add_(b)


def _normalise(z: Tensor, rstd: Tensor, mean: Tensor, epsilon: Tensor) -> None:
    """LayerNorm without gain and offset (Ba et al. 2016, eq. 4), in place; 1 / std goes to ``rstd``."""
    z.sub_(torch.mean(z, -1, keepdim=True, out=mean))
    torch.linalg.vector_norm(z, dim=-1, keepdim=True, out=rstd)
    torch.addcmul(epsilon, rstd, rstd, value=1.0 / z.shape[-1], out=rstd).rsqrt_()
    z.mul_(rstd)


def backward(
    shape: MlpShape,
    values: Views,
    work: Workspace,
    d_out: Tensor,
    *,
    grads: Views,
    input_grad: bool = False,
    precision: Precision = "fp32",
) -> Tensor | None:
    """Write the gradients of sum(d_out * out) to ``grads``, after a ``forward`` with the same workspace.

    Args:
        d_out: (E, B, outputs).
        input_grad: also return the gradient (B, inputs) of the shared input, summed over members.
    """
    d = _backward(shape, values, work, d_out, grads, precision)
    return _to_input(d, values, precision) if input_grad else None


def input_gradient(
    shape: MlpShape, values: Views, work: Workspace, d_out: Tensor, *, precision: Precision = "fp32"
) -> Tensor:
    """Only the gradient (B, inputs) that ``backward`` returns with ``input_grad``."""
    return _to_input(_backward(shape, values, work, d_out, None, precision), values, precision)


def _to_input(d: Tensor, values: Views, precision: Precision) -> Tensor:
    w = values["w0"].transpose(1, 2)
    return _multiply(d, w, d.new_empty(d.shape[0], d.shape[1], w.shape[2]), precision).sum(0)


def _backward(
    shape: MlpShape, values: Views, work: Workspace, d: Tensor, grads: Views | None, precision: Precision
) -> Tensor:
    """The gradient of the first layer's Dense output; parameter gradients on the way."""
    last = len(shape.hidden)
    for i in reversed(range(last + 1)):
        if i < last:
            d = _backward_activation(shape, values, work, i, grads)
        if grads is not None:
            h = work.active[i - 1] if i > 0 else work.inputs
            if i == last:  # transposed, because a narrow result is slow
                grads[f"w{i}"].copy_(torch.bmm(d.transpose(1, 2), h).transpose(1, 2))
            else:
                _multiply(h.transpose(1, 2), d, grads[f"w{i}"], precision)
            torch.sum(d, dim=1, keepdim=True, out=grads[f"b{i}"])
        if i > 0:
            w, into = values[f"w{i}"].transpose(1, 2), work.gradient[i - 1]
            if i == last and shape.outputs == 1:
                torch.mul(d, w, out=into)
            else:
                _multiply(d, w, into, precision)
    return d


def _backward_activation(shape: MlpShape, values: Views, work: Workspace, i: int, grads: Views | None) -> Tensor:
    """From the gradient of a hidden layer's output to that of its Dense output."""
    d = work.gradient[i]
    torch.ops.aten.threshold_backward.grad_input(d, work.active[i], 0.0, grad_input=d)
    if shape.layer_norm:
        normed = work.dense[i]
        if grads is not None:
            torch.sum(d, dim=1, keepdim=True, out=grads[f"offset{i}"])
            product = torch.mul(d, normed, out=work.scratch[i])
            torch.sum(product, dim=1, keepdim=True, out=grads[f"gain{i}"])
        d.mul_(values[f"gain{i}"])
        d = torch.ops.aten.native_layer_norm_backward(  # d - mean(d) - normed * mean(d * normed)
            d, normed, normed.shape[-1:], work.zero, work.one, None, None, [True, False, False]
        )[0].mul_(work.rstd[i])
    return d if work.masks is None else d.mul_(work.masks[i])


def reference(shape: MlpShape, values: Views, x: Tensor, *, masks: list[Tensor] | None = None) -> Tensor:
    """``forward`` in the plainest differentiable operations, for tests and for reading."""
    h = x.expand(shape.members, *x.shape) if x.dim() == 2 else x
    for i in range(len(shape.hidden)):
        h = h @ values[f"w{i}"] + values[f"b{i}"]
        if masks is not None:
            h = h * masks[i]
        if shape.layer_norm:
            h = F.layer_norm(h, h.shape[-1:], eps=EPSILON) * values[f"gain{i}"] + values[f"offset{i}"]
        h = F.relu(h)
    last = len(shape.hidden)
    return h @ values[f"w{last}"] + values[f"b{last}"]


def dropout_masks(
    shape: MlpShape, count: int, rate: float, generator: torch.Generator, device: torch.device
) -> list[Tensor] | None:
    """Multipliers (E, count, H) per hidden layer: 0 with probability ``rate``, else 1 / (1 - rate); None for rate 0."""
    if rate == 0.0:
        return None
    sizes = [(shape.members, count, width) for width in shape.hidden]
    keep = [torch.rand(size, generator=generator).ge_(rate) for size in sizes]
    return [mask.div_(1.0 - rate).to(device) for mask in keep]
