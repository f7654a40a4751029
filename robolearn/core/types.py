"""The data that flows through the system (all frozen)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from robolearn.core.errors import SpecError
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.symmetry import Symmetry


class Kind(IntEnum):
    """What a row of an episode is. A time-out is never a terminal state."""

    FIRST = 0
    MID = 1
    TERMINATED = 2
    TRUNCATED = 3

    @property
    def is_last(self) -> bool:
        """True for the last row of an episode."""
        return self in (Kind.TERMINATED, Kind.TRUNCATED)

    @property
    def bootstraps(self) -> bool:
        """True when the value of this row's observation counts: everything but a terminal state."""
        return self is not Kind.TERMINATED


class Source(IntEnum):
    """Who produced the executed action."""

    POLICY = 0
    HUMAN = 1
    SCRIPT = 2
    SAFETY = 3


class Skill(StrEnum):
    """How good a scripted expert is.

    ``INFORMED`` may use the truth of the simulation and solves the task; ``BLIND`` knows only what a policy could know;
    ``WEAK`` plays an imperfect person: noisier, slower and wrong now and then.
    """

    INFORMED = "informed"
    BLIND = "blind"
    WEAK = "weak"


@dataclass(frozen=True)
class Transition:
    """One row of an episode: an observation, and how the robot came to it.

    An episode of T steps has T+1 rows. Row 0 is ``Kind.FIRST`` and carries only the first observation (its actions
    are zeros, its reward 0). Row t > 0 carries the action taken at row t-1, what it earned, and the observation it
    led to; observations are therefore stored once. A training sample (s, a, r, s') is rows (t-1, t).

    Attributes:
        episode: unique id (hex) of the episode.
        index: row number, from 0.
        observation: policy observation at this row.
        proposed: (A,) normalised action the policy proposed.
        executed: (A,) normalised action that was really executed (after takeover and safety).
        human: (A,) normalised action of the human, or None while hands are off.
        source: who produced ``executed``.
        reward: reward for arriving at this row.
        discount: 0 when this row is terminal, else 1 (a truncation bootstraps).
        kind: FIRST, MID, TERMINATED or TRUNCATED.
        policy_version: version of the weights that acted; -1 for no policy.
        stamp_ns: monotonic time of the observation [ns].
    """

    episode: str
    index: int
    observation: Observation
    proposed: Array
    executed: Array
    human: Array | None
    source: Source
    reward: float
    discount: float
    kind: Kind
    policy_version: int
    stamp_ns: int


@dataclass(frozen=True)
class Batch:
    """Samples for a learner. A batch from a replay is valid until its output ring wraps; copy to keep it.

    Attributes:
        observation, next_observation: key -> (B, *shape).
        action: (B, A) executed actions, normalised to [-1, 1].
        reward: (B,) sum of gamma^k r_k over the n rows of an n-step sample.
        discount: (B,) gamma^(n-1) (so 1 for n = 1), or 0 if the last of those rows is terminal; the learner multiplies
            by its own gamma.
        demo: (B,) bool, True for rows of the demonstration view (demonstrations and interventions).
    """

    observation: Observation
    action: Array
    reward: Array
    discount: Array
    next_observation: Observation
    demo: Array


@dataclass(frozen=True)
class ChunkBatch:
    """Sequences for a policy that is given a history and answers with a chunk of actions.

    Attributes:
        observation: key -> (B, history, *shape); the last one is the present.
        action: (B, chunk, A) executed actions, the first one taken at the present observation.
        observation_pad: (B, history) bool, True before the episode began: its first observation is repeated.
        action_pad: (B, chunk) bool, True after the episode ended: its last action is repeated.
        demo: (B,) bool, True where the first action belongs to the demonstration view.
        action_demo: (B, chunk) bool, True for each action of the demonstration view (demonstrations, corrections).
    """

    observation: Observation
    action: Array
    observation_pad: Array
    action_pad: Array
    demo: Array
    action_demo: Array


@dataclass(frozen=True)
class Rollouts:
    """What one version of a policy did, step after step, for a learner on policy.

    Attributes:
        observation, next_observation: key -> (T, *shape), low-dimensional keys.
        action: (T, A) executed actions, normalised to [-1, 1].
        reward: (T,) of each step.
        discount: (T,) 0 if the step led to a terminal state, else 1 (a time-out bootstraps).
        last: (T,) bool, True where the next one is not the step that followed: the episode ended, other weights or a
            person went on, or nothing more is there yet.
    """

    observation: Observation
    next_observation: Observation
    action: Array
    reward: Array
    discount: Array
    last: Array

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class Moment:
    """What a person sees before deciding whether to take over.

    Attributes:
        step: steps done in the episode.
        raw: observation of the robot.
        observation: observation of the policy.
        proposed: (A,) normalised action that the policy wants to take now.
    """

    step: int
    raw: Observation
    observation: Observation
    proposed: Array


@dataclass(frozen=True)
class Base:
    """A policy that another one starts from, as it was when the run began.

    Attributes:
        algo: its family.
        config: the family's configuration.
        weights: what its learner published.
    """

    algo: str
    config: Any
    weights: Mapping[str, Array]


@dataclass(frozen=True)
class Command:
    """A robot action on its way to a driver.

    Attributes:
        action: (A,) in the robot's units (see ``RobotSpec.action``).
        epoch: epoch of the lease under which it is sent; a driver refuses an older one.
    """

    action: Array
    epoch: int


@dataclass(frozen=True)
class RobotSpec:
    """What a robot shows and takes: observation key -> spec, one action spec, control rate [Hz]."""

    name: str
    observation: dict[str, ArraySpec]
    action: ArraySpec
    control_hz: float


@dataclass(frozen=True)
class TaskSpec:
    """What a policy sees of a task.

    Attributes:
        name: of the task.
        observation: policy observation specs.
        action: normalised action spec.
        max_steps: step limit of an episode.
        control_hz: rate [Hz].
        symmetries: a group of them, without the one that changes nothing; of flat keys only.
        skills: scripted experts the task has, best first; none where nobody can show how it is done.

    Raises:
        SpecError: a symmetry does not fit the specs.
    """

    name: str
    observation: dict[str, ArraySpec]
    action: ArraySpec
    max_steps: int
    control_hz: float
    symmetries: tuple[Symmetry, ...] = ()
    skills: tuple[Skill, ...] = ()

    def __post_init__(self) -> None:
        for symmetry in self.symmetries:
            pairs = [(self.observation.get(key), change) for key, change in symmetry.observation.items()]
            for spec, change in [*pairs, (self.action, symmetry.action)]:
                if spec is None or spec.shape != (len(change.order),):
                    shape = "no such key" if spec is None else f"'{spec.name}' of shape {spec.shape}"
                    raise SpecError(f"task '{self.name}': a symmetry permutes {len(change.order)} elements of {shape}")


@dataclass(frozen=True)
class Judgement:
    """What a task says of a step.

    Attributes:
        reward: sparse task reward.
        kind: MID, TERMINATED or TRUNCATED (the loop adds the step limit).
        success: True when the task is solved.
        info: numbers worth logging (peak force [N], depth [m], ...).
    """

    reward: float
    kind: Kind
    success: bool
    info: dict[str, float] = field(default_factory=dict)
