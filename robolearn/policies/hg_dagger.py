"""HG-DAgger: imitation that goes on while a person corrects (Kelly et al. 2019).

The policy drives, the person takes over when it goes wrong, and of these episodes only what the person did is cloned,
together with the demonstrations there were before; what the policy did enters no loss. One of the imitating families
does the learning, at a learning rate that stays, without end; a chunk of actions ends where hands let go.

Train: ``robolearn train peg_insert --algo hg_dagger --demos 5``, or from a policy of the family: ``--base RUN``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np

from robolearn.core import plugins
from robolearn.core.checks import at_least, positive, within
from robolearn.core.errors import ConfigError, ResumeError
from robolearn.core.protocols import Learner, Policy, Weights
from robolearn.core.spec import Array
from robolearn.core.types import Base, Batch, ChunkBatch, TaskSpec
from robolearn.policies import bc, diffusion, flow

ONLINE = True
"""Learns while robots act."""
HUMAN = True
"""A person corrects while it trains."""
BASE: Literal["optional"] = "optional"
"""May start from a trained policy."""
REWARDED = False
"""Learns from no reward."""
SCRIPT = {"disagree": 0.4, "patience": 3, "late": 0.5}
"""What the scripted person of a simulated run is like unless the user says otherwise: quick to correct, as imitation
learns from nothing else."""

ACTING = "imitation"
"""Field of the configuration that names the family that acts; with a base it is the base's, configured as there."""

FAMILIES = ("flow", "diffusion", "bc")
CORRECTIONS = "!demo,intervention"
"""Filter of the steps that a person drove in episodes of the policy."""
_LEARNING = ("batch", "updates_per_call", "lr", "warmup", "weight_decay", "grad_clip", "ema_cap")
"""What the run decides about learning when the base decides about the network."""
_FOR_EVER = 10**9
"""Gradient steps that no run makes; a schedule over so many is constant."""


@dataclass(frozen=True)
class Config:
    """What is learned, and how fast. The networks are small: few demonstrations need no more, and they have to keep
    up with the robot.

    Attributes:
        imitation: family that learns; with ``--base`` the base's family, its network and its way of executing chunks.
        pretrain: update calls on demonstrations alone before the robot acts.
        utd: gradient steps per robot step.
        correction_share: share of each batch that comes from corrections; 0 draws uniformly from demonstrations and
            corrections together.
        flow, diffusion, bc: configuration of each family; its ``updates`` are of no account here.
    """

    imitation: Literal["flow", "diffusion", "bc"] = "flow"
    pretrain: int = 300
    utd: float = 4.0
    correction_share: float = 0.0
    flow: flow.Config = field(default_factory=lambda: flow.Config(batch=64, mlp_width=128, mlp_blocks=2, ema_cap=0.995))
    diffusion: diffusion.Config = field(
        default_factory=lambda: diffusion.Config(batch=64, mlp_width=128, mlp_blocks=2, ema_cap=0.995)
    )
    bc: bc.Config = field(default_factory=bc.Config)

    def __post_init__(self) -> None:
        if self.imitation not in FAMILIES:
            raise ConfigError(f"hg_dagger.imitation is '{self.imitation}'; it must be one of {', '.join(FAMILIES)}")
        at_least(self, 0, "pretrain", of="hg_dagger.")
        positive(self, "utd", of="hg_dagger.")
        within(self, 0, 1, "correction_share", of="hg_dagger.", open_end=True)


def frozen(config: Config, base: Base | None) -> tuple[str, Any]:
    """Family and configuration of the network that a run with this configuration, from this base, trains."""
    return _family(config, base)


def build_policy(config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu", base: Base | None = None) -> Policy:
    """The family's policy; acts as its base does, or untrained, until it is given weights."""
    name, inner = _family(config, base)
    policy = cast(Policy, plugins.load("policy", name).build_policy(inner, spec, seed=seed, device=device))
    if base is not None:
        policy.load(base.weights)
    return policy


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
    base: Base | None = None,
) -> HgDaggerLearner:
    """A learner for a task; ``statistics`` holds (mean, std) of the demonstrations per low-dimensional key.

    Raises:
        ConfigError: the base is of a family that does not imitate, or does not fit the task.
    """
    name, inner = _family(config, base)
    known: dict[str, Any] = {"seed": seed, "device": device, "statistics": statistics}
    if name == "bc":
        learner: Learner = bc.build_learner(replace(inner, updates=_FOR_EVER), spec, **known)
        if base is not None:
            _start_from(learner, base)
    else:
        learner = plugins.load("policy", name).build_learner(inner, spec, **known, base=base, online=True)
    return HgDaggerLearner(config, learner)


class HgDaggerLearner:
    """A learner of the family on demonstrations and corrections; see the module's docstring.

    Attributes:
        mixture: (filter, weight) of the parts of a batch; None for the demonstration view as it is.
    """

    def __init__(self, config: Config, learner: Learner) -> None:
        self.config, self._learner = config, learner
        self.online, self.demo_fraction = True, 1.0
        self.batch_rows, self.updates_per_call = learner.batch_rows, learner.updates_per_call
        self.horizon, self.gamma = learner.horizon, learner.gamma
        self.history, self.chunk = learner.history, learner.chunk
        share = config.correction_share
        self.mixture = (("demo", 1.0 - share), (CORRECTIONS, share)) if share else None

    def update(self, batch: Batch | ChunkBatch) -> dict[str, float]:
        """Gradient steps of the family on rows of the demonstration view."""
        return self._learner.update(ended_at_release(batch) if isinstance(batch, ChunkBatch) else batch)

    def snapshot(self) -> Weights:
        """The family's weights."""
        return self._learner.snapshot()

    def state(self) -> Weights:
        """The family's state."""
        return self._learner.state()

    def restore(self, state: Weights) -> None:
        """Inverse of ``state``; raises ResumeError when the shapes do not fit."""
        self._learner.restore(state)


def ended_at_release(batch: ChunkBatch) -> ChunkBatch:
    """The batch as if every episode had ended where its first action outside the demonstration view was taken.

    Of that action and of all after it nothing is left: the last action before is repeated, as at the end of an episode,
    and they no longer count as demonstrated.
    """
    kept = np.logical_and.accumulate(batch.action_demo, axis=1)
    kept[:, 0] = True
    last = kept.sum(axis=1) - 1
    index = np.minimum(np.arange(kept.shape[1]), last[:, None])
    action = np.take_along_axis(batch.action, index[:, :, None], axis=1)
    return replace(batch, action=action, action_demo=kept)


def _family(config: Config, base: Base | None) -> tuple[str, Any]:
    """Who learns, and its configuration."""
    if base is None:
        return config.imitation, getattr(config, config.imitation)
    if base.algo not in FAMILIES:
        raise ConfigError(f"hg_dagger: the base is of family '{base.algo}'; expected one of {', '.join(FAMILIES)}")
    own = getattr(config, base.algo)
    learning = {name: getattr(own, name) for name in _LEARNING if hasattr(own, name) and hasattr(base.config, name)}
    return base.algo, replace(base.config, **learning)


def _start_from(learner: Learner, base: Base) -> None:
    """Take a base's weights, and nothing else of it."""
    try:
        learner.restore({**learner.state(), **base.weights})
    except ResumeError as error:
        raise ConfigError(f"hg_dagger: the base ('{base.algo}') was trained for another task: {error}") from error
