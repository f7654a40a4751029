"""Residual RL off-policy: RLPD learns a correction of what a frozen base policy would do.

At each control step the frozen base proposes b (it executes its chunk, if it plans in chunks) and the actor adds to it:

    a = clip(b + scale * delta, -1, 1),   delta ~ tanh-Normal pi(s, b)

The output layer starts at zero, so that the first greedy action is the base's own. Everything else is RLPD's
(``policies/rlpd.py``): critics Q(s, a) of the executed action, n-step returns, half demonstrations; targets use
the proposal b' that was stored with the next row, so that the base is never evaluated while learning. Entropy and its
target are those of delta. Imitation (``bc_weight``) is of the residual that leads from b to the demonstrated action,
as far as it reaches. The actor stands still (``actor_after``: all of ``pretrain`` and 1,500 steps) until the critics
know how the base fares, so that a run begins with the base's own behaviour and with what it brings about. Residual
policies: Johannink et al. 2019, Silver et al. 2018; over chunked diffusion: Ankile et al. 2024.

Train: ``robolearn train peg_insert --algo residual --base RUN``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from robolearn.core.checks import at_least, within
from robolearn.core.protocols import Policy, Weights
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Base, TaskSpec
from robolearn.policies import rlpd
from robolearn.policies.parts.acting import NetworkPolicy
from robolearn.policies.parts.base import OverBase, load_base
from robolearn.policies.parts.reach import Correction
from robolearn.policies.parts.stored import with_actions, without

ONLINE = True
"""Learns while robots act."""
BASE = "wanted"
"""Starts from a frozen policy."""
PROPOSAL = "base_action"
"""Key of the base's action in the observation."""


@dataclass(frozen=True)
class Config(rlpd.Config):
    """Hyperparameters: those of RLPD, and how far the residual reaches.

    Attributes:
        scale: largest change of each element of the base's normalised action; 0 stays with the base, 2 reaches
            everywhere.
        spread: largest noise on the base's action that the actor learns to correct, see ``parts/reach.py``.
        init_log_std: log standard deviation of delta, before the tanh, at the start.
    """

    scale: float = 2.0
    spread: float = 1.0
    init_log_std: float = -1.5
    actor_every: int = 4
    target_entropy_per_dim: float = -1.2
    actor_after: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 0, 2, "scale", of="residual.")
        at_least(self, 0, "spread", of="residual.")


def stored(config: Config, spec: TaskSpec) -> TaskSpec:
    """The task as it is stored: with the base's action beside the observation."""
    return spec if PROPOSAL in spec.observation else with_actions(spec, PROPOSAL, 1)


class ResidualPolicy(OverBase):
    """A frozen base and the network that corrects it. ``annotate`` asks the base, ``act`` only adds to its answer."""

    def __init__(self, config: Config, base: Policy, network: NetworkPolicy) -> None:
        super().__init__(base)
        self._scale, self._network = np.float32(config.scale), network

    def reset(self) -> None:
        """Forget the previous episode, the base's plan included."""
        super().reset()
        self._network.reset()

    def annotate(self, observation: Observation) -> Mapping[str, Array]:
        """What the base would do now; once per control step."""
        return {PROPOSAL: self._proposal(observation)}

    def act(self, observation: Observation, *, explore: bool) -> Array:
        """Normalised action (A,) float32 for an annotated observation."""
        delta = self._network.act(observation, explore=explore)
        action: Array = np.clip(observation[PROPOSAL] + self._scale * delta, -1.0, 1.0)
        return action

    def load(self, weights: Weights) -> None:
        """Take new weights of the network; the base stays as it is. Raises as ``NetworkPolicy.load`` does."""
        self._network.load(weights)


def build_policy(
    config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu", base: Base | None = None
) -> ResidualPolicy:
    """A policy that explores around its base until it is given weights.

    Raises:
        ConfigError: no base, or one that does not fit.
    """
    plain = without(spec, PROPOSAL)
    shape = replace(rlpd.actor_shape(config, plain), proposal=PROPOSAL)
    network = NetworkPolicy(shape, plain, seed=seed, device=device)
    return ResidualPolicy(config, load_base(base, plain, seed=seed, who="residual"), network)


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
    base: Base | None = None,
) -> rlpd.RlpdLearner:
    """A learner for a task as it is stored; it reads the base's actions from the rows and needs no base itself."""
    return rlpd.RlpdLearner(
        config,
        without(spec, PROPOSAL),
        seed=seed,
        device=device,
        statistics=statistics,
        reach=Correction(PROPOSAL, config.scale, config.init_log_std, config.spread),
        family="residual",
    )
