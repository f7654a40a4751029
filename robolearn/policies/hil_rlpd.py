"""HIL-RLPD: RLPD while a person corrects (Luo et al. 2024, HIL-SERL).

Every step is online data, whoever drove; what the person did is in the demonstration view as well, so that it makes up
part of the demonstration half of each batch and is imitated with ``bc_weight``. The reward stays the task's, and what
the person's steps earn counts like what the policy's earn. The learner is RLPD's.

Train: ``robolearn train cap_tighten --algo hil_rlpd``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array
from robolearn.core.types import TaskSpec
from robolearn.policies import rlpd

ONLINE = True
"""Learns while robots act."""
HUMAN = True
"""A person corrects while it trains."""

CORRECTIONS = "!demo,intervention"
"""Filter of the steps that a person drove in episodes of the policy."""
ONLINE_VIEW = "!demo,source!=script"
"""Filter of the replay's online view."""


@dataclass(frozen=True)
class Config(rlpd.Config):
    """Hyperparameters of ``rlpd``, and how much a correction weighs.

    Attributes:
        correction_share: share of the demonstration part of each batch that comes from corrections; 0 draws uniformly
            from demonstrations and corrections together, so that corrections weigh more the more there are.
    """

    correction_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.correction_share <= 1.0:
            raise ConfigError(f"hil_rlpd.correction_share is {self.correction_share}; it must lie within [0, 1]")


build_policy = rlpd.build_policy


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
) -> HilRlpdLearner:
    """A learner for a task; ``statistics`` holds (mean, std) of the demonstrations per low-dimensional key."""
    return HilRlpdLearner(config, spec, seed=seed, device=device, statistics=statistics)


class HilRlpdLearner(rlpd.RlpdLearner):
    """RLPD's learner on the mixture above."""

    config: Config

    @property
    def mixture(self) -> tuple[tuple[str, float], ...] | None:
        """(filter, weight) of the parts of a batch; None for the replay's own two views."""
        demo, share = self.config.demo_fraction, self.config.correction_share
        if not share:
            return None
        return (("demo", demo * (1.0 - share)), (CORRECTIONS, demo * share), (ONLINE_VIEW, 1.0 - demo))
