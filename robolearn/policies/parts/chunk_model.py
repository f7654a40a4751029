"""The network of a policy that generates chunks: an encoder of observation frames and a denoiser."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robolearn.policies.parts.chunk_config import ChunkConfig
from robolearn.policies.parts.denoiser import Denoiser
from robolearn.policies.parts.observation import ObservationLayout
from robolearn.policies.parts.pixels import new_encoder, random_shift
from robolearn.policies.parts.residual_mlp import ResidualMlp
from robolearn.policies.parts.transformer import Transformer
from robolearn.policies.parts.unet import Unet


class ChunkModel(nn.Module):
    """Encoder and denoiser.

    Args:
        config: which network, and its size.
        layout: what an observation holds.
        actions: A.
        seed: of the initial parameters.

    Attributes:
        denoiser: the network over actions.
        encoder: of the images, None where there are none.
    """

    def __init__(self, config: ChunkConfig, layout: ObservationLayout, actions: int, *, seed: int) -> None:
        super().__init__()
        self._pad = config.shift_pad
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            self.encoder = new_encoder(layout.images, config.image_channels, config.image_width, generator, "cpu")
            features = layout.size + (self.encoder.size if self.encoder is not None else 0)
            self.denoiser = make_denoiser(config, actions, features)

    def condition(self, vector: Tensor, images: Mapping[str, Tensor], augment: torch.Generator | None = None) -> Tensor:
        """(B, To, D) features of frames.

        Args:
            vector: (B, To, V) standardised low-dimensional observations.
            images: key -> (B, To, H, W, C); all frames of a row are shifted alike.
            augment: where random shifts come from; without it there are none.
        """
        if self.encoder is None:
            return vector
        if augment is not None:
            images = {key: _shifted(image, self._pad, augment) for key, image in images.items()}
        rows, frames = vector.shape[:2]
        embedding: Tensor = self.encoder({key: image.flatten(0, 1) for key, image in images.items()})
        return torch.cat([embedding.view(rows, frames, -1), vector], -1)


def make_denoiser(config: ChunkConfig, actions: int, features: int) -> Denoiser:
    """The denoiser of a configuration, for A actions and D features per frame; initialised by torch's generator."""
    chunk, condition = config.chunk, config.history * features
    if config.net == "unet":
        return Unet(actions, chunk, condition, channels=config.unet_channels)
    if config.net == "transformer":
        return Transformer(
            actions, chunk, config.history, features,
            width=config.transformer_width, layers=config.transformer_layers, heads=config.transformer_heads,
        )  # fmt: skip
    return ResidualMlp(actions, chunk, condition, width=config.mlp_width, blocks=config.mlp_blocks)


def _shifted(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """(B, To, H, W, C), each row moved as one."""
    rows, frames, height, width, channels = images.shape
    flat = images.permute(0, 2, 3, 1, 4).reshape(rows, height, width, frames * channels)
    moved = random_shift(flat, pad, generator)
    return moved.view(rows, height, width, frames, channels).permute(0, 3, 1, 2, 4)
