"""The learner of generative policies: regression of what a process asks for, on chunks of demonstrated actions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.protocols import Weights
from robolearn.core.spec import Array
from robolearn.core.types import Base, ChunkBatch, TaskSpec
from robolearn.policies.parts.acting import normaliser_tensors
from robolearn.policies.parts.chunk_config import ChunkConfig
from robolearn.policies.parts.chunk_model import ChunkModel
from robolearn.policies.parts.ema import average_of, follow
from robolearn.policies.parts.generation import Process
from robolearn.policies.parts.observation import Normaliser, ObservationLayout, Statistics
from robolearn.policies.parts.state import Resumable, load_arrays, optimiser_tensors, to_arrays
from robolearn.policies.parts.symmetry import Augmentation


class ChunkLearner(Resumable):
    """Learns L = mean of |network(noisy, t, observation) - target|^2 over the actions that count.

    An action counts if it belongs to the demonstration view and, with ``mask_padding``, to the episode. AdamW; an
    average of the weights is what is published.

    Args:
        config: hyperparameters.
        spec: the task.
        process: makes noisy actions and targets.
        seed: of parameters and noise.
        device: where it learns.
        statistics: (mean, std) of the demonstrations per low-dimensional key; unused with a base.
        base: weights and normaliser to start from.
        online: goes on learning while robots act: the learning rate stays, and there is no last update.

    Attributes:
        total_updates: gradient steps after which training is over; 0 for never.
    """

    horizon, gamma, demo_fraction = 1, 1.0, 1.0

    def __init__(
        self,
        config: ChunkConfig,
        spec: TaskSpec,
        process: Process,
        *,
        seed: int,
        device: str,
        statistics: Statistics,
        base: Base | None = None,
        online: bool = False,
    ) -> None:
        self.config, self._process, self._device = config, process, torch.device(device)
        self.online, self.total_updates = online, 0 if online else config.updates
        self.history, self.chunk = config.history, config.chunk
        self.batch_rows, self.updates_per_call = config.batch * config.updates_per_call, config.updates_per_call
        self._layout = ObservationLayout.of(spec)
        self._augmentation = Augmentation(spec, self._layout, enabled=config.symmetry)
        self._rng = torch.Generator().manual_seed(seed)
        self._model = ChunkModel(config, self._layout, spec.action.size, seed=seed).to(self._device)
        self._average = average_of(self._model)
        self._parameters = list(self._model.parameters())
        self._adam = torch.optim.AdamW(self._parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self._updates = torch.zeros((), dtype=torch.int64)
        if base is None:
            seen = self._augmentation.statistics(statistics)
            self._normaliser = self._layout.normaliser(seen, config.std_floor, config.observation_clip)
        else:
            self._start_from(base.weights)

    def _start_from(self, weights: Weights) -> None:
        blank = np.zeros(self._layout.size, np.float32)
        self._normaliser = Normaliser(blank, blank.copy(), self.config.observation_clip)
        load_arrays("weights of the base", self._published(), weights)
        self._model.load_state_dict(self._average.state_dict())

    @property
    def updates(self) -> int:
        """Gradient steps made so far."""
        return int(self._updates)

    def update(self, batch: ChunkBatch) -> dict[str, float]:
        """``updates_per_call`` gradient steps on a batch of ``batch_rows`` rows.

        Raises:
            SpecError: the batch has another size, or holds numbers that are not finite.
        """
        config, done = self.config, self.updates
        self._check(batch)
        vector, action, weight = self._prepared(batch)
        count = config.updates_per_call
        if self.total_updates:
            count = min(count, self.total_updates - done)
        losses, norms = [], []
        for k in range(count):
            rows = slice(k * config.batch, (k + 1) * config.batch)
            images = {key: self._tensor(np.array(batch.observation[key][rows])) for key, _ in self._layout.images}
            loss, norm = self._step(vector[rows], images, action[rows], weight[rows])
            losses.append(loss)
            norms.append(norm)
        if not losses:
            return {"loss": math.nan, "grad_norm": math.nan, "lr": 0.0}
        mean = float(torch.stack(losses).mean())
        return {"loss": mean, "grad_norm": float(torch.stack(norms).mean()), "lr": self._rate(self.updates - 1)}

    def _check(self, batch: ChunkBatch) -> None:
        expected = (self.batch_rows, self.chunk)
        if batch.action.shape[:2] != expected:
            raise SpecError(f"expected a batch of {expected} actions (rows, chunk), got {batch.action.shape[:2]}")
        arrays = {f"observation '{key}'": batch.observation[key] for key, _ in self._layout.vector}
        for name, array in (arrays | {"action": batch.action}).items():
            if not np.isfinite(array).all():
                bad = int((~np.isfinite(array)).reshape(len(array), -1).any(1).sum())
                raise SpecError(f"{name}: {bad} of {len(array)} rows hold NaN or infinite numbers; repair the data")

    def _prepared(self, batch: ChunkBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised observations (N, To, V), actions (N, H, A) and what they count (N, H), each row in its view."""
        rows, frames, chunk = len(batch.action), self.history, self.chunk
        views = self._augmentation.draw(rows, self._rng)
        seen = self._augmentation.vectors(self._layout.concatenate_batch(batch.observation), np.repeat(views, frames))
        vector = torch.from_numpy(self._normaliser(seen)).view(rows, frames, -1)
        if self.config.observation_noise:
            vector += self.config.observation_noise * torch.randn(vector.shape, generator=self._rng)
        flat = np.array(batch.action, dtype=np.float32).reshape(rows * chunk, -1)
        action = self._augmentation.actions(flat, np.repeat(views, chunk)).reshape(batch.action.shape)
        counts = batch.action_demo & ~batch.action_pad if self.config.mask_padding else batch.action_demo
        return vector.to(self._device), self._tensor(action), self._tensor(np.array(counts, np.float32))

    def _step(
        self, vector: Tensor, images: Mapping[str, Tensor], action: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        noisy, time, target = self._process.corrupt(action, self._rng)
        condition = self._model.condition(vector, images, self._rng)
        error = (self._model.denoiser(noisy, time, condition) - target).square().mean(-1)
        loss = (error * weight).sum() / weight.sum().clamp(min=1.0)
        self._adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, config.grad_clip or math.inf)
        self._adam.param_groups[0]["lr"] = self._rate(self.updates)
        self._adam.step()
        follow(self._average, self._model, self.updates, config.ema_cap)
        self._updates += 1
        return loss.detach(), norm.detach()

    def _rate(self, step: int) -> float:
        """Learning rate of update ``step``: a line up, then half a cosine down, or level where there is no end."""
        config = self.config
        if step < config.warmup:
            return config.lr * (step + 1) / config.warmup
        if not self.total_updates:
            return config.lr
        share = (step - config.warmup) / max(1, self.total_updates - config.warmup)
        return 0.5 * config.lr * (1.0 + math.cos(math.pi * share))

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def snapshot(self) -> Weights:
        """Averaged network and normaliser (copies)."""
        return to_arrays(self._published())

    def _published(self) -> dict[str, Tensor]:
        named = {f"model.{name}": tensor for name, tensor in self._average.state_dict().items()}
        return named | normaliser_tensors(self._normaliser)

    def _everything(self) -> dict[str, Tensor]:
        newest = {f"newest.{name}": tensor for name, tensor in self._model.state_dict().items()}
        return self._published() | newest | optimiser_tensors(self._adam, "adam") | {"updates": self._updates}


def check_base(family: str, config: ChunkConfig, base: Base | None) -> None:
    """Whether a base can be started from: the same family and network.

    Raises:
        ConfigError: it cannot.
    """
    if base is None:
        return
    if base.algo != family:
        raise ConfigError(f"{family} can start from a {family} run, not from one of {base.algo}")
    fields = ["net", "chunk", "history"]
    fields += {"mlp": ["mlp_width", "mlp_blocks"], "unet": ["unet_channels"]}.get(
        config.net, ["transformer_width", "transformer_layers", "transformer_heads"]
    )
    differ = [
        f"{name} {getattr(base.config, name)} (here {getattr(config, name)})"
        for name in fields
        if getattr(base.config, name) != getattr(config, name)
    ]
    if differ:
        raise ConfigError(f"the base has another network: {', '.join(differ)}; use its values")
