"""A scripted person for simulation: watches a policy, takes over when it goes wrong, lets go when it is well again.

Every step in which hands are off each rule is asked; the first one that holds, and is noticed, makes the person decide
to take over, and ``delay`` steps later hands are on:

    disagree   for ``patience`` steps the proposed action has been further than ``disagree`` from the person's own, or
               than ``agree`` once more than the share ``hurry`` of the episode's steps is over
    stuck      the tip is where it was ``stuck`` steps ago
    late       more than this share of the episode's steps is over
    random     with this probability

The person drives for at least ``hold`` steps, then lets go as soon as the policy proposes what the person would do
(within ``agree``), but not when it is late; after ``longest`` steps in any case.

Distances between actions are root mean squares over the components of normalised actions. Of the takeover rules in the
literature the value-based one is left out (Luo et al. 2024, RLIF: take over when an optimal critic thinks less of the
policy's action than of the expert's): it needs a critic that was trained with the reward which RLIF does without.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Task
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Moment, Skill

_POSES = ("tool_pose", "tcp_pose")


@dataclass(frozen=True)
class Config:
    """What a person is like. A rule set to 0 is off.

    Attributes:
        skill: expert of the task that moves the person's hands.
        insight: expert of the task that the policy is compared with; None: the task's best, as a person sees a mistake
            more surely than they mend it.
        delay: steps from deciding to hands on, in which the policy goes on.
        noise: standard deviation added to each component of the person's action.
        attention: probability of noticing, per step, that a rule holds.
        disagree: root mean square distance of the proposed action beyond which the person disagrees.
        patience: steps in a row of disagreement before it counts.
        hurry: share of the step limit after which the person disagrees from ``agree`` on.
        stuck: steps without motion of the tip; robots that show no pose are never stuck.
        still_mm, still_deg: a tip that is nearer than both to where it was has not moved.
        late: share of the step limit after which the person finishes the episode.
        random: probability of taking over, per step.
        hold: fewest steps of a takeover, unless the episode ends.
        agree: root mean square distance within which policy and person agree again.
        longest: most steps of a takeover; 0 for no limit.
        rest: steps after a takeover in which the person only looks on.
        budget: takeovers that each episode adds to what the person is willing to do; 0 for no limit.
        budget_decay: factor on that, per episode.
    """

    skill: Skill = Skill.INFORMED
    insight: Skill | None = None
    delay: int = 2
    noise: float = 0.1
    attention: float = 0.9
    disagree: float = 0.0
    patience: int = 4
    hurry: float = 0.0
    stuck: int = 8
    still_mm: float = 2.0
    still_deg: float = 2.0
    late: float = 0.6
    random: float = 0.0
    hold: int = 5
    agree: float = 0.35
    longest: int = 0
    rest: int = 3
    budget: float = 0.0
    budget_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("delay", "noise", "disagree", "stuck", "still_mm", "still_deg", "longest", "rest", "budget"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"script.{name} is {value}; expected a number from 0 up")
        for name in ("hurry", "late", "random", "budget_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"script.{name} is {getattr(self, name)}; expected a share within [0, 1]")
        for name in ("patience", "hold"):
            if getattr(self, name) < 1:
                raise ConfigError(f"script.{name} is {getattr(self, name)}; expected at least 1 step")
        if not 0.0 < self.attention <= 1.0:
            raise ConfigError(f"script.attention is {self.attention}; expected a probability within (0, 1]")
        if self.agree < 0.0 or 0.0 < self.disagree < self.agree:
            raise ConfigError(
                f"script.agree is {self.agree}; expected a distance from 0 to script.disagree ({self.disagree}), "
                "else hands would be off and on at once"
            )
        if self.hurry and not self.agree:
            raise ConfigError("script.hurry needs a script.agree above 0: nobody agrees to the last digit")
        if 0 < self.longest < self.hold:
            raise ConfigError(f"script.longest is {self.longest}; expected at least script.hold ({self.hold}), or 0")
        if not (self.disagree or self.hurry or self.stuck or self.late or self.random):
            raise ConfigError(
                "script: all of disagree, hurry, stuck, late and random are 0; this person never takes over"
            )


def build(config: Config, task: Task, rng: np.random.Generator, *, episodes: int = 0) -> ScriptedHuman:
    """A person for a task; see ``ScriptedHuman``."""
    return ScriptedHuman(config, task, rng, episodes=episodes)


class ScriptedHuman:
    """A ``Human``. What happens depends on its generator and what it is shown alone.

    Args:
        config: what the person is like.
        task: whose experts it asks; the same object that the robot's episodes go through.
        rng: its only source of chance.
        episodes: episodes it has watched before, of a run that goes on.

    Attributes:
        takeovers: times hands went on.
        steps: steps driven.
        reason: rule behind the newest takeover; empty before the first.

    Raises:
        ConfigError: the task has no expert of the skill asked for.
    """

    def __init__(self, config: Config, task: Task, rng: np.random.Generator, *, episodes: int = 0) -> None:
        for skill in (config.skill, config.insight):
            if skill is not None and skill not in task.spec.skills:
                have = ", ".join(s.value for s in task.spec.skills) or "none"
                raise ConfigError(
                    f"task '{task.spec.name}' has no {skill.value} expert that could correct (have: {have}); "
                    "give it one, or train with --human none"
                )
        self.config, self._task, self._rng = config, task, rng
        self._insight = config.insight or task.spec.skills[0]
        self.takeovers = self.steps = 0
        self.reason = ""
        self._credit = sum(config.budget * config.budget_decay**k for k in range(episodes))
        self._episodes = episodes
        self._still = _Still(config)
        self._driven: int | None = None  # steps driven in this takeover; None while hands are off
        self._coming: int | None = None  # steps until hands are on; None while nothing is decided
        self._disagreed = self._resting = 0

    @property
    def driving(self) -> bool:
        """Hands are on."""
        return self._driven is not None

    def reset(self) -> None:
        """A new episode begins; hands are off."""
        self._credit += self.config.budget * self.config.budget_decay**self._episodes
        self._episodes += 1
        self._hands_off(rest=0)

    def correct(self, moment: Moment) -> Array | None:
        """(A,) float32 within [-1, 1] while hands are on, else None."""
        config = self.config
        wanted = self._expert(moment, self._insight)
        gap = float(np.sqrt(np.mean(np.square(wanted - moment.proposed))))
        if self._driven is not None and self._lets_go(moment, gap, self._driven):
            self._hands_off(rest=config.rest)
        if self._driven is None:
            self._watch(moment, gap)
        if self._driven is None:
            return None
        self._driven += 1
        self.steps += 1
        own = wanted if config.skill is self._insight else self._expert(moment, config.skill)
        noisy = own + config.noise * self._rng.standard_normal(own.shape)
        return np.asarray(np.clip(noisy, -1.0, 1.0), dtype=np.float32)

    def _watch(self, moment: Moment, gap: float) -> None:
        """One step with hands off: decide to take over, or do what was decided."""
        if self._coming is None:
            reason = self._reason(moment, gap)
            if not reason or self._rng.random() >= self.config.attention:
                return
            self.reason, self._coming = reason, self.config.delay
        else:
            self._coming -= 1
        if self._coming == 0:
            self._driven, self._coming = 0, None
            self._credit -= 1.0
            self.takeovers += 1

    def _reason(self, moment: Moment, gap: float) -> str:
        """Name of the rule that says to take over; empty for none."""
        config = self.config
        bound = config.agree if self._after(config.hurry, moment) else config.disagree
        self._disagreed = self._disagreed + 1 if bound and gap > bound else 0
        still = self._still.look(moment.raw)
        chance = self._rng.random() < config.random
        if self._resting:
            self._resting -= 1
            return ""
        if config.budget and self._credit < 1.0:
            return ""
        rules = {
            "disagree": self._disagreed >= config.patience,
            "stuck": still,
            "late": self._after(config.late, moment),
            "random": chance,
        }
        return next((name for name, holds in rules.items() if holds), "")

    def _after(self, share: float, moment: Moment) -> bool:
        """Whether more than a share of the episode's steps is over; never for 0."""
        return bool(share) and moment.step >= share * self._task.spec.max_steps

    def _lets_go(self, moment: Moment, gap: float, driven: int) -> bool:
        config = self.config
        if driven < config.hold:
            return False
        return 0 < config.longest <= driven or (gap <= config.agree and not self._after(config.late, moment))

    def _hands_off(self, *, rest: int) -> None:
        self._driven = self._coming = None
        self._disagreed, self._resting = 0, rest
        self._still.forget()

    def _expert(self, moment: Moment, skill: Skill) -> Array:
        return np.asarray(self._task.expert(moment.raw, self._rng, skill=skill), dtype=np.float64)


class _Still:
    """Whether the tip is where it was some steps ago; wiggling in one place is no motion."""

    def __init__(self, config: Config) -> None:
        self._steps, self._m, self._rad = config.stuck, 1e-3 * config.still_mm, math.radians(config.still_deg)
        self._trail: deque[Array] = deque(maxlen=config.stuck + 1)

    def forget(self) -> None:
        """Motion counts from now on."""
        self._trail.clear()

    def look(self, raw: Observation) -> bool:
        """Take in where the tip is; True when it is where it was ``stuck`` steps ago."""
        pose = next((raw[key] for key in _POSES if key in raw), None)
        if not self._steps or pose is None:
            return False
        self._trail.append(np.array(pose, dtype=np.float64))
        if len(self._trail) <= self._steps:
            return False
        then, now = self._trail[0], self._trail[-1]
        turned = 2.0 * math.acos(min(1.0, abs(float(then[3:] @ now[3:]))))
        return bool(np.linalg.norm(now[:3] - then[:3]) < self._m and turned < self._rad)
