"""The network of the success classifier: one frame in, one logit out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from robolearn.core.errors import ConfigError
from robolearn.core.spec import ArraySpec


@dataclass(frozen=True)
class Inputs:
    """Which observation keys a classifier looks at, in alphabetical order.

    Attributes:
        vector: key -> shape of what is flattened into one vector.
        images: key -> (H, W, C) of uint8 images.
    """

    vector: dict[str, tuple[int, ...]]
    images: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, observation: Mapping[str, ArraySpec], keys: tuple[str, ...] = ()) -> Inputs:
        """The inputs among the keys of an observation; all of them when none are chosen.

        Raises:
            ConfigError: a key is not there.
        """
        missing = [key for key in keys if key not in observation]
        if missing:
            raise ConfigError(f"no observation {', '.join(missing)} (have: {', '.join(sorted(observation))})")
        chosen = {key: observation[key] for key in sorted(set(keys) or observation)}
        images: dict[str, tuple[int, ...]] = {
            key: spec.shape for key, spec in chosen.items() if spec.dtype == "uint8" and len(spec.shape) == 3
        }
        return cls({key: spec.shape for key, spec in chosen.items() if key not in images}, images)

    @property
    def size(self) -> int:
        """Length D of the vector."""
        return sum(int(torch.Size(shape).numel()) for shape in self.vector.values())

    def differences(self, observation: Mapping[str, ArraySpec]) -> list[str]:
        """How a task's observation fails to give these inputs; empty when it gives them."""
        found = []
        for key, shape in (self.vector | self.images).items():
            spec, kind = observation.get(key), "image" if key in self.images else "vector"
            if spec is None:
                found.append(f"no {kind} '{key}' {shape}")
            elif spec.shape != shape or (spec.dtype == "uint8" and len(shape) == 3) != (kind == "image"):
                found.append(f"'{key}' is {spec.dtype} {spec.shape}, expected {kind} {shape}")
        return found


class _Camera(nn.Module):
    """Convolutions 3x3 with stride 2 and ReLU, then Dense and LayerNorm: (B, H, W, C) uint8 -> (B, width)."""

    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        height, columns, previous = shape
        layers: list[nn.Module] = []
        for channel in channels:
            layers += [nn.Conv2d(previous, channel, 3, stride=2, padding=1), nn.ReLU()]
            height, columns, previous = (height + 1) // 2, (columns + 1) // 2, channel
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(previous * height * columns, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layers(images.permute(0, 3, 1, 2).float() / 255.0 - 0.5))
        return out


class FrameNetwork(nn.Module):
    """Standardised vector and camera embeddings side by side, then a ReLU MLP with one output.

    Args:
        inputs: what it looks at.
        hidden: widths of the hidden layers.
        channels: output channels of the convolutions, per camera.
        width: of the embedding of one camera.
    """

    def __init__(self, inputs: Inputs, hidden: tuple[int, ...], channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(inputs.size))
        self.register_buffer("std", torch.ones(inputs.size))
        self.cameras = nn.ModuleList([_Camera(shape, channels, width) for shape in inputs.images.values()])
        sizes = [inputs.size + width * len(inputs.images), *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.head = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    @torch.no_grad()
    def shrink(self, amount: float) -> None:
        """Shorten what each number of the vector feeds into the first layer by ``amount``, down to nothing: the
        proximal step of a group lasso (Yuan and Lin 2006), after which numbers that say little are not looked at."""
        first = next(layer for layer in self.head if isinstance(layer, nn.Linear))
        columns = first.weight[:, : self.inputs.size]
        columns.mul_((1.0 - amount / columns.norm(dim=0).clamp(min=1e-12)).clamp(min=0.0))

    def used(self) -> int:
        """How many numbers of the vector it looks at."""
        first = next(layer for layer in self.head if isinstance(layer, nn.Linear))
        return int((first.weight[:, : self.inputs.size].norm(dim=0) > 0.0).sum())

    def vector(self, observation: Mapping[str, Tensor]) -> Tensor:
        """(B, D) vector, not standardised, of observations (B, *shape)."""
        count = len(next(iter(observation.values())))
        parts = [observation[key].reshape(count, -1).float() for key in self.inputs.vector]
        return torch.cat(parts, -1) if parts else torch.zeros(count, 0)

    def standardised(self, vector: Tensor) -> Tensor:
        """``(x - mean) / std``, clipped to +-10."""
        return ((vector - self.mean) / self.std).clamp(-10.0, 10.0)

    def logits(self, vector: Tensor, images: Mapping[str, Tensor]) -> Tensor:
        """(B,) logits of standardised vectors and images."""
        seen = [camera(images[key]) for key, camera in zip(self.inputs.images, self.cameras, strict=True)]
        out: Tensor = self.head(torch.cat([vector, *seen], -1))
        return out[:, 0]

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """(B,) logits of observations (B, *shape)."""
        return self.logits(self.standardised(self.vector(observation)), observation)
