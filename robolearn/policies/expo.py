"""EXPO: a frozen base offers actions, a small policy edits them, critics choose (Dong et al. 2025).

At each control step the base offers N candidates c_i, stored with the row, and the edit policy changes each element of
each by at most beta:

    e_i    = o_i, brought within beta of c_i,   o_i ~ pi_e(s, c_i)
    pi*(s) = e_1, unless for some a in {e_i} + {c_i} min_m Q_m(s, a) > max_m Q_m(s, e_1); then the a with the greatest
    y      = r + gamma * discount * min_m Qbar_m(s', pi*(s'))                               (no entropy)
    L_e    = mean(alpha * log pi_e(o|s, c) - mean_i Q_i(s, e)) [+ w * |tanh(mu_e(s, c)) - a|^2 on demonstrations]

with c one of the row's offers; targets use the offers stored with the next row and M critics drawn afresh, acting all
target critics, greedy acting the mode of the edit policy's running average. No gradient passes through the base.
Critics, temperature and data are RLPD's (``policies/rlpd.py``).

The paper takes the best of all candidates by the critics, always. That was measured to keep a run with few
demonstrations and sparse reward from learning: the choice finds the critics' errors before the data has corrected them,
and jumps between two policies (docs/adr/0014). So critics have to be sure.

Where this differs from the paper besides: its base goes on learning by imitation of the replay's rows and is sampled
afresh for every target; here it is frozen, since it may plan in chunks, and each row keeps its candidates. What lies
further than beta from all that the base offers is therefore out of reach, and beta is larger than in most tasks of the
paper (0.05). The edit policy puts out the edited action, not the difference; and like RLPD's actor it imitates
demonstrations a little.

Train: ``robolearn train peg_insert --algo expo --base RUN``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robolearn.core.checks import at_least, within
from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Policy, Weights
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Base, TaskSpec
from robolearn.policies import rlpd
from robolearn.policies.parts.acting import AVERAGE
from robolearn.policies.parts.base import OverBase, candidates, load_base
from robolearn.policies.parts.mlp import MlpShape
from robolearn.policies.parts.observation import Normaliser, ObservationLayout
from robolearn.policies.parts.pixels import Encoder, new_encoder
from robolearn.policies.parts.reach import Within
from robolearn.policies.parts.rows import Mini
from robolearn.policies.parts.stack import NumpyStack
from robolearn.policies.parts.state import TakesWeights, below, load_arrays, to_arrays
from robolearn.policies.parts.stored import with_actions, without

ONLINE = True
"""Learns while robots act."""
BASE = "wanted"
"""Starts from a frozen policy."""
CANDIDATES = "candidates"
"""Key of the base's offers in the observation, end to end (N * A,)."""


@dataclass(frozen=True)
class Config(rlpd.Config):
    """Hyperparameters: those of RLPD, and what is edited.

    Attributes:
        candidates: actions N the base offers at each step; as many edited ones join them. A deterministic base offers
            the same N times, and the best of many edits is more often overrated than better.
        beta: largest change of each element of a normalised action by an edit; 0 only chooses among the offers, 2
            reaches everywhere.
    """

    candidates: int = 1
    beta: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "candidates", of="expo.")
        within(self, 0, 2, "beta", of="expo.")
        if self.backup_entropy:
            raise ConfigError("expo.backup_entropy is true; its targets choose among actions and count no entropy")


def stored(config: Config, spec: TaskSpec) -> TaskSpec:
    """The task as it is stored: with the base's offers beside the observation."""
    return spec if CANDIDATES in spec.observation else with_actions(spec, CANDIDATES, config.candidates)


@dataclass(frozen=True)
class _Shapes:
    edit: MlpShape
    critic: MlpShape

    @classmethod
    def of(cls, config: Config, features: int, actions: int) -> _Shapes:
        hidden = (config.hidden,) * config.layers
        return cls(
            MlpShape(1, features + actions, hidden, 2 * actions),
            MlpShape(config.critics, features + actions, hidden, 1, config.layer_norm),
        )


class ExpoPolicy(OverBase, TakesWeights):
    """The on-the-fly policy. Its weights carry edit network and image encoder, newest and averaged, target critics and
    normaliser. Greedily, averaged edits see through the averaged encoder; critics see through the newest, always."""

    def __init__(self, config: Config, spec: TaskSpec, base: Policy, *, seed: int, device: str) -> None:
        super().__init__(base)
        self._config, self._device = config, device
        self._layout, self._actions = ObservationLayout.of(spec), spec.action.size
        self._rng, self._scale = np.random.default_rng(seed), 1.0
        self._encoder, self._average_encoder = self._new_encoder(seed), self._new_encoder(seed)
        features = self._layout.size + (self._encoder.size if self._encoder is not None else 0)
        self._shapes = _Shapes.of(config, features, self._actions)
        self._expected = self._names()
        self._critics: NumpyStack | None = None  # no weights yet

    def _new_encoder(self, seed: int) -> Encoder | None:
        config, unused = self._config, torch.Generator().manual_seed(seed)
        return new_encoder(self._layout.images, config.image_channels, config.image_width, unused, self._device)

    def _names(self) -> dict[str, tuple[int, ...]]:
        expected: dict[str, tuple[int, ...]] = {}
        for name, shape in self._shapes.edit.parameters.items():
            plain = shape[2:] if name.startswith("b") else shape[1:]
            expected |= {f"actor.{name}": plain, f"{AVERAGE}actor.{name}": plain}
        expected |= {f"target.{name}": shape for name, shape in self._shapes.critic.parameters.items()}
        if self._encoder is not None:
            encoder = {f"encoder.{name}": tuple(t.shape) for name, t in self._encoder.state_dict().items()}
            expected |= encoder | {AVERAGE + name: shape for name, shape in encoder.items()}
        return expected | {"normaliser.mean": (self._layout.size,), "normaliser.std": (self._layout.size,)}

    def reset(self) -> None:
        """Forget the previous episode, the base's plan included, and draw how much the next one explores."""
        super().reset()
        self._scale = float(self._rng.uniform(*self._config.noise_scale))

    def _set(self, arrays: Mapping[str, Array]) -> None:
        stacked = {name: value.reshape(1, -1, value.shape[-1]) for name, value in arrays.items() if "actor." in name}
        self._newest = NumpyStack(self._shapes.edit, stacked, "actor.")
        self._average = NumpyStack(self._shapes.edit, stacked, f"{AVERAGE}actor.")
        self._critics = NumpyStack(self._shapes.critic, arrays, "target.")
        clip = self._config.observation_clip
        self._normaliser = Normaliser(arrays["normaliser.mean"], arrays["normaliser.std"], clip)
        for prefix, encoder in (("encoder.", self._encoder), (f"{AVERAGE}encoder.", self._average_encoder)):
            if encoder is not None:
                load_arrays("encoder weights", encoder.state_dict(), below(prefix, arrays))

    def annotate(self, observation: Observation) -> Mapping[str, Array]:
        """What the base offers now; once per control step."""
        offers = candidates(self._base, observation, self._config.candidates)
        return {CANDIDATES: np.clip(offers, -1.0, 1.0).reshape(-1)}

    def act(self, observation: Observation, *, explore: bool) -> Array:
        """Normalised action (A,) float32 for an annotated observation: an edit, or what is surely better."""
        offers = np.asarray(observation[CANDIDATES], np.float32).reshape(-1, self._actions)
        if self._critics is None:
            return np.array(offers[0])
        features = self._features(observation, self._encoder)
        seen = features if explore else self._features(observation, self._average_encoder)
        actions = np.concatenate([self._edited(seen, offers, explore), offers])
        inputs = np.concatenate([np.tile(features, (len(actions), 1)), actions], 1)
        values = self._critics(inputs)[:, :, 0]
        lowest = values.min(0)
        surely = lowest > values[:, 0].max()
        best: Array = actions[int(np.where(surely, lowest, -np.inf).argmax())] if surely.any() else actions[0]
        return best

    def _edited(self, features: Array, offers: Array, explore: bool) -> Array:
        """(N, A) edits of offers (N, A)."""
        inputs = np.concatenate([np.tile(features, (len(offers), 1)), offers], 1)
        raw = (self._newest if explore else self._average)(inputs)[0]
        mean, log_std = raw[:, : self._actions], raw[:, self._actions :]
        if explore:
            std = np.exp(np.clip(log_std, self._config.log_std_min, self._config.log_std_max))
            mean = mean + std * np.float32(self._scale) * self._rng.standard_normal(mean.shape, dtype=np.float32)
        reach = np.float32(self._config.beta)
        edited: Array = np.clip(np.tanh(mean), offers - reach, offers + reach)
        return edited

    def _features(self, observation: Observation, encoder: Encoder | None) -> Array:
        vector = self._normaliser(self._layout.concatenate(observation))
        return vector if encoder is None else np.concatenate([encoder.of_one(observation, self._device), vector])


def build_policy(
    config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu", base: Base | None = None
) -> ExpoPolicy:
    """A policy that acts as its base until it is given weights.

    Raises:
        ConfigError: no base, or one that does not fit.
    """
    plain = without(spec, CANDIDATES)
    return ExpoPolicy(config, plain, load_base(base, plain, seed=seed, who="expo"), seed=seed, device=device)


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
    base: Base | None = None,
) -> ExpoLearner:
    """A learner for a task as it is stored; it reads the base's offers from the rows and needs no base itself."""
    return ExpoLearner(
        config,
        without(spec, CANDIDATES),
        seed=seed,
        device=device,
        statistics=statistics,
        reach=Within(CANDIDATES, config.beta),
        offers=config.candidates,
        family="expo",
    )


class ExpoLearner(rlpd.RlpdLearner):
    """See the module's docstring. What its actor puts out are edits of offers."""

    config: Config

    def _following(self, next_features: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Critic inputs (R, 2N, F + A) of all that could follow: an edit of each offer, and the offers."""
        rows, count, _ = proposals.shape
        offered = torch.cat([next_features.unsqueeze(1).expand(-1, count, -1), proposals], -1)
        noise = self._noise(rows * count)
        output, _ = self._actor.draw(offered.flatten(0, 1), noise, density=False)
        edited = self._reach.action(output.view(proposals.shape), proposals)
        inputs = torch.cat([torch.cat([offered[..., : -self._actions], edited], -1), offered], 1)
        return inputs, next_features.new_zeros(rows)

    def _target_values(self, mini: Mini, subset: Tensor) -> Tensor:
        """y (B,) of what would act: the first edit, or what all judges put above it."""
        values = self._critics.judge(mini.next_inputs.flatten(0, 1), subset).view(len(subset), len(mini.reward), -1)
        lowest, first = values.amin(0), values[:, :, 0]
        surely = torch.where(lowest > first.amax(0).unsqueeze(-1), lowest, first.amin(0).unsqueeze(-1)).amax(1)
        return torch.addcmul(mini.reward, mini.discount, surely, value=self.config.gamma)

    def _start(self, proposals: Tensor) -> Tensor:
        """(B, A) the action whose edit each row teaches: one of its offers."""
        rows, count, _ = proposals.shape
        chosen = torch.randint(count, (rows,), generator=self._rng).to(self._device)
        return proposals[torch.arange(rows, device=self._device), chosen]

    def snapshot(self) -> Weights:
        """What the on-the-fly policy needs: edit network and image encoder, newest and averaged, target critics,
        normaliser (copies)."""
        targets = {name: t for name, t in self._critics.tensors().items() if name.startswith("target.")}
        return to_arrays(self._acting() | targets)
