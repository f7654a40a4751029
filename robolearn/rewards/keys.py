"""A person says whether it worked, by a key or a button.

A label given during an episode ends it at the next step: success is worth 1 and failure ``failure``; both are terminal
states, since the person who labels decides that the attempt is over. A label given between episodes counts for none.
What the task takes for a success does not count. Devices put labels into the reward's ``labels``, from any thread. No
device of this tree does so yet: training with it is refused (``FEED``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Observation
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.rewards.parts.judging import decided
from robolearn.rewards.parts.labels import Labels

FEED = "labels of a person, and no device gives any yet"
"""What it needs while robots move, and nothing gives; a run is refused."""


@dataclass(frozen=True)
class Config:
    """What labels are worth.

    Attributes:
        success: reward of a success.
        failure: reward of a failure; at most 0, the value of its terminal state.
    """

    success: float = 1.0
    failure: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.success) and self.success > 0.0):
            raise ConfigError(f"keys.success is {self.success}; expected a number above zero")
        if not (math.isfinite(self.failure) and self.failure <= 0.0):
            raise ConfigError(f"keys.failure is {self.failure}; expected a number not above zero")


def build(config: Config, spec: TaskSpec) -> KeysReward:
    """A person's labels as reward, for any task."""
    return KeysReward(config, Labels())


class KeysReward:
    """See the module's docstring.

    Attributes:
        labels: where labels are put.
    """

    looks_ahead = False

    def __init__(self, config: Config, labels: Labels) -> None:
        self._config, self.labels = config, labels

    def reset(self) -> None:
        """Labels that came too late for the last episode are forgotten."""
        self.labels.take()

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        """The judgement as the person's label has it."""
        label = self.labels.take()
        if label < 0:
            return replace(judgement, reward=self._config.failure, kind=Kind.TERMINATED, success=False)
        return decided(judgement, label > 0, self._config.success)
