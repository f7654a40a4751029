"""A U-Net's forward pass for acting: the same numbers as the module's in half the time, for few rows on a CPU.

- A convolution is a matrix product of windows with weights. With the 4 to 16 positions of a chunk the weights are what
  has to be fetched, and ``conv1d`` takes up to four times as long.
- Windows are a fixed view of a padded buffer, and modules, views and checks are resolved beforehand: what is left per
  convolution is some seven calls.
- Large matrices are kept in oneDNN's own layout.

Where gradients are wanted (guidance), the same products are made without buffers and packing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from robolearn.policies.parts.unet import ConvolutionBlock, ResidualBlock, Unet

_PACKED_SIZE = 150_000
"""From so many weights on oneDNN's layout pays: 60 to 75 % of the time, but 15 us more for the call."""


class _Convolution:
    """(B, C, T) -> (B, outputs, T / stride)."""

    def __init__(self, layer: nn.Conv1d) -> None:
        self._kernel, self._stride = layer.kernel_size[0], layer.stride[0]
        self._side = self._kernel // 2
        self._matrix = layer.weight.detach().permute(0, 2, 1).flatten(1).clone(memory_format=torch.contiguous_format)
        self._bias = None if layer.bias is None else layer.bias.detach().clone()
        self._packed = _packed(self._matrix)
        self._shape: torch.Size | None = None
        self._inside = self._rows = torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        grad = torch.is_grad_enabled()
        if self._kernel == 1:
            rows = x.transpose(1, 2).reshape(-1, x.shape[1])
        elif grad:
            padded = F.pad(x.transpose(1, 2), (0, 0, self._side, self._side))
            rows = padded.unfold(1, self._kernel, self._stride).transpose(2, 3).reshape(-1, self._matrix.shape[1])
        else:
            if x.shape != self._shape:
                self._allocate(x)
            self._inside.copy_(x)
            rows = self._rows.flatten(0, 1)
        if self._packed is None or grad:
            out = F.linear(rows, self._matrix, self._bias)
        else:
            out = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return out.view(len(x), -1, out.shape[-1]).transpose(1, 2)

    def _allocate(self, x: Tensor) -> None:
        """The padded buffer (B, T + kernel - 1, C), and the overlapping windows (B, T / stride, kernel * C) of it."""
        rows, channels, length = x.shape
        padded = x.new_zeros(rows, length + 2 * self._side, channels)
        self._shape, self._inside = x.shape, padded[:, self._side : self._side + length].transpose(1, 2)
        windows = padded.unfold(1, self._kernel, self._stride).shape[1]
        strides = (padded.stride(0), self._stride * channels, 1)
        self._rows = padded.as_strided((rows, windows, self._kernel * channels), strides)


class _Block:
    """Convolution, GroupNorm, Mish."""

    def __init__(self, block: ConvolutionBlock) -> None:
        self._convolution, norm = _Convolution(block.convolution), block.norm
        self._groups, self._epsilon = norm.num_groups, norm.eps
        self._scale, self._shift = norm.weight.detach().clone(), norm.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        return F.mish(F.group_norm(self._convolution(x), self._groups, self._scale, self._shift, self._epsilon))


class _Residual:
    """Two blocks with FiLM between them, and the skip connection."""

    def __init__(self, block: ResidualBlock) -> None:
        self._first, self._second = _Block(block.first), _Block(block.second)
        self._skip = _Convolution(block.skip) if isinstance(block.skip, nn.Conv1d) else None

    def __call__(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = self._second(torch.addcmul(shift, self._first(x), scale))
        return h + (x if self._skip is None else self._skip(x))


class UnetActing:
    """``Unet.denoise`` with the weights as they are now (copied); call it with the same arguments."""

    def __init__(self, unet: Unet) -> None:
        self._films = [size for count in unet.films for size in (count, count)]
        self._down = [_residuals(level) for level in unet.down]
        self._shrink = _convolutions(unet.shrink)
        self._middle = _residuals(unet.middle)
        self._up = [_residuals(level) for level in unet.up]
        self._grow = _convolutions(unet.grow)
        self._last, self._leave = _Block(unet.last), _Convolution(unet.leave)

    def __call__(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A)."""
        films = iter((time + condition).unsqueeze(-1).split(self._films, 1))  # type: ignore[no-untyped-call]
        skips: list[Tensor] = []
        x = x.transpose(1, 2)
        for level, blocks in enumerate(self._down):
            x = _run(blocks, x, films)
            skips.append(x)
            if level < len(self._shrink):
                x = self._shrink[level](x)
        x = _run(self._middle, x, films)
        for blocks, grow in zip(self._up, self._grow, strict=True):
            x = doubled(grow(_run(blocks, torch.cat([x, skips.pop()], 1), films)))
        return self._leave(self._last(x)).transpose(1, 2)


def doubled(x: Tensor) -> Tensor:
    """(B, C, 2 T) from (B, 2 C, T): each position becomes two."""
    rows, channels, length = x.shape
    return x.reshape(rows, 2, channels // 2, length).permute(0, 2, 3, 1).reshape(rows, channels // 2, 2 * length)


def _run(blocks: Iterable[_Residual], x: Tensor, films: Iterator[Tensor]) -> Tensor:
    for block in blocks:
        x = block(x, next(films), next(films))
    return x


def _residuals(blocks: Any) -> list[_Residual]:
    return [_Residual(block) for block in blocks]


def _convolutions(layers: Any) -> list[_Convolution]:
    return [_Convolution(layer) for layer in layers]


def _packed(matrix: Tensor) -> Tensor | None:
    """A weight matrix in oneDNN's layout; None where that is not to be had, or would not pay."""
    if matrix.numel() < _PACKED_SIZE or matrix.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    if not (hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix)
    return packed
