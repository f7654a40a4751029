"""RLPD: soft actor-critic that learns from demonstrations and its own experience at once (Ball et al. 2023).

Each ``update`` makes UTD critic updates and then one actor and one temperature update, on a batch whose every slice is
half demonstrations. With E critics, M of them (drawn afresh, without replacement) in each target:

    y     = r + gamma * discount * min_{i in M} Qbar_i(s', a'),   a' ~ pi(s')   [- gamma * discount * alpha * log pi]
    L_Q   = mean_{i in E, batch} (Q_i(s, a) - y)^2
    Qbar <- Qbar + tau * (Q - Qbar)
    L_pi  = mean(alpha * log pi(a~|s) - mean_{i in E} Q_i(s, a~))               [+ w * |tanh(mu(s)) - a|^2 on demos]
    L_al  = alpha * (-log pi(a~|s) - H)

``discount`` is 0 for terminal rows and 1 for time-outs. Train: ``robolearn train peg_insert --algo rlpd``; speed:
``python bench/bench_rlpd.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.protocols import Weights
from robolearn.core.spec import Array
from robolearn.core.types import Batch, TaskSpec
from robolearn.policies.parts import mlp, tanh_normal
from robolearn.policies.parts.acting import ActorShape, NetworkPolicy, acting_tensors, normaliser_tensors
from robolearn.policies.parts.average import ActorAverage
from robolearn.policies.parts.ensemble import CriticEnsemble
from robolearn.policies.parts.flat import Adam, Flat
from robolearn.policies.parts.mlp import MlpShape, Precision, Workspace
from robolearn.policies.parts.observation import ObservationLayout
from robolearn.policies.parts.pixels import Encoder, random_shift
from robolearn.policies.parts.state import Resumable, optimiser_tensors, to_arrays
from robolearn.policies.parts.symmetry import Augmentation

ONLINE = True
"""Learns while robots act."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are the profile that trains peg insertion on two CPU cores.

    Attributes:
        critics: ensemble size E.
        target_critics: critics M in the minimum of each target.
        hidden: width of each hidden layer of actor and critics.
        layers: hidden layers of actor and critics.
        batch: rows of one critic update, demonstrations included.
        pretrain: update calls on demonstrations alone before the robot acts, outside the update-to-data ratio.
        utd: critic updates per ``update`` call; one actor and temperature update follows.
        demo_fraction: share of each batch from the demonstration view.
        actor_lr, critic_lr, temperature_lr: Adam learning rates.
        gamma: discount per policy step.
        n_step: rows in the return of a sample; more carry a rare reward back faster.
        tau: share of the critics that enters the targets after each critic update.
        actor_average: share of the actor that enters the running average that acts greedily, after each actor update;
            the newest actor explores.
        noise_scale: lowest and highest factor on the noise of an exploring episode, drawn anew for each: some search
            widely, some try what is known, and success comes earlier.
        init_temperature: initial entropy weight alpha; 1 swamps a sparse 0/1 reward.
        target_entropy_per_dim: entropy aimed at, per action dimension [nat].
        backup_entropy: count the next action's entropy as reward.
        bc_weight: weight w of imitating demonstration rows in the actor's loss.
        symmetry: learn from each row in a view drawn from the symmetries that the task declares.
        layer_norm: LayerNorm in the critics.
        dropout: dropout rate in the critics.
        grad_clip: largest gradient norm of actor and critics; 0 for no limit.
        log_std_min, log_std_max: bounds of the actor's log standard deviation.
        std_floor: smallest standard deviation an observation is divided by.
        observation_clip: standardised observations are clipped to this.
        precision: of the critics' matrix products; parameters, targets and losses are always fp32.
        image_channels: output channels of the stride-2 convolutions, per camera.
        image_width: size of the embedding of one camera.
        shift_pad: largest random shift of an image [pixels]; 0 for none.
    """

    critics: int = 4
    target_critics: int = 2
    hidden: int = 128
    layers: int = 2
    batch: int = 128
    utd: int = 16
    pretrain: int = 500
    demo_fraction: float = 0.5
    actor_lr: float = 6e-4
    critic_lr: float = 6e-4
    temperature_lr: float = 6e-4
    gamma: float = 0.97
    n_step: int = 3
    tau: float = 0.02
    actor_average: float = 0.01
    noise_scale: tuple[float, float] = (0.0, 1.0)
    init_temperature: float = 0.01
    target_entropy_per_dim: float = -0.5
    backup_entropy: bool = False
    bc_weight: float = 0.3
    symmetry: bool = True
    layer_norm: bool = True
    dropout: float = 0.0
    grad_clip: float = 0.0
    log_std_min: float = -20.0
    log_std_max: float = 2.0
    std_floor: float = 0.3
    observation_clip: float = 10.0
    precision: Precision = "fp32"
    image_channels: tuple[int, ...] = (16, 32, 32, 32)
    image_width: int = 64
    shift_pad: int = 4

    def __post_init__(self) -> None:
        for name in ("critics", "target_critics", "hidden", "layers", "batch", "utd", "n_step", "image_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rlpd.{name} is {getattr(self, name)}; it must be at least 1")
        if self.target_critics > self.critics:
            raise ConfigError(f"rlpd.target_critics is {self.target_critics}, more than rlpd.critics ({self.critics})")
        for name in ("gamma", "tau", "actor_average", "demo_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"rlpd.{name} is {getattr(self, name)}; it must lie within [0, 1]")
        for name in ("actor_lr", "critic_lr", "temperature_lr", "init_temperature", "std_floor", "observation_clip"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"rlpd.{name} is {getattr(self, name)}; it must be positive")
        if not self.actor_average > 0.0:
            raise ConfigError("rlpd.actor_average is 0; nothing would ever reach the greedy policy")
        if not 0.0 <= self.noise_scale[0] <= self.noise_scale[1]:
            raise ConfigError(f"rlpd.noise_scale is {self.noise_scale}; expected 0 <= lowest <= highest")
        if self.pretrain < 0:
            raise ConfigError(f"rlpd.pretrain is {self.pretrain}; it must be at least 0")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"rlpd.dropout is {self.dropout}; it must lie within [0, 1)")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"rlpd.precision is '{self.precision}'; it must be fp32 or bf16")


REFERENCE = Config(
    critics=10,
    hidden=256,
    batch=256,
    utd=20,
    pretrain=0,
    n_step=1,
    tau=0.005,
    actor_average=1.0,
    noise_scale=(1.0, 1.0),
    actor_lr=3e-4,
    critic_lr=3e-4,
    temperature_lr=3e-4,
    gamma=0.99,
    init_temperature=1.0,
    backup_entropy=True,
    bc_weight=0.0,
    symmetry=False,
    std_floor=0.05,
)
"""The published setting for locomotion (github.com/ikostrikov/rlpd)."""


def _actor_shape(config: Config, spec: TaskSpec) -> ActorShape:
    return ActorShape(
        hidden=(config.hidden,) * config.layers,
        outputs=2 * spec.action.size,
        observation_clip=config.observation_clip,
        log_std=(config.log_std_min, config.log_std_max),
        image_channels=config.image_channels,
        image_width=config.image_width,
        averaged=True,
        noise_scale=config.noise_scale,
    )


def build_policy(config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu") -> NetworkPolicy:
    """A policy that acts with noise around zero until it is given weights."""
    return NetworkPolicy(_actor_shape(config, spec), spec, seed=seed, device=device)


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
) -> RlpdLearner:
    """A learner for a task; ``statistics`` holds (mean, std) of the demonstrations per low-dimensional key."""
    return RlpdLearner(config, spec, seed=seed, device=device, statistics=statistics)


@dataclass(frozen=True)
class _Rows:
    """A whole batch on the learner's device; standardised vectors, raw images."""

    vector: Tensor
    next_vector: Tensor
    images: dict[str, Tensor]
    next_images: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    discount: Tensor
    demo: Tensor


@dataclass(frozen=True)
class _Mini:
    """One critic update's rows: features of s, critic inputs (s, a) and (s', a'), log pi(a'|s')."""

    features: Tensor
    inputs: Tensor
    next_inputs: Tensor
    next_log_density: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    demo: Tensor


class RlpdLearner(Resumable):
    """See the module's docstring. All random numbers come from one CPU generator, whatever the device."""

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
        self.online = True
        self.batch_rows, self.updates_per_call = config.utd * config.batch, config.utd
        self.demo_fraction, self.horizon, self.gamma = config.demo_fraction, config.n_step, config.gamma
        self._layout = ObservationLayout.of(spec)
        self._augmentation = Augmentation(spec, self._layout, enabled=config.symmetry)
        seen = self._augmentation.statistics(statistics)
        self._normaliser = self._layout.normaliser(seen, config.std_floor, config.observation_clip)
        self._rng = torch.Generator().manual_seed(seed)
        self._target_entropy = config.target_entropy_per_dim * spec.action.size

        self._encoder: Encoder | None = None
        features = self._layout.size
        if self._layout.images:
            encoder = Encoder(self._layout.images, config.image_channels, config.image_width, self._rng)
            self._encoder = encoder.to(self._device)
            self._encoder_adam = torch.optim.Adam(self._encoder.parameters(), lr=config.critic_lr)
            features += self._encoder.size
        hidden, self._actions = (config.hidden,) * config.layers, spec.action.size
        self._critic_shape = MlpShape(config.critics, features + self._actions, hidden, 1, config.layer_norm)
        self._actor_shape = MlpShape(1, features, hidden, 2 * self._actions)
        self._critic, self._actor = (
            Flat(shape.parameters, self._device) for shape in (self._critic_shape, self._actor_shape)
        )
        self._critic_shape.initialise(self._critic, self._rng)
        self._actor_shape.initialise(self._actor, self._rng)
        self._average = ActorAverage(self._actor, self._encoder, config.actor_average)
        rows = config.batch if self._encoder else self.batch_rows
        self._actor_work = Workspace(self._actor_shape, config.batch, self._device)
        self._drawn_shape = replace(self._critic_shape, members=config.target_critics)
        self._drawn = Flat(self._drawn_shape.parameters, self._device)
        self._target_work = Workspace(self._drawn_shape, config.batch, self._device, gradients=False)
        self._ahead_work = Workspace(self._actor_shape, rows, self._device, gradients=False)
        self._target = self._critic.like()
        self._target.data.copy_(self._critic.data)
        self._log_temperature = Flat({"value": (1,)}, self._device)
        self._log_temperature.data.fill_(math.log(config.init_temperature))
        self._critic_adam = Adam(self._critic, config.critic_lr, grad_clip=config.grad_clip)
        self._critics = CriticEnsemble(
            self._critic_shape, self._critic, self._critic_adam.grads, config.batch, precision=config.precision
        )
        self._actor_adam = Adam(self._actor, config.actor_lr, grad_clip=config.grad_clip)
        self._temperature_adam = Adam(self._log_temperature, config.temperature_lr)

    # ---------------------------------------------------------------- learning

    def update(self, batch: Batch) -> dict[str, float]:
        """UTD critic updates, then one of the actor and the temperature, on a batch of ``batch_rows`` rows.

        Raises:
            SpecError: the batch has another number of rows.
        """
        config = self.config
        with torch.no_grad():
            rows = self._rows(batch)
            subsets = torch.rand(config.utd, config.critics, generator=self._rng).topk(config.target_critics).indices
            minis = self._state_minis(rows) if self._encoder is None else self._pixel_minis(rows)
            errors, values = [], []
            for mini, subset in zip(minis, subsets.to(self._device), strict=True):
                error, q = self._update_critic(mini, self._target_values(mini, subset))
                errors.append(error)
                values.append(q)
            metrics = self._update_actor(mini)
            q = torch.stack(values)
            metrics |= {"critic_loss": torch.stack(errors).square().mean(), "q_mean": q.mean(), "q_max": q.max()}
            numbers = torch.stack(list(metrics.values())).tolist()
        return dict(zip(metrics, numbers, strict=True))

    def _target_values(self, mini: _Mini, subset: Tensor) -> Tensor:
        """y (B,)."""
        config, work = self.config, self._target_work
        torch.index_select(self._target.networks, 0, subset, out=self._drawn.networks)
        q = mlp.forward(self._drawn_shape, self._drawn.views, mini.next_inputs, work, precision=config.precision)
        value = q[:, :, 0].amin(0)
        if config.backup_entropy:
            value -= self._log_temperature.data[0].exp() * mini.next_log_density
        return torch.addcmul(mini.reward, mini.discount, value, value=config.gamma)

    def _update_critic(self, mini: _Mini, target: Tensor) -> tuple[Tensor, Tensor]:
        """One step of all critics (and the image encoder) towards ``target``; Q - y and Q, each (E, B, 1)."""
        config = self.config
        masks = mlp.dropout_masks(self._critic_shape, config.batch, config.dropout, self._rng, self._device)
        errors, q, d_inputs = self._critics.regress(
            mini.inputs, target, masks=masks, input_grad=self._encoder is not None
        )
        self._critic_adam.step()
        self._target.data.lerp_(self._critic.data, config.tau)
        if d_inputs is not None:
            self._encoder_adam.zero_grad()
            torch.autograd.backward(mini.features, d_inputs[:, : -self._actions])
            self._encoder_adam.step()
        return errors, q

    def _update_actor(self, mini: _Mini) -> dict[str, Tensor]:
        """One step of actor and temperature."""
        config, shape, features = self.config, self._actor_shape, mini.features.detach()
        temperature = self._log_temperature.data[0].exp()
        raw, noise = mlp.forward(shape, self._actor.views, features, self._actor_work)[0], self._noise(config.batch)
        mean, log_std = tanh_normal.split(raw, config.log_std_min, config.log_std_max)
        action, log_density = tanh_normal.sample(mean, log_std, noise)
        value, d_inputs = self._critics.ascend(torch.cat([features, action], -1))
        d_value = d_inputs[:, -self._actions :]
        d_raw = tanh_normal.actor_gradient(raw, noise, d_value, temperature, config.log_std_min, config.log_std_max)
        if config.bc_weight > 0.0:
            d_raw[:, : self._actions] += config.bc_weight * _imitation_gradient(mean, mini)
        mlp.backward(shape, self._actor.views, self._actor_work, d_raw[None], grads=self._actor_adam.grads.views)
        self._actor_adam.step()
        self._average.update(self._actor_adam.step_count)
        entropy = -log_density.mean()
        self._temperature_adam.grads.data[0] = temperature * (entropy - self._target_entropy)
        self._temperature_adam.step()
        return {"actor_loss": -temperature * entropy - value, "entropy": entropy, "temperature": temperature}

    # ------------------------------------------------------------------ inputs

    def _state_minis(self, rows: _Rows) -> Iterator[_Mini]:
        """Minibatches in order. The actor stands still meanwhile, so all next actions are drawn at once."""
        inputs = torch.cat([rows.vector, rows.action], -1)
        next_inputs, log_density = self._next_inputs(rows.next_vector)
        columns = (rows.vector, inputs, next_inputs, log_density, rows.action, rows.reward, rows.discount, rows.demo)
        for k in range(self.config.utd):
            part = slice(k * self.config.batch, (k + 1) * self.config.batch)
            yield _Mini(*(column[part] for column in columns))

    def _pixel_minis(self, rows: _Rows) -> Iterator[_Mini]:
        """Minibatches in order, each encoded only when it is asked for: the encoder learns in between."""
        for k in range(self.config.utd):
            part = slice(k * self.config.batch, (k + 1) * self.config.batch)
            action = rows.action[part]
            with torch.enable_grad():
                features = self._features(rows.vector[part], rows.images, part)
            next_inputs, log_density = self._next_inputs(self._features(rows.next_vector[part], rows.next_images, part))
            inputs = torch.cat([features.detach(), action], -1)
            tail = (action, rows.reward[part], rows.discount[part], rows.demo[part])
            yield _Mini(features, inputs, next_inputs, log_density, *tail)

    def _features(self, vector: Tensor, images: Mapping[str, Tensor], part: slice) -> Tensor:
        """(B, F): embeddings of randomly shifted images beside the vector."""
        if self._encoder is None:
            return vector
        pad = self.config.shift_pad
        shifted = {key: random_shift(image[part], pad, self._rng) for key, image in images.items()}
        return torch.cat([self._encoder(shifted), vector], -1)

    def _next_inputs(self, next_features: Tensor) -> tuple[Tensor, Tensor]:
        """Critic inputs (s', a') with a' ~ pi(s'), and log pi(a'|s') (zeros when the backup ignores entropy)."""
        raw = mlp.forward(self._actor_shape, self._actor.views, next_features, self._ahead_work)[0]
        mean, log_std = tanh_normal.split(raw, self.config.log_std_min, self.config.log_std_max)
        noise = self._noise(len(raw))
        if self.config.backup_entropy:
            action, log_density = tanh_normal.sample(mean, log_std, noise)
        else:
            action, log_density = tanh_normal.draw(mean, log_std, noise), raw.new_zeros(len(raw))
        return torch.cat([next_features, action], -1), log_density

    def _rows(self, batch: Batch) -> _Rows:
        if len(batch.action) != self.batch_rows:
            raise SpecError(f"rlpd: expected a batch of {self.batch_rows} rows, got {len(batch.action)}")
        views = self._augmentation.draw(self.batch_rows, self._rng)
        action = np.clip(batch.action, -tanh_normal.ACTION_LIMIT, tanh_normal.ACTION_LIMIT)
        action = self._augmentation.actions(action, views)
        return _Rows(
            self._tensor(self._standardise(batch.observation, views)),
            self._tensor(self._standardise(batch.next_observation, views)),
            {key: self._images(batch.observation[key]) for key, _ in self._layout.images},
            {key: self._images(batch.next_observation[key]) for key, _ in self._layout.images},
            self._tensor(action.astype(np.float32)),
            self._tensor(np.array(batch.reward, dtype=np.float32)),
            self._tensor(np.array(batch.discount, dtype=np.float32)),
            self._tensor(np.array(batch.demo, dtype=np.float32)),
        )

    def _standardise(self, observation: Mapping[str, Array], views: Array) -> Array:
        return self._normaliser(self._augmentation.vectors(self._layout.concatenate_batch(observation), views))

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _images(self, array: Array) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device)

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self._actions, generator=self._rng).to(self._device)

    # ------------------------------------------------------------------- state

    def snapshot(self) -> Weights:
        """Actor and image encoder, newest and averaged, and the normaliser (copies)."""
        return to_arrays(self._acting())

    def _acting(self) -> dict[str, Tensor]:
        newest = acting_tensors(self._actor, self._encoder)
        return newest | self._average.tensors() | normaliser_tensors(self._normaliser)

    def _everything(self) -> dict[str, Tensor]:
        named = self._acting()
        named |= {f"critic.{name}": view for name, view in self._critic.views.items()}
        named |= {f"target.{name}": view for name, view in self._target.views.items()}
        named |= {"log_temperature": self._log_temperature.data[:1]}
        named |= self._critic_adam.tensors("critic_adam") | self._actor_adam.tensors("actor_adam")
        named |= self._temperature_adam.tensors("temperature_adam")
        if self._encoder is not None:
            named |= optimiser_tensors(self._encoder_adam, "encoder_adam")
        return named


def _imitation_gradient(mean: Tensor, mini: _Mini) -> Tensor:
    """Gradient (B, A), by the mean before the tanh, of |tanh(mean) - action|^2 averaged over demonstration rows."""
    greedy = mean.tanh()
    weight = (mini.demo / mini.demo.sum().clamp(min=1.0)).unsqueeze(-1)
    return 2.0 * weight * (greedy - mini.action) * (1.0 - greedy * greedy)
