"""The hyperparameters that diffusion and flow policies share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from robolearn.core.checks import at_least, positive, within
from robolearn.policies.parts.chunking import Execution


@dataclass(frozen=True)
class ChunkConfig:
    """Hyperparameters of a policy that generates chunks of actions.

    Attributes:
        net: denoiser: ``mlp`` (residual MLP), ``unet`` (1-D U-Net) or ``transformer`` (causal).
        chunk: actions of a plan; a U-Net needs a multiple of 2 to the number of its levels less one.
        history: observation frames the plan is conditioned on.
        execution: how plans are executed.
        inference_steps: network evaluations per plan.
        mlp_width, mlp_blocks: size of the MLP.
        unet_channels: of the U-Net's levels; (56, 112, 224) has about 4 million parameters.
        transformer_width, transformer_layers, transformer_heads: size of the transformer.
        batch: rows of one gradient step.
        updates: gradient steps in all; later ``update`` calls change nothing.
        updates_per_call: gradient steps per ``update`` call.
        lr: learning rate after the warm-up; it falls to zero along a half cosine over ``updates``.
        warmup: gradient steps over which the learning rate rises from zero.
        weight_decay: decoupled weight decay (AdamW).
        grad_clip: largest gradient norm; 0 for no limit.
        ema_cap: largest decay of the average of the weights that acts.
        mask_padding: leave actions after the end of an episode out of the loss; else the last one is repeated.
        symmetry: learn from each row in a view drawn from the symmetries that the task declares.
        observation_noise: standard deviation of noise added to standardised observations while learning.
        std_floor: smallest standard deviation an observation is divided by.
        observation_clip: standardised observations are clipped to this.
        image_channels: output channels of the stride-2 convolutions, per camera.
        image_width: size of the embedding of one camera.
        shift_pad: largest random shift of an image [pixels]; 0 for none.
    """

    net: Literal["mlp", "unet", "transformer"] = "mlp"
    chunk: int = 8
    history: int = 1
    execution: Execution = field(default_factory=lambda: Execution(execute=2))
    inference_steps: int = 10
    mlp_width: int = 256
    mlp_blocks: int = 3
    unet_channels: tuple[int, ...] = (32, 64, 128)
    transformer_width: int = 128
    transformer_layers: int = 4
    transformer_heads: int = 4
    batch: int = 128
    updates: int = 5_000
    updates_per_call: int = 10
    lr: float = 1e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    grad_clip: float = 1.0
    ema_cap: float = 0.9999
    mask_padding: bool = False
    symmetry: bool = True
    observation_noise: float = 0.0
    std_floor: float = 0.1
    observation_clip: float = 10.0
    image_channels: tuple[int, ...] = (16, 32, 32, 32)
    image_width: int = 64
    shift_pad: int = 4

    def __post_init__(self) -> None:
        at_least(self, 1, "chunk", "history", "inference_steps", "mlp_width", "mlp_blocks", "transformer_width")
        at_least(self, 1, "transformer_layers", "transformer_heads", "batch", "updates", "updates_per_call")
        at_least(self, 1, "image_width")
        positive(self, "lr", "std_floor", "observation_clip")
        at_least(self, 0, "warmup", "weight_decay", "grad_clip", "observation_noise", "shift_pad")
        within(self, 0, 1, "ema_cap", open_end=True)
        self.execution.check(self.chunk)
