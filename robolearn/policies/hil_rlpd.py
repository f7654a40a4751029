"""HIL-RLPD: RLPD while a person corrects (Luo et al. 2024, HIL-SERL).

Every step is online data, whoever drove; what the person did is in the demonstration view as well, so that it makes up
part of the demonstration half of each batch and is imitated with ``bc_weight``. The reward stays the task's, and what
the person's steps earn counts like what the policy's earn. The learner is RLPD's, with an actor that is updated more
often, as there.

The scripted person lets the policy try for more than half of the episode and helps it out where it is stuck: one who
disagrees sooner drives more than is learned from, and one who finishes whatever is late goes on driving when the policy
is good. What people show weighs more than in RLPD, so that critics which know little yet do not lead away from it. The
discount factor is greater than RLPD's, so that what a long task is worth is still seen at its start.

Train: ``robolearn train cap_tighten --algo hil_rlpd``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robolearn.core.checks import within
from robolearn.core.spec import Array
from robolearn.core.types import TaskSpec
from robolearn.policies import rlpd

ONLINE = True
"""Learns while robots act."""
HUMAN = True
"""A person corrects while it trains."""
SCRIPT = {"hurry": 0.6, "agree": 0.5, "stuck": 8, "late": 0.0, "rest": 1}
"""What the scripted person of a simulated run is like unless the user says otherwise: moves a tip that is stuck, and
after three fifths of the episode corrects whatever is far from what they would do, until it no longer is."""

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
        bc_weight: weight of imitating demonstrations and corrections.
    """

    correction_share: float = 0.0
    actor_every: int = 4
    pretrain: int = 1000
    bc_weight: float = 4.0
    gamma: float = 0.985

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 0, 1, "correction_share", of="hil_rlpd.")


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
        mixture=mixture(config),
        family="hil_rlpd",
    )


def mixture(config: Config) -> tuple[tuple[str, float], ...] | None:
    """(filter, weight) of the parts of a batch; None for the replay's own two views."""
    demo, share = config.demo_fraction, config.correction_share
    if not share:
        return None
    return (("demo", demo * (1.0 - share)), (CORRECTIONS, demo * share), (ONLINE_VIEW, 1.0 - demo))
