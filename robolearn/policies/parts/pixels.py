"""Images: a small convolutional encoder per camera, and random-shift augmentation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from robolearn.core.spec import Array, Observation

Images = tuple[tuple[str, tuple[int, int, int]], ...]


def random_shift(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Each image (B, H, W, C) moved by up to ``pad`` pixels per axis, edges repeated (DrQ, Kostrikov et al. 2021).

    The offsets are drawn uniformly from {-pad, ..., pad}, independently per image and axis.
    """
    if pad == 0:
        return images
    count, height, width = images.shape[:3]
    offsets = torch.randint(-pad, pad + 1, (2, count, 1), generator=generator).to(images.device)
    rows = (torch.arange(height, device=images.device) + offsets[0]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=images.device) + offsets[1]).clamp_(0, width - 1)
    index = torch.arange(count, device=images.device)[:, None, None]
    return images[index, rows[:, :, None], columns[:, None, :]]


class CameraEncoder(nn.Module):
    """Convolutions 3x3 with stride 2 and ReLU, then Dense, LayerNorm, tanh: (B, H, W, C) uint8 -> (B, width)."""

    def __init__(self, shape: tuple[int, int, int], channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        height, columns, previous = shape
        convolutions: list[nn.Module] = []
        for channel in channels:
            convolutions += [nn.Conv2d(previous, channel, 3, stride=2, padding=1), nn.ReLU()]
            height, columns, previous = (height + 1) // 2, (columns + 1) // 2, channel
        self.convolutions = nn.Sequential(*convolutions)
        self.dense = nn.Linear(previous * height * columns, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """Embedding in (-1, 1) of images of values 0-255."""
        x = images.permute(0, 3, 1, 2).float().div_(255.0).sub_(0.5)
        embedding: Tensor = self.norm(self.dense(self.convolutions(x).flatten(1)))
        return embedding.tanh()


class Encoder(nn.Module):
    """One ``CameraEncoder`` per camera, embeddings side by side: key -> (B, H, W, C) to (B, cameras * width)."""

    def __init__(self, images: Images, channels: tuple[int, ...], width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.keys = [key for key, _ in images]
        self.cameras = nn.ModuleDict(
            {key.replace(".", "_"): CameraEncoder(shape, channels, width) for key, shape in images}
        )
        self.size = width * len(images)
        _initialise(self, generator)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """(B, size) embedding."""
        return torch.cat([self.cameras[key.replace(".", "_")](images[key]) for key in self.keys], dim=-1)

    def of_one(self, observation: Observation, device: str | torch.device) -> Array:
        """(size,) embedding of the images of one observation, for acting."""
        with torch.no_grad():
            images = {
                key: torch.from_numpy(np.ascontiguousarray(observation[key]))[None].to(device) for key in self.keys
            }
            embedding: Array = self(images)[0].cpu().numpy()
        return embedding


def new_encoder(
    images: Images, channels: tuple[int, ...], width: int, generator: torch.Generator, device: str | torch.device
) -> Encoder | None:
    """An encoder of a task's images, drawn on the CPU; None where there are none."""
    return Encoder(images, channels, width, generator).to(device) if images else None


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Orthogonal weights (gain sqrt 2 before a ReLU) and zero biases, from ``generator`` alone."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            gain = nn.init.calculate_gain("relu") if isinstance(layer, nn.Conv2d) else 1.0
            nn.init.orthogonal_(layer.weight, gain, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
