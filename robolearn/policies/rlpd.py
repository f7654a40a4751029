"""RLPD: soft actor-critic that learns from demonstrations and its own experience at once (Ball et al. 2023).

Each ``update`` makes UTD critic updates and then one actor and one temperature update (``actor_every``: more of them in
between), on a batch whose every slice is half demonstrations. With E critics, M of them (drawn afresh, without
replacement) in each target:

    y     = r + gamma * discount * min_{i in M} Qbar_i(s', a'),   a' ~ pi(s')   [- gamma * discount * alpha * log pi]
    L_Q   = mean_{i in E, batch} (Q_i(s, a) - y)^2
    Qbar <- Qbar + tau * (Q - Qbar)
    L_pi  = mean(alpha * log pi(a~|s) - mean_{i in E} Q_i(s, a~))               [+ w * |tanh(mu(s)) - a|^2 on demos]
    L_al  = alpha * (-log pi(a~|s) - H)

What the actor puts out is the action itself, or a correction of what a base would do (``parts/reach.py``).
``discount`` is 0 for terminal rows and 1 for time-outs. Train: ``robolearn train peg_insert --algo rlpd``; speed:
``python bench/bench_rlpd.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robolearn.core.checks import at_least, positive, within
from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Weights
from robolearn.core.spec import Array
from robolearn.core.types import Base, Batch, TaskSpec
from robolearn.policies.parts.acting import ActorShape, NetworkPolicy, normaliser_tensors
from robolearn.policies.parts.critics import Critics
from robolearn.policies.parts.divergence import DivergenceGuard
from robolearn.policies.parts.mlp import MlpShape, Precision
from robolearn.policies.parts.observation import ObservationLayout
from robolearn.policies.parts.pixels import new_encoder
from robolearn.policies.parts.reach import FULL_REACH, Reach, scattered
from robolearn.policies.parts.rows import Mini, Minibatches, RowReader
from robolearn.policies.parts.state import Resumable, optimiser_tensors, to_arrays
from robolearn.policies.parts.symmetry import Augmentation
from robolearn.policies.parts.tanh_actor import TanhActor, imitation_gradient

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
        actor_after: update calls, those of ``pretrain`` included, in which critics learn and the actor stands still.
        utd: critic updates per ``update`` call; one actor and temperature update follows.
        actor_every: critic updates from one actor and temperature update to the next within a call, the last of which
            ends it; 0 for that one only.
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
    actor_every: int = 0
    pretrain: int = 500
    actor_after: int = 0
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
        of = type(self).__module__.rpartition(".")[2] + "."
        at_least(self, 1, "critics", "target_critics", "hidden", "layers", "batch", "utd", of=of)
        at_least(self, 1, "n_step", "image_width", of=of)
        if self.target_critics > self.critics:
            raise ConfigError(f"{of}target_critics is {self.target_critics}, more than {of}critics ({self.critics})")
        within(self, 0, 1, "gamma", "tau", "actor_average", "demo_fraction", of=of)
        positive(self, "actor_lr", "critic_lr", "temperature_lr", "init_temperature", of=of)
        positive(self, "std_floor", "observation_clip", of=of)
        if not self.actor_average > 0.0:
            raise ConfigError(f"{of}actor_average is 0; nothing would ever reach the greedy policy")
        if not 0.0 <= self.noise_scale[0] <= self.noise_scale[1]:
            raise ConfigError(f"{of}noise_scale is {self.noise_scale}; expected 0 <= lowest <= highest")
        at_least(self, 0, "pretrain", "actor_after", "actor_every", of=of)
        within(self, 0, 1, "dropout", of=of, open_end=True)
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"{of}precision is '{self.precision}'; it must be fp32 or bf16")


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


def actor_shape(config: Config, spec: TaskSpec) -> ActorShape:
    """What a policy of this configuration needs to know of its network."""
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


def build_policy(
    config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu", base: Base | None = None
) -> NetworkPolicy:
    """A policy that acts with noise around zero until it is given weights; it starts from nothing, ``base`` or not."""
    return NetworkPolicy(actor_shape(config, spec), spec, seed=seed, device=device)


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
    base: Base | None = None,
) -> RlpdLearner:
    """A learner for a task; ``statistics`` holds (mean, std) of the demonstrations per low-dimensional key."""
    return RlpdLearner(config, spec, seed=seed, device=device, statistics=statistics)


class RlpdLearner(Resumable):
    """See the module's docstring. All random numbers come from one CPU generator, whatever the device.

    Args:
        config: hyperparameters.
        spec: of the task, with what a base adds to the observation.
        reach: how the actor's output becomes an action.
        offers: actions N of a base that the actor edits, and among which and the edited ones a target chooses; 0 for
            an actor that acts by itself.
        pretrain_bc_weight: weight w of imitation in the first ``pretrain`` calls; None: ``bc_weight``, as later.
        mixture: (filter, weight) of the parts of a batch; None for the replay's own two views.
        family: named in errors.
    """

    def __init__(
        self,
        config: Config,
        spec: TaskSpec,
        *,
        seed: int,
        device: str,
        statistics: Mapping[str, tuple[Array, Array]],
        reach: Reach = FULL_REACH,
        offers: int = 0,
        pretrain_bc_weight: float | None = None,
        mixture: tuple[tuple[str, float], ...] | None = None,
        family: str = "rlpd",
    ) -> None:
        self.config, self._device, self._reach = config, torch.device(device), reach
        self.online, self.mixture = True, mixture
        self.batch_rows, self.updates_per_call = config.utd * config.batch, config.utd
        self.demo_fraction, self.horizon, self.gamma = config.demo_fraction, config.n_step, config.gamma
        self.history, self.chunk = 1, 0
        self._layout = ObservationLayout.of(spec)
        augmentation = Augmentation(spec, self._layout, enabled=config.symmetry)
        seen = augmentation.statistics(statistics)
        self._normaliser = self._layout.normaliser(seen, config.std_floor, config.observation_clip)
        self._rng = torch.Generator().manual_seed(seed)
        self._actions = spec.action.size
        self._read = RowReader(
            family,
            self.batch_rows,
            self._layout,
            augmentation,
            self._normaliser,
            actions=self._actions,
            proposals=reach.proposals,
            rng=self._rng,
            device=self._device,
        )
        self._guard = DivergenceGuard(family, gamma=config.gamma)
        self._waited = torch.zeros(1)  # update calls without the actor
        self._pretrain_bc_weight, self._calls = pretrain_bc_weight, torch.zeros((), dtype=torch.int64)

        images, features = self._layout.images, self._layout.size
        self._encoder = new_encoder(images, config.image_channels, config.image_width, self._rng, self._device)
        if self._encoder is not None:
            self._encoder_adam = torch.optim.Adam(self._encoder.parameters(), lr=config.critic_lr)
            features += self._encoder.size
        self._minibatches = Minibatches(config.utd, config.batch, self._encoder, config.shift_pad, self._rng)
        hidden = (config.hidden,) * config.layers
        self._critics = Critics(
            MlpShape(config.critics, features + self._actions, hidden, 1, config.layer_norm),
            config.batch,
            drawn=config.target_critics,
            ahead=max(1, 2 * offers),
            learning_rate=config.critic_lr,
            grad_clip=config.grad_clip,
            tau=config.tau,
            dropout=config.dropout,
            precision=config.precision,
            rng=self._rng,
            device=self._device,
        )
        self._actor = TanhActor(
            MlpShape(1, features + self._actions * bool(reach.proposals), hidden, 2 * self._actions),
            config.batch,
            ahead=self._minibatches.rows_ahead * max(1, offers),
            learning_rate=config.actor_lr,
            temperature_lr=config.temperature_lr,
            grad_clip=config.grad_clip,
            log_std=(config.log_std_min, config.log_std_max),
            average=config.actor_average,
            init_temperature=config.init_temperature,
            target_entropy=config.target_entropy_per_dim * self._actions,
            encoder=self._encoder,
            init_log_std=reach.init_log_std,
            rng=self._rng,
            device=self._device,
        )

    # ---------------------------------------------------------------- learning

    def update(self, batch: Batch) -> dict[str, float]:
        """UTD critic updates with those of the actor and the temperature, on a batch of ``batch_rows`` rows.

        Raises:
            SpecError: the batch has another number of rows.
            TrainingDivergedError: values or losses have left what is possible.
        """
        config = self.config
        with torch.no_grad():
            rows = self._read(batch)
            subsets = torch.rand(config.utd, config.critics, generator=self._rng).topk(config.target_critics).indices
            errors, values = [], []
            minis = self._minibatches(rows, self._following)
            metrics: dict[str, Tensor] = {}
            waits = self._waits()
            for number, (mini, subset) in enumerate(zip(minis, subsets.to(self._device), strict=True), 1):
                error, q = self._update_critic(mini, self._target_values(mini, subset))
                errors.append(error)
                values.append(q)
                if not waits and (number == config.utd or (config.actor_every and number % config.actor_every == 0)):
                    metrics = self._update_actor(mini)
            q = torch.stack(values)
            metrics |= {"critic_loss": torch.stack(errors).square().mean(), "q_mean": q.mean(), "q_max": q.max()}
            numbers = torch.stack(list(metrics.values())).tolist()
        found = dict(zip(metrics, numbers, strict=True))
        bonus = found.get("temperature", 0.0) * found.get("entropy", 0.0) if config.backup_entropy else 0.0
        self._guard.saw(batch.reward, batch.discount, entropy=bonus)
        self._guard.check(found)
        self._calls += 1
        return found

    def _bc_weight(self) -> float:
        """Weight of imitation in this call."""
        if self._pretrain_bc_weight is None or int(self._calls) >= self.config.pretrain:
            return self.config.bc_weight
        return self._pretrain_bc_weight

    def _waits(self) -> bool:
        """Whether the actor stands still in this call; counts it if so."""
        if self._waited >= self.config.actor_after:
            return False
        self._waited += 1.0
        return True

    def _target_values(self, mini: Mini, subset: Tensor) -> Tensor:
        """y (B,)."""
        value = self._critics.lowest(mini.next_inputs, subset)
        if self.config.backup_entropy:
            value -= self._actor.temperature * mini.next_log_density
        return torch.addcmul(mini.reward, mini.discount, value, value=self.config.gamma)

    def _update_critic(self, mini: Mini, target: Tensor) -> tuple[Tensor, Tensor]:
        """One step of all critics (and the image encoder) towards ``target``; Q - y and Q, each (E, B, 1)."""
        errors, q, d_inputs = self._critics.learn(mini.inputs, target, input_grad=self._encoder is not None)
        if d_inputs is not None:
            self._encoder_adam.zero_grad()
            torch.autograd.backward(mini.features, d_inputs[:, : -self._actions])
            self._encoder_adam.step()
        return errors, q

    def _update_actor(self, mini: Mini) -> dict[str, Tensor]:
        """One step of actor and temperature."""
        reach, features, weight = self._reach, mini.features.detach(), self._bc_weight()
        start = self._start(scattered(mini.proposals, reach.spread, self._rng))

        def climb(output: Tensor) -> tuple[Tensor, Tensor]:
            action = reach.action(output, start)
            value, d_inputs = self._critics.ascend(torch.cat([features, action], -1))
            return value, reach.gradient(d_inputs[:, -self._actions :], output, start)

        def imitate(mean: Tensor) -> Tensor:
            return weight * imitation_gradient(mean, reach.output(mini.action, start), mini.demo)

        inputs = self._seen(features, start)
        return self._actor.improve(inputs, self._noise(self.config.batch), climb, imitate if weight > 0.0 else None)

    def _start(self, proposals: Tensor) -> Tensor:
        """(B, A) what the base would do, of its proposals (B, N, A); (B, 0) without one."""
        return proposals[:, 0] if self._reach.proposals else proposals.flatten(1)

    def _seen(self, features: Tensor, start: Tensor) -> Tensor:
        """(B, F [+ A]) what the actor sees: the features and, unlike the critics, what the base would do."""
        return torch.cat([features, start], -1) if self._reach.proposals else features

    def _following(self, next_features: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Critic inputs (s', a') with a' ~ pi(s'), and log pi(a'|s') (zeros when the backup ignores entropy)."""
        noise, start = self._noise(len(next_features)), self._start(proposals)
        inputs = self._seen(next_features, start)
        output, log_density = self._actor.draw(inputs, noise, density=self.config.backup_entropy)
        return torch.cat([next_features, self._reach.action(output, start)], -1), log_density

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self._actions, generator=self._rng).to(self._device)

    # ------------------------------------------------------------------- state

    def snapshot(self) -> Weights:
        """Actor and image encoder, newest and averaged, and the normaliser (copies)."""
        return to_arrays(self._acting())

    def _acting(self) -> dict[str, Tensor]:
        return self._actor.acting() | normaliser_tensors(self._normaliser)

    def _everything(self) -> dict[str, Tensor]:
        named = self._acting() | self._critics.tensors() | self._actor.tensors()
        if self.config.actor_after > 0:
            named |= {"waited": self._waited}
        if self._pretrain_bc_weight is not None:
            named |= {"calls": self._calls}
        if self._encoder is not None:
            named |= optimiser_tensors(self._encoder_adam, "encoder_adam")
        return named
