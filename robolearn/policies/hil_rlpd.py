"""HIL-RLPD: RLPD while a person corrects (Luo et al. 2024, HIL-SERL).

Every step is online data, whoever drove; what the person did is in the demonstration view as well, so that it makes up
part of the demonstration half of each batch and is imitated with ``bc_weight``. The reward stays the task's, and what
the person's steps earn counts like what the policy's earn. The learner is RLPD's, with an actor that is updated more
often, as there.

The scripted person lets the policy try first, since one who disagrees from the first step on leaves it nothing to
search with; and imitation weighs less once the robot acts, since the person may see what the policy does not. The
discount factor is greater than RLPD's, so that what a long task is worth is still seen at its start.

Train: ``robolearn train cap_tighten --algo hil_rlpd``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robolearn.core.checks import at_least, within
from robolearn.core.spec import Array
from robolearn.core.types import TaskSpec
from robolearn.policies import rlpd

ONLINE = True
"""Learns while robots act."""
HUMAN = True
"""A person corrects while it trains."""
SCRIPT = {"hurry": 0.3, "patience": 3, "agree": 0.3, "hold": 6, "stuck": 0, "late": 0.0, "rest": 1}
"""What the scripted person of a simulated run is like unless the user says otherwise: lets the policy try for almost a
third of the episode, then drives whenever it does something else than they would, until it no longer does."""

CORRECTIONS = "!demo,intervention"
"""Filter of the steps that a person drove in episodes of the policy."""
ONLINE_VIEW = "!demo,source!=script"
"""Filter of the replay's online view."""


@dataclass(frozen=True)
class Config(rlpd.Config):
    """Hyperparameters of ``rlpd`` with a few other defaults, and how much a correction weighs.

    Attributes:
        correction_share: share of the demonstration part of each batch that comes from corrections; 0 draws uniformly
            from demonstrations and corrections together, so that corrections weigh more the more there are.
        bc_weight: weight of imitating demonstrations and corrections once the robot acts.
        pretrain_bc_weight: the same while it pretrains.
    """

    correction_share: float = 0.0
    actor_every: int = 4
    pretrain: int = 1000
    bc_weight: float = 0.1
    pretrain_bc_weight: float = 1.0
    gamma: float = 0.985

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 0, 1, "correction_share", of="hil_rlpd.")
        at_least(self, 0, "pretrain_bc_weight", of="hil_rlpd.")


build_policy = rlpd.build_policy


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
) -> rlpd.RlpdLearner:
    """RLPD's learner on the mixture below; ``statistics`` holds (mean, std) of the demonstrations per low-dimensional
    key."""
    return rlpd.RlpdLearner(
        config,
        spec,
        seed=seed,
        device=device,
        statistics=statistics,
        pretrain_bc_weight=config.pretrain_bc_weight,
        mixture=mixture(config),
        family="hil_rlpd",
    )


def mixture(config: Config) -> tuple[tuple[str, float], ...] | None:
    """(filter, weight) of the parts of a batch; None for the replay's own two views."""
    demo, share = config.demo_fraction, config.correction_share
    if not share:
        return None
    return (("demo", demo * (1.0 - share)), (CORRECTIONS, demo * share), (ONLINE_VIEW, 1.0 - demo))
