"""The update-to-data limiter: who has to wait for whom."""

from __future__ import annotations

from dataclasses import dataclass

from robolearn.core.errors import ConfigError
from robolearn.run.config import TrainConfig

_SLACK = 8


@dataclass(frozen=True)
class UpdateLimiter:
    """Holds updates per robot step at ``ratio``.

    The learner may never be ahead: ``updates <= ratio * steps``. A simulated robot may be ahead by ``slack`` steps; a
    robot in real time never waits, and the ratio achieved is reported instead.

    Attributes:
        ratio: gradient updates per robot step (UTD).
        slack: steps the actors may be ahead of the learner.
        held: of these, steps that may have been made but not stored yet: a reward that looks ahead keeps one row of
            each robot back until the next step.
        start_steps: robot steps before the first update.
    """

    ratio: float
    slack: int = _SLACK
    start_steps: int = 0
    held: int = 0

    def check(self, per_call: int) -> None:
        """Refuse a learner and a limiter that would wait for each other for ever.

        Raises:
            ConfigError: one learner call is worth more steps than the actors may be ahead.
        """
        ahead = self.slack - self.held
        if per_call > self.ratio * ahead:
            raise ConfigError(
                f"{per_call} updates a call at {self.ratio:g} updates per robot step need the robot {ahead} steps "
                "ahead or more; give the policy's Config a larger utd, or make fewer updates a call"
            )

    def learner_may(self, updates: int, per_call: int, steps: int) -> bool:
        """True when the learner may make ``per_call`` more updates."""
        return steps >= self.start_steps and updates + per_call <= self.ratio * steps

    def actor_may(self, steps: int, updates: int) -> bool:
        """True when the actors may make one more step."""
        return steps < max(self.start_steps, updates / self.ratio) + self.slack

    def target(self, steps: int, per_call: int) -> int:
        """Updates at which a learner with calls of ``per_call`` has caught up with ``steps``."""
        return int(self.ratio * steps) // per_call * per_call


def limiter_of(config: TrainConfig) -> UpdateLimiter:
    """The limiter of a run; a family that only learns from stored data has none to speak of.

    A family on policy learns once from all that its robots did in ``on_policy`` steps: so far they may be ahead. The
    slack grows with the robots whatever the reward: each has a step under way, and may keep one back.
    """
    robots = max(1, config.robots)
    return UpdateLimiter(
        ratio=float(getattr(config.policy, "utd", 1)),
        slack=_SLACK + int(getattr(config.policy, "on_policy", 0)) + robots,
        start_steps=int(getattr(config.policy, "start_steps", 0)),
        held=robots,
    )
