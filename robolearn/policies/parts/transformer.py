"""A causal transformer over the actions of a chunk with cross-attention to time and observations.

Each action is a token that attends to itself and earlier ones; memory tokens are one of the time and one of each
observation frame (Chi et al. 2023, section 3.1: the transformer variant). Layers are pre-norm: self-attention,
cross-attention, feed-forward. Keys and values of the memory are computed apart from the actions (see ``denoiser``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.core.errors import ConfigError
from robolearn.policies.parts.denoiser import Denoiser, TimeEmbedding


class Layer(nn.Module):
    """One decoder layer on tokens (B, H, E); its keys and values of the memory come from outside."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = nn.Linear(width, 3 * width)
        self.own_out = nn.Linear(width, width)
        self.ask = nn.Linear(width, width)
        self.ask_out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """``memory`` (B or 1, 1 + To, 2 E): keys and values."""
        query, key, value = (self._split(part) for part in self.own(self.norms[0](x)).chunk(3, -1))
        x = x + self.own_out(self._join(F.scaled_dot_product_attention(query, key, value, is_causal=True)))
        key, value = (self._split(part).expand(len(x), -1, -1, -1) for part in memory.chunk(2, -1))
        query = self._split(self.ask(self.norms[1](x)))
        x = x + self.ask_out(self._join(F.scaled_dot_product_attention(query, key, value)))
        out: Tensor = x + self.down(F.gelu(self.up(self.norms[2](x))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, heads, n, E / heads) from (B, n, E)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class Transformer(Denoiser):
    """See the module's docstring.

    Args:
        actions: A.
        chunk: H.
        frames, features: To and D of the condition.
        width: E, of the tokens.
        layers: decoder layers.
        heads: of attention; divides ``width``.

    Raises:
        ConfigError: the sizes do not go together.
    """

    def __init__(
        self, actions: int, chunk: int, frames: int, features: int, *, width: int = 128, layers: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"transformer: width {width} is no multiple of {heads} heads")
        self.frames, self.width = frames, width
        self.enter = nn.Linear(actions, width)
        self.place = nn.Parameter(0.02 * torch.randn(chunk, width))
        self.time = TimeEmbedding(width)
        self.observation = nn.Sequential(nn.Linear(features, 2 * width), nn.Mish(), nn.Linear(2 * width, width))
        self.frame_place = nn.Parameter(0.02 * torch.randn(frames, width))
        self.memory_norm = nn.LayerNorm(width)
        self.memory = nn.Linear(width, layers * 2 * width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, actions)

    def of_time(self, time: Tensor) -> Tensor:
        """(B, 1, layers * 2 E) keys and values of the time token."""
        return self._memory(self.time(time).unsqueeze(1))

    def of_condition(self, condition: Tensor) -> Tensor:
        """(B, To, layers * 2 E) keys and values of the observation tokens."""
        return self._memory(self.observation(condition) + self.frame_place)

    def _memory(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.memory(self.memory_norm(tokens))
        return out

    def denoise(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A)."""
        rows = max(len(time), len(condition))
        memory = torch.cat([time.expand(rows, -1, -1), condition.expand(rows, -1, -1)], 1)
        h = self.enter(x) + self.place
        for layer, of_layer in zip(self.layers, memory.chunk(len(self.layers), -1), strict=True):
            h = layer(h, of_layer)
        out: Tensor = self.leave(self.norm(h))
        return out
