"""A U-Net over the actions of a chunk, conditioned by FiLM, as in Diffusion Policy (Chi et al. 2023, section 3.1).

Blocks of convolution, GroupNorm and Mish; after the first of each residual block h <- scale * h + shift, with scale
and shift an affine function of time embedding and observation embedding (Perez et al. 2018). That function is a sum of
a term of the time and a term of the observation, each computed for all blocks at once (see ``denoiser``).
Inside, actions are channels: (B, C, T).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.core.errors import ConfigError
from robolearn.policies.parts.denoiser import Denoise, Denoiser, TimeEmbedding
from robolearn.policies.parts.unet_acting import UnetActing, doubled


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)


class ConvolutionBlock(nn.Module):
    """Convolution, GroupNorm, Mish: (B, C, T) -> (B, outputs, T)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.convolution = _convolution(inputs, outputs, kernel)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        return F.mish(self.norm(self.convolution(x)))


class ResidualBlock(nn.Module):
    """Two convolution blocks with FiLM between them, beside a skip connection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = ConvolutionBlock(inputs, outputs, kernel, groups)
        self.second = ConvolutionBlock(outputs, outputs, kernel, groups)
        self.skip = _convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.outputs = outputs

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """``film`` (B or 1, 2 * outputs, 1): scale and shift."""
        scale, shift = film.chunk(2, 1)
        out: Tensor = self.second(torch.addcmul(shift, self.first(x), scale)) + self.skip(x)
        return out


class Unet(Denoiser):
    """See the module's docstring.

    Args:
        actions: A.
        chunk: H.
        condition: To * D numbers of an observation.
        channels: of each level; each but the last halves the number of positions.
        kernel: width of the convolutions, odd.
        groups: of GroupNorm; divides every number of channels.
        embedding: size of the embeddings of time and observation.

    Attributes:
        films: channels of each residual block, in the order of use.

    Raises:
        ConfigError: the sizes do not go together.
    """

    def __init__(
        self, actions: int, chunk: int, condition: int, *,
        channels: tuple[int, ...] = (64, 128, 256), kernel: int = 5, groups: int = 8, embedding: int = 128,
    ) -> None:  # fmt: skip
        super().__init__()
        halved = 2 ** (len(channels) - 1)
        if chunk % halved:
            raise ConfigError(f"chunk is {chunk}; a U-Net of {len(channels)} levels needs a multiple of {halved}")
        if kernel % 2 == 0 or not channels or any(count % groups for count in channels):
            raise ConfigError(f"unet: expected an odd kernel and channels that are multiples of {groups}, "
                              f"got {kernel} and {channels}")  # fmt: skip

        def pair(inputs: int, outputs: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(i, outputs, kernel, groups) for i in (inputs, outputs))

        steps = list(pairwise(channels))
        self.down = nn.ModuleList(pair(i, o) for i, o in pairwise((actions, *channels)))
        self.shrink = nn.ModuleList(_convolution(i, i, 3, stride=2) for i, _ in steps)
        self.middle = pair(channels[-1], channels[-1])
        self.up = nn.ModuleList(pair(2 * o, i) for i, o in reversed(steps))
        self.grow = nn.ModuleList(_convolution(i, 2 * i, 3) for i, _ in reversed(steps))
        self.last = ConvolutionBlock(channels[0], channels[0], kernel, groups)
        self.leave = _convolution(channels[0], actions, 1)
        self.films = [block.outputs for block in self.modules() if isinstance(block, ResidualBlock)]
        self.time = TimeEmbedding(embedding)
        self.observation = nn.Linear(condition, embedding)
        self.film_of_time = nn.Linear(embedding, 2 * sum(self.films))
        self.film_of_observation = nn.Linear(embedding, 2 * sum(self.films), bias=False)
        with torch.no_grad():  # without anything learned, scales are about 1
            bias = torch.cat([torch.cat([torch.ones(count), torch.zeros(count)]) for count in self.films])
            self.film_of_time.bias.copy_(bias)

    def of_time(self, time: Tensor) -> Tensor:
        """(B, F), a term of the scales and shifts of all blocks."""
        out: Tensor = self.film_of_time(F.mish(self.time(time)))
        return out

    def of_condition(self, condition: Tensor) -> Tensor:
        """(B, F), a term of the scales and shifts of all blocks."""
        out: Tensor = self.film_of_observation(F.mish(self.observation(condition.flatten(1))))
        return out

    def denoise(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A)."""
        sizes = [2 * count for count in self.films]
        films = iter((time + condition).unsqueeze(-1).split(sizes, 1))  # type: ignore[no-untyped-call]
        skips: list[Tensor] = []
        x = x.transpose(1, 2)
        for level, blocks in enumerate(self.down):
            x = _run(blocks, x, films)
            skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        x = _run(self.middle, x, films)
        for blocks, grow in zip(self.up, self.grow, strict=True):
            x = doubled(grow(_run(blocks, torch.cat([x, skips.pop()], 1), films)))
        out: Tensor = self.leave(self.last(x)).transpose(1, 2)
        return out

    def acting(self) -> Denoise:
        """``denoise``, on a CPU fast for few rows and of the weights as they are now."""
        return UnetActing(self) if self.observation.weight.device.type == "cpu" else self.denoise


def _run(blocks: nn.Module, x: Tensor, films: Iterator[Tensor]) -> Tensor:
    assert isinstance(blocks, Iterable)
    for block in blocks:
        x = block(x, next(films))
    return x
