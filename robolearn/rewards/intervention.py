"""A takeover is the reward (RLIF, Luo et al. 2024, "RLIF: Interactive Imitation Learning as Reinforcement Learning").

    r = -1 for the policy's last own step before a human takes over, else 0

The task's reward is ignored: whether a person found it necessary to step in is all that is said of the policy.

**What ends an episode.** No reward here is above zero, so a terminal state, which is worth zero, is worth as much as
anything can be. Terminals therefore have to be meant. The task's ends are kept, and:

- success is terminal: nobody will have to step in any more, which is worth zero;
- a time-out bootstraps, as everywhere: if it counted as an end, running out of time would be as good as success, and
  a policy would learn to wait;
- a terminal that is no success (an environment that gives up) is worth a takeover: a person would have stepped in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Reward
from robolearn.core.spec import Observation
from robolearn.core.types import Judgement, Kind, TaskSpec


@dataclass(frozen=True)
class Config:
    """What a takeover is worth.

    Attributes:
        reward: of the policy's last own step before a takeover; below zero.
    """

    reward: float = -1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.reward) and self.reward < 0.0):
            raise ConfigError(f"intervention.reward is {self.reward}; expected a number below zero")


def build(config: Config, spec: TaskSpec) -> Reward:
    """The takeover as reward, for any task."""
    return InterventionReward(config)


class InterventionReward:
    """See the module's docstring.

    Attributes:
        decides: False: in a sum of rewards, the others say what ends an episode and what is a success.
    """

    looks_ahead = True
    decides = False

    def __init__(self, config: Config) -> None:
        self._reward = config.reward

    def reset(self) -> None:
        """There is nothing to forget."""

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        """The judgement with a reward for the takeover; its kind and success stay as the task has them."""
        failed = judgement.kind is Kind.TERMINATED and not judgement.success
        return replace(judgement, reward=self._reward if taken_over or failed else 0.0)
