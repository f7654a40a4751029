"""Behaviour cloning: regression of demonstrated actions, the baseline every learning curve is shown against.

    L = mean over rows of |f(s) - a|^2, AdamW, learning rate falling to zero along a half cosine over ``updates``.

It learns from the demonstration view alone and stops changing after ``updates`` gradient steps.
Train: ``robolearn train peg_insert --algo bc``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robolearn.core.checks import at_least, positive, within
from robolearn.core.errors import SpecError
from robolearn.core.protocols import Weights
from robolearn.core.spec import Array
from robolearn.core.types import Base, Batch, TaskSpec
from robolearn.policies.parts import mlp
from robolearn.policies.parts.acting import ActorShape, NetworkPolicy, acting_tensors, normaliser_tensors
from robolearn.policies.parts.flat import Adam, Flat
from robolearn.policies.parts.mlp import MlpShape, Workspace
from robolearn.policies.parts.observation import ObservationLayout
from robolearn.policies.parts.pixels import new_encoder, random_shift
from robolearn.policies.parts.state import Resumable, optimiser_tensors, to_arrays
from robolearn.policies.parts.symmetry import Augmentation

ONLINE = False
"""Learns from stored demonstrations alone; a run needs no acting robot."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters.

    Attributes:
        hidden: width of each hidden layer.
        layers: hidden layers.
        batch: rows of one gradient step.
        updates: gradient steps in all; later ``update`` calls change nothing.
        updates_per_call: gradient steps per ``update`` call.
        lr: learning rate at the start.
        weight_decay: decoupled weight decay (AdamW).
        dropout: dropout rate in the hidden layers.
        grad_clip: largest gradient norm; 0 for no limit.
        symmetry: learn from each row in a view drawn from the symmetries that the task declares.
        std_floor: smallest standard deviation an observation is divided by.
        observation_clip: standardised observations are clipped to this.
        image_channels: output channels of the stride-2 convolutions, per camera.
        image_width: size of the embedding of one camera.
        shift_pad: largest random shift of an image [pixels]; 0 for none.
    """

    hidden: int = 256
    layers: int = 2
    batch: int = 128
    updates: int = 20_000
    updates_per_call: int = 20
    lr: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    grad_clip: float = 0.0
    symmetry: bool = True
    std_floor: float = 0.3
    observation_clip: float = 10.0
    image_channels: tuple[int, ...] = (16, 32, 32, 32)
    image_width: int = 64
    shift_pad: int = 4

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "layers", "batch", "updates", "updates_per_call", "image_width", of="bc.")
        positive(self, "lr", "std_floor", "observation_clip", of="bc.")
        within(self, 0, 1, "dropout", of="bc.", open_end=True)


def build_policy(
    config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu", base: Base | None = None
) -> NetworkPolicy:
    """A policy that acts zero until it is given weights; it starts from nothing, ``base`` or not."""
    shape = ActorShape(
        hidden=(config.hidden,) * config.layers,
        outputs=spec.action.size,
        observation_clip=config.observation_clip,
        image_channels=config.image_channels,
        image_width=config.image_width,
    )
    return NetworkPolicy(shape, spec, seed=seed, device=device)


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
    base: Base | None = None,
) -> BcLearner:
    """A learner for a task; ``statistics`` holds (mean, std) of the demonstrations per low-dimensional key."""
    return BcLearner(config, spec, seed=seed, device=device, statistics=statistics)


class BcLearner(Resumable):
    """See the module's docstring.

    Attributes:
        total_updates: gradient steps after which training is over.
    """

    def __init__(
        self,
        config: Config,
        spec: TaskSpec,
        *,
        seed: int,
        device: str,
        statistics: Mapping[str, tuple[Array, Array]],
    ) -> None:
        self.config, self._device = config, torch.device(device)
        self.horizon, self.gamma, self.history, self.chunk = 1, 1.0, 1, 0
        self.online, self.demo_fraction, self.total_updates = False, 1.0, config.updates
        self.batch_rows, self.updates_per_call = config.batch * config.updates_per_call, config.updates_per_call
        self._layout = ObservationLayout.of(spec)
        self._augmentation = Augmentation(spec, self._layout, enabled=config.symmetry)
        seen = self._augmentation.statistics(statistics)
        self._normaliser = self._layout.normaliser(seen, config.std_floor, config.observation_clip)
        self._rng = torch.Generator().manual_seed(seed)
        images, features = self._layout.images, self._layout.size
        encoder = new_encoder(images, config.image_channels, config.image_width, self._rng, self._device)
        self._encoder = encoder
        if encoder is not None:
            features += encoder.size
            self._encoder_adam = torch.optim.AdamW(encoder.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self._shape = MlpShape(1, features, (config.hidden,) * config.layers, spec.action.size)
        self._actor = Flat(self._shape.parameters, self._device)
        self._shape.initialise(self._actor, self._rng)
        self._work = Workspace(self._shape, config.batch, self._device)
        self._adam = Adam(self._actor, config.lr, grad_clip=config.grad_clip, weight_decay=config.weight_decay)

    @property
    def updates(self) -> int:
        """Gradient steps made so far."""
        return int(self._adam.step_count)

    def update(self, batch: Batch) -> dict[str, float]:
        """``updates_per_call`` gradient steps on a batch of ``batch_rows`` rows.

        Raises:
            SpecError: the batch has another number of rows.
        """
        config, done = self.config, self.updates
        if len(batch.action) != self.batch_rows:
            raise SpecError(f"bc: expected a batch of {self.batch_rows} rows, got {len(batch.action)}")
        losses = []
        with torch.no_grad():
            views = self._augmentation.draw(self.batch_rows, self._rng)
            seen = self._augmentation.vectors(self._layout.concatenate_batch(batch.observation), views)
            vector = self._tensor(self._normaliser(seen))
            action = self._tensor(np.array(self._augmentation.actions(batch.action, views), dtype=np.float32))
            images = {key: self._tensor(np.array(batch.observation[key])) for key, _ in self._layout.images}
            for k in range(min(config.updates_per_call, config.updates - done)):
                rows = slice(k * config.batch, (k + 1) * config.batch)
                rate = 0.5 * config.lr * (1.0 + math.cos(math.pi * (done + k) / config.updates))
                features = self._features(vector[rows], {key: image[rows] for key, image in images.items()})
                losses.append(self._step(features, action[rows], rate))
        if not losses:
            return {"bc_loss": math.nan, "lr": 0.0}
        return {"bc_loss": float(torch.stack(losses).mean()), "lr": rate}

    def _step(self, features: Tensor, action: Tensor, rate: float) -> Tensor:
        masks = mlp.dropout_masks(self._shape, len(action), self.config.dropout, self._rng, self._device)
        out = mlp.forward(self._shape, self._actor.views, features.detach(), self._work, masks=masks)
        error = out - action
        d_out = error * (2.0 / len(action))
        wanted = self._encoder is not None
        d_in = mlp.backward(
            self._shape, self._actor.views, self._work, d_out, grads=self._adam.grads.views, input_grad=wanted
        )
        self._adam.learning_rate = rate
        self._adam.step()
        if d_in is not None:
            self._encoder_adam.param_groups[0]["lr"] = rate
            self._encoder_adam.zero_grad()
            torch.autograd.backward(features, d_in)
            self._encoder_adam.step()
        return error.square().sum(-1).mean()

    def _features(self, vector: Tensor, images: Mapping[str, Tensor]) -> Tensor:
        if self._encoder is None:
            return vector
        shifted = {key: random_shift(image, self.config.shift_pad, self._rng) for key, image in images.items()}
        with torch.enable_grad():
            return torch.cat([self._encoder(shifted), vector], -1)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def snapshot(self) -> Weights:
        """Network, image encoder and normaliser (copies)."""
        return to_arrays(acting_tensors(self._actor, self._encoder) | normaliser_tensors(self._normaliser))

    def _everything(self) -> dict[str, Tensor]:
        named = (
            acting_tensors(self._actor, self._encoder)
            | normaliser_tensors(self._normaliser)
            | self._adam.tensors("adam")
        )
        if self._encoder is not None:
            named |= optimiser_tensors(self._encoder_adam, "encoder_adam")
        return named
