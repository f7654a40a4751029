"""A U-Net's forward pass for acting: the same numbers as the module's in a third of the time, for few rows on a CPU.

- A convolution is a matrix product of windows with weights (see ``products``); with the 4 to 16 positions of a chunk
  ``conv1d`` takes many times as long.
- Windows are a fixed view of a padded buffer, and modules, views and checks are resolved beforehand: what is left per
  convolution is three calls.

Where gradients are wanted (guidance), the same products are made by torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.policies.parts.products import Product

if TYPE_CHECKING:
    from robolearn.policies.parts.unet import ConvolutionBlock, ResidualBlock, Unet


class _Convolution:
    """(B, C, T) -> (B, outputs, T / stride). What it gives without gradients is overwritten by the next call."""

    def __init__(self, layer: nn.Conv1d) -> None:
        assert layer.bias is not None
        self._kernel, self._stride = layer.kernel_size[0], layer.stride[0]
        self._side = self._kernel // 2
        self._matrix = layer.weight.detach().permute(0, 2, 1).flatten(1).clone(memory_format=torch.contiguous_format)
        self._bias = layer.bias.detach().clone()
        self._product = Product(self._matrix.numpy(), self._bias.numpy())
        self._shape: torch.Size | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self._differentiable(x)
        if x.shape != self._shape:
            self._allocate(x.shape)
        self._inside.copy_(x)
        np.copyto(self._columns, self._windows)
        self._multiply()
        return self._out

    def _differentiable(self, x: Tensor) -> Tensor:
        padded = F.pad(x.transpose(1, 2), (0, 0, self._side, self._side))
        rows = padded.unfold(1, self._kernel, self._stride).transpose(2, 3).reshape(-1, self._matrix.shape[1])
        return F.linear(rows, self._matrix, self._bias).view(len(x), -1, len(self._bias)).transpose(1, 2)

    def _allocate(self, shape: torch.Size) -> None:
        """The padded input (B, T + kernel - 1, C), its overlapping windows (B, T / stride, kernel * C), and rows that
        they are copied to, each with a 1 at the end."""
        batch, channels, length = shape
        padded = np.zeros((batch, length + 2 * self._side, channels), np.float32)
        count, size = (length - 1) // self._stride + 1, self._kernel * channels
        strides = (padded.strides[0], self._stride * padded.strides[1], padded.strides[2])
        self._windows = np.lib.stride_tricks.as_strided(padded, (batch, count, size), strides)
        rows = np.ones((batch, count, size + 1), np.float32)
        out = np.empty((batch * count, len(self._bias)), np.float32)
        self._columns = rows[..., :-1]
        self._multiply = self._product.into(out, rows.reshape(len(out), -1))
        with torch.inference_mode(False):  # or they could not be written to outside of that mode
            self._inside = torch.from_numpy(padded)[:, self._side : self._side + length].transpose(1, 2)
            self._out = torch.from_numpy(out).view(batch, count, -1).transpose(1, 2)
        self._shape = shape


class _Block:
    """Convolution, GroupNorm, Mish."""

    def __init__(self, block: ConvolutionBlock) -> None:
        self._convolution, norm = _Convolution(block.convolution), block.norm
        self._groups, self._epsilon = norm.num_groups, norm.eps
        self._scale, self._shift = norm.weight.detach().clone(), norm.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        h = self._convolution(x)
        return F.mish(torch.group_norm(h, self._groups, self._scale, self._shift, self._epsilon, False))


class _Residual:
    """Two blocks with FiLM between them, and the skip connection."""

    def __init__(self, block: ResidualBlock) -> None:
        self._first, self._second = _Block(block.first), _Block(block.second)
        self._skip = _Convolution(block.skip) if isinstance(block.skip, nn.Conv1d) else None

    def __call__(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = self._second(torch.addcmul(shift, self._first(x), scale))
        return h + (x if self._skip is None else self._skip(x))


class UnetActing:
    """``Unet.denoise`` on a CPU with the weights as they are now (copied); call it with the same arguments."""

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
        return self._leave(self._last(x)).transpose(1, 2).clone()


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
