"""RLIF: reinforcement learning from takeovers, without any other reward (Luo et al. 2024, RLIF).

The policy's last own step before a person takes over earns -1, every other step 0, demonstrations included; so a policy
that is worth more is one that is left alone more. The learner is RLPD's, on one of two sets of data:

    all       every step, the person's too (algorithm 1 of the paper)
    policy    the policy's own steps alone; the person's teach by where they lead and by the -1 in front of them (the
              authors' code, github.com/pd-perry/RLIF, ``examples/train_rlif_main.py``, but for two steps)

That code stores a step when the next one begins, if the policy drives then or the person has just taken over. So it
has the last step of each takeover too, which is left out here: the replay judges each step by itself, takes it in
before the next one is there and may keep it when that one is let go; to know who drives next would cost more than one
row of reward 0 a takeover is worth. And it never has the last step of an episode, whoever drove, which is kept here:
where the policy succeeds, that is the terminal one.

Before anybody has taken over all rewards are 0, and nothing could be learned from them: while it pretrains it imitates
the demonstrations. After that it imitates nobody by default, since the person may be worse than the policy.

Terminal states have value 0, and 0 is the best value there is. The tasks of this tree end for good by success alone
("nobody will take over any more"), and run into their time limit otherwise, which bootstraps. What a task that ends by
failure must earn there is up to the reward, see ``rewards/intervention.py``.

Train: ``robolearn train peg_insert:smoke --algo rlif --script.skill BLIND``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from robolearn.core.checks import at_least
from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array
from robolearn.core.types import TaskSpec
from robolearn.policies import rlpd

ONLINE = True
"""Learns while robots act."""
HUMAN = True
"""A person corrects while it trains."""
REWARD = "intervention"
"""Reward that the family is made for."""
SCRIPT = {"disagree": 0.5, "patience": 3}
"""What the scripted person of a simulated run is like unless the user says otherwise: a takeover has to follow soon on
the action it blames; one that comes when the robot is long stuck or late teaches little."""

OWN_STEPS = "!demo,source=policy|source=safety"
"""Filter of the steps that the policy chose, those included that safety refused: what was executed instead is what led
to the next state. A person's step that safety refused is among them, since a filter sees who executed a step, not who
wanted it: nobody's choice was executed, so nothing of the person's is learned, and the reward does not blame it."""


@dataclass(frozen=True)
class Config(rlpd.Config):
    """Hyperparameters of ``rlpd`` with a few other defaults, and the choice of data.

    Attributes:
        data: ``all`` steps, or those of the ``policy`` alone; see the module.
        bc_weight: weight of imitating demonstrations and corrections once the robot acts.
        pretrain_bc_weight: the same while it pretrains.
    """

    data: Literal["all", "policy"] = "all"
    bc_weight: float = 0.0
    pretrain_bc_weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in ("all", "policy"):
            raise ConfigError(f"rlif.data is '{self.data}'; it must be all or policy")
        at_least(self, 0, "pretrain_bc_weight", of="rlif.")


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
        family="rlif",
    )


def mixture(config: Config) -> tuple[tuple[str, float], ...] | None:
    """(filter, weight) of the parts of a batch; None for the replay's own two views."""
    if config.data == "all":
        return None
    return (("demo", config.demo_fraction), (OWN_STEPS, 1.0 - config.demo_fraction))
