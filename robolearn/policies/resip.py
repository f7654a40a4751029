"""Residual RL on policy: PPO learns a correction of what a frozen base policy would do, from many simulated robots.

    a = clip(b + scale * delta, -1, 1),   delta = mu(s, b) + sigma * noise,   noise ~ N(0, I), sigma fixed

after Ankile et al. 2024 (ResiP, "From Imitation to Refinement"). The frozen base proposes b and goes on in its chunk;
the correction is decided anew at every step. The last layer of mu starts at zero and has no bias, so that the first
greedy action is the base's own. The actor's annotation draws the noise once per control step and it is stored with the
row. The learner gets what its newest weights did (``Rollouts``), whose mu it knows, so that delta and its density are
exact; densities are those of delta before scaling and clipping. Updates are PPO's: clipped ratios, generalised
advantages, a critic of its own, and an early end when the policy has moved too far.

Unlike ResiP, a time-out is no terminal state (its value counts) and robots are not reset between updates; the reward is
taken as it is, and learning rates stay constant. Imitation has no part in it: demonstrations train the base alone.

Train: ``robolearn train peg_insert --algo resip --base RUN --robots 4``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robolearn.core.checks import at_least, positive, within
from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.protocols import Policy, Weights
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.types import Base, Rollouts, TaskSpec
from robolearn.policies.parts import ppo
from robolearn.policies.parts.acting import normaliser_tensors
from robolearn.policies.parts.base import OverBase, load_base
from robolearn.policies.parts.observation import Normaliser, ObservationLayout
from robolearn.policies.parts.state import Resumable, TakesWeights, optimiser_tensors, to_arrays
from robolearn.policies.parts.stored import unit_statistics, with_actions, without

ONLINE = True
"""Learns while robots act."""
BASE = "wanted"
"""Starts from a frozen policy."""
PROPOSAL = "base_action"
"""Key of the base's action in the observation."""
NOISE = "residual_noise"
"""Key of the noise that a correction explores with."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults of ResiP where one robot or a few can afford them.

    Attributes:
        scale: of the correction, in the base's normalised action; 0 stays with the base.
        log_std: log standard deviation of delta, fixed.
        on_policy: robot steps, of all robots together, between two updates; robots in simulation wait for them.
        epochs: passes over these steps.
        minibatches: gradient steps of a pass.
        clip: largest change of a ratio of densities that is rewarded.
        target_kl: an update ends once the policy has moved so far from the one that acted [nat].
        gamma: discount per step.
        lam: weight of longer returns in the advantage.
        hidden: width of each hidden layer.
        layers: hidden layers.
        actor_lr, critic_lr: learning rates.
        grad_clip: largest gradient norm of each network; 0 for no limit.
        std_floor: smallest standard deviation an observation is divided by.
        observation_clip: standardised observations are clipped to this.
    """

    scale: float = 0.1
    log_std: float = -1.0
    on_policy: int = 2048
    epochs: int = 10
    minibatches: int = 4
    clip: float = 0.2
    target_kl: float = 0.1
    gamma: float = 0.99
    lam: float = 0.95
    hidden: int = 256
    layers: int = 2
    actor_lr: float = 3e-4
    critic_lr: float = 1e-3
    grad_clip: float = 1.0
    std_floor: float = 0.3
    observation_clip: float = 3.0

    def __post_init__(self) -> None:
        at_least(self, 1, "on_policy", "epochs", "minibatches", "hidden", "layers", of="resip.")
        positive(self, "clip", "target_kl", "actor_lr", "critic_lr", "std_floor", "observation_clip", of="resip.")
        within(self, 0, 2, "scale", of="resip.")
        within(self, 0, 1, "gamma", "lam", of="resip.")
        within(self, -10, 2, "log_std", of="resip.")
        if self.on_policy < 2 * self.minibatches:
            least = 2 * self.minibatches
            raise ConfigError(f"resip.on_policy is {self.on_policy}; {self.minibatches} minibatches need {least} steps")

    @property
    def utd(self) -> float:
        """Gradient updates per robot step, were no update ended early."""
        return self.epochs * self.minibatches / self.on_policy


def stored(config: Config, spec: TaskSpec) -> TaskSpec:
    """The task as it is stored: with the base's action and the noise beside the observation."""
    if NOISE in spec.observation:
        return spec
    noise = ArraySpec(NOISE, (spec.action.size,), "float32", "standard deviations")
    seen = with_actions(spec, PROPOSAL, 1)
    return replace(seen, observation={**seen.observation, NOISE: noise})


def _layout(config: Config, spec: TaskSpec) -> ObservationLayout:
    """What the networks see: the vectors of the task, and the base's action."""
    layout = ObservationLayout.of(without(stored(config, spec), NOISE))
    if layout.images:
        raise ConfigError(
            f"resip corrects from vectors alone, but task '{spec.name}' shows images "
            f"({', '.join(key for key, _ in layout.images)}); take --algo residual"
        )
    return layout


def _widths(config: Config, layout: ObservationLayout, outputs: int) -> tuple[int, ...]:
    return (layout.size, *(config.hidden,) * config.layers, outputs)


class ResipPolicy(OverBase, TakesWeights):
    """A frozen base and the network that corrects it. ``annotate`` asks the base and draws the noise."""

    def __init__(self, config: Config, spec: TaskSpec, base: Policy, *, seed: int) -> None:
        super().__init__(base)
        self._config, self._layout = config, _layout(config, spec)
        self._actions = spec.action.size
        self._sigma, self._scale = np.float32(math.exp(config.log_std)), np.float32(config.scale)
        self._rng = np.random.default_rng(seed)
        unused = torch.Generator().manual_seed(seed)
        blank = ppo.relu_mlp(_widths(config, self._layout, self._actions), unused, gain=0.0, bias=None)
        size = self._layout.size
        weights = {"normaliser.mean": np.zeros(size, np.float32), "normaliser.std": np.ones(size, np.float32)}
        weights |= {f"actor.{name}": array for name, array in to_arrays(blank.state_dict()).items()}
        self._expected = {name: array.shape for name, array in weights.items()}
        self._set(weights)

    def annotate(self, observation: Observation) -> Mapping[str, Array]:
        """What the base would do now, and the noise of this step; once per control step."""
        noise = self._rng.standard_normal(self._actions, dtype=np.float32)
        return {PROPOSAL: self._proposal(observation), NOISE: noise}

    def act(self, observation: Observation, *, explore: bool) -> Array:
        """Normalised action (A,) float32 for an annotated observation."""
        delta = ppo.mlp_forward(self._layers, self._normaliser(self._layout.concatenate(observation)))
        if explore:
            delta = delta + self._sigma * observation[NOISE]
        return corrected(observation[PROPOSAL], delta, self._scale)

    def _set(self, arrays: Mapping[str, Array]) -> None:
        mean, std = arrays["normaliser.mean"], arrays["normaliser.std"]
        self._normaliser = Normaliser(mean, std, self._config.observation_clip)
        names = [f"actor.{2 * i}." for i in range(self._config.layers + 1)]
        self._layers = [(arrays[f"{name}weight"], arrays.get(f"{name}bias")) for name in names]


def corrected(proposal: Array, delta: Array, scale: np.float32 | float) -> Array:
    """(..., A) float32 action of a correction."""
    return np.clip(proposal + np.float32(scale) * delta, -1.0, 1.0).astype(np.float32)


def build_policy(
    config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu", base: Base | None = None
) -> ResipPolicy:
    """A policy that explores around its base until it is given weights.

    Raises:
        ConfigError: no base, one that does not fit, or a task that shows images.
    """
    frozen = load_base(base, without(without(spec, NOISE), PROPOSAL), seed=seed, who="resip")
    return ResipPolicy(config, spec, frozen, seed=seed)


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
    base: Base | None = None,
) -> ResipLearner:
    """A learner for a task as it is stored; it reads the base's actions from the rows and needs no base itself."""
    return ResipLearner(config, spec, seed=seed, device=device, statistics=statistics)


@dataclass(frozen=True)
class _Steps:
    """Rollouts as the update uses them, all (T, ...)."""

    vector: Tensor
    delta: Tensor
    old_mean: Tensor
    advantage: Tensor
    target: Tensor


class ResipLearner(Resumable):
    """See the module's docstring. ``update`` has to be given what the weights published last did."""

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
        self.online, self.on_policy, self.batch_rows = True, config.on_policy, config.on_policy
        self.updates_per_call = config.epochs * config.minibatches
        self.demo_fraction, self.horizon, self.gamma, self.history, self.chunk = 0.0, 1, config.gamma, 1, 0
        self._layout = _layout(config, spec)
        known = {**statistics, **unit_statistics(stored(config, spec), PROPOSAL)}
        self._normaliser = self._layout.normaliser(known, config.std_floor, config.observation_clip)
        self._rng = torch.Generator().manual_seed(seed)
        widths = _widths(config, self._layout, spec.action.size)
        self._actor = ppo.relu_mlp(widths, self._rng, gain=0.0, bias=None).to(self._device)
        self._critic = ppo.relu_mlp((*widths[:-1], 1), self._rng, gain=0.25, bias=0.25).to(self._device)
        self._actor_adam = torch.optim.Adam(self._actor.parameters(), lr=config.actor_lr, eps=1e-5)
        self._critic_adam = torch.optim.Adam(self._critic.parameters(), lr=config.critic_lr, eps=1e-5)

    def update(self, batch: Rollouts) -> dict[str, float]:
        """PPO on the steps of the weights published last.

        Returns:
            metrics. ``action_mismatch`` is the share of steps whose executed action is not the one that noise and
            weights give, because the task or safety limited it; were it large, these would be other weights' steps.

        Raises:
            SpecError: there are fewer than two steps per minibatch.
        """
        config, count = self.config, len(batch)
        if count < 2 * config.minibatches:
            raise SpecError(f"resip: expected {2 * config.minibatches} steps or more to learn from, got {count}")
        steps, metrics = self._read(batch)
        seen = []
        for rows in self._minibatches(count):
            found = self._step(steps, rows)
            if found is None:
                break
            seen.append(found)
        with torch.no_grad():
            kl = float(ppo.divergence(self._actor(steps.vector), steps.old_mean, config.log_std).mean())
        names = ("actor_loss", "critic_loss", "clip_fraction")
        return {
            **dict(zip(names, torch.tensor(seen).mean(0).tolist(), strict=True)),
            **metrics,
            "kl": kl,
            "gradient_steps": float(len(seen)),
        }

    def _minibatches(self, count: int) -> Iterator[Tensor]:
        for _ in range(self.config.epochs):
            order = torch.randperm(count, generator=self._rng).to(self._device)
            yield from order.tensor_split(self.config.minibatches)

    def _read(self, batch: Rollouts) -> tuple[_Steps, dict[str, float]]:
        config = self.config
        with torch.no_grad():
            vector, after = self._vectors(batch.observation), self._vectors(batch.next_observation)
            mean = self._actor(vector)
            delta = mean + math.exp(config.log_std) * self._tensor(batch.observation[NOISE])
            value, next_value = (self._critic(x)[:, 0].cpu().numpy() for x in (vector, after))
            advantage = ppo.advantages(
                batch.reward, batch.discount, batch.last, value, next_value, gamma=config.gamma, lam=config.lam
            )
            target = advantage + value
            scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        sent = corrected(batch.observation[PROPOSAL], delta.cpu().numpy(), config.scale)
        metrics = {
            "rows": float(len(batch)),
            "reward": float(batch.reward.mean()),
            "value": float(value.mean()),
            "explained_variance": 1.0 - float(advantage.var()) / max(float(target.var()), 1e-8),
            "residual": float(mean.abs().mean()) * config.scale,
            "action_mismatch": float((np.abs(sent - batch.action) > 1e-3).any(-1).mean()),
        }
        return _Steps(vector, delta, mean, self._tensor(scaled), self._tensor(target)), metrics

    def _step(self, steps: _Steps, rows: Tensor) -> tuple[float, float, float] | None:
        """One gradient step of both networks; None, and no step, once the policy is too far from the one that acted."""
        config = self.config
        vector, delta, old = steps.vector[rows], steps.delta[rows], steps.old_mean[rows]
        mean = self._actor(vector)
        with torch.no_grad():
            if float(ppo.divergence(mean, old, config.log_std).mean()) > config.target_kl:
                return None
        ratio = (ppo.log_prob(delta, mean, config.log_std) - ppo.log_prob(delta, old, config.log_std)).exp()
        actor_loss = ppo.clipped_loss(ratio, steps.advantage[rows], config.clip)
        critic_loss = 0.5 * (self._critic(vector)[:, 0] - steps.target[rows]).square().mean()
        for adam, network, loss in (
            (self._actor_adam, self._actor, actor_loss),
            (self._critic_adam, self._critic, critic_loss),
        ):
            adam.zero_grad()
            torch.autograd.backward(loss)
            if config.grad_clip > 0.0:
                torch.nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
            adam.step()
        clipped = float(((ratio.detach() - 1.0).abs() > config.clip).float().mean())
        return float(actor_loss.detach()), float(critic_loss.detach()), clipped

    def _vectors(self, observation: Observation) -> Tensor:
        return self._tensor(self._normaliser(self._layout.concatenate_batch(observation)))

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self._device)

    def snapshot(self) -> Weights:
        """Network and normaliser (copies)."""
        return to_arrays(self._acting())

    def _acting(self) -> dict[str, Tensor]:
        actor = {f"actor.{name}": tensor for name, tensor in self._actor.state_dict().items()}
        return actor | normaliser_tensors(self._normaliser)

    def _everything(self) -> dict[str, Tensor]:
        critic = {f"critic.{name}": tensor for name, tensor in self._critic.state_dict().items()}
        moments = optimiser_tensors(self._actor_adam, "actor_adam")
        return self._acting() | critic | moments | optimiser_tensors(self._critic_adam, "critic_adam")
