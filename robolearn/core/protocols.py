"""The seams of the system: what a robot, task, policy, learner and teleoperation device must offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robolearn.core.spec import Array, Observation
from robolearn.core.types import Command, Judgement, Moment, RobotSpec, Skill, TaskSpec

Weights = Mapping[str, Array]
"""Tensor name -> array; the only form in which weights travel or rest (safetensors)."""


@runtime_checkable
class Robot(Protocol):
    """A driver of one robot. Only SafeRobot may hold one."""

    @property
    def spec(self) -> RobotSpec: ...

    def observe(self) -> dict[str, Array]:
        """The current observation, in the units of ``spec``."""

    def apply(self, command: Command) -> Array:
        """Execute one control period's action; return (A,) what was really sent.

        Raises:
            StaleEpochError: the command's epoch is older than one already seen.
        """

    def take(self, epoch: int) -> None:
        """Be driven under the lease of this epoch from now on, by resets as well.

        Raises:
            StaleEpochError: a newer epoch has been seen.
        """

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        """Bring the robot to the start of an episode, by its own safe means.

        Args:
            tcp_pose: (7,) position [m] and unit quaternion (w, x, y, z) in the base frame.
            scene: body name -> (7,) pose; a simulator places these, a real driver takes only an empty mapping.
        """

    def stop(self, reason: str) -> None:
        """Stop motion now and latch; idempotent."""

    def clear(self) -> None:
        """Clear a latched stop. Called only on behalf of a person."""

    def close(self) -> None:
        """Release the hardware; idempotent."""


@runtime_checkable
class Task(Protocol):
    """What is to be done with a robot, and when it is done. Holds the state of the current episode.

    One with a true ``ends_for_good`` cannot go on after a step that it has judged to be the last, even where a reward
    decides otherwise.
    """

    @property
    def spec(self) -> TaskSpec: ...

    def reset(self, robot: Robot, rng: np.random.Generator) -> None:
        """Draw an episode from ``rng`` and bring the robot to its start."""

    def observe(self, raw: Observation) -> dict[str, Array]:
        """Policy observation from a robot observation. Call once per control step: it may keep a history."""

    def command(self, action: Array) -> Array:
        """Robot action (robot units) from a normalised policy action (A,) in [-1, 1]."""

    def normalise(self, robot_action: Array) -> Array:
        """Inverse of ``command`` at the same step: normalised action from an executed robot action."""

    def judge(self, before: Observation, action: Array, after: Observation) -> Judgement:
        """Judge one step from robot observations before and after it."""

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        """Normalised action (A,) of one of the scripted experts in ``spec.skills``."""


@runtime_checkable
class Policy(Protocol):
    """Something that acts."""

    def reset(self) -> None:
        """Forget the previous episode."""

    def act(self, observation: Observation, *, explore: bool) -> Array:
        """Normalised action (A,) for one observation; ``explore`` samples, else greedy."""

    def load(self, weights: Weights) -> None:
        """Take new weights as a whole."""


@runtime_checkable
class Annotator(Protocol):
    """A policy that adds to an observation what its learner will want to know of it later, such as what its frozen
    base would do. It is asked once per control step, before ``act``, and what it adds is stored with the row."""

    def annotate(self, observation: Observation) -> Mapping[str, Array]:
        """Further keys of the observation, as the family's ``stored`` declares them."""


@runtime_checkable
class Learner(Protocol):
    """Something that learns from batches.

    Attributes:
        online: False when it learns from stored data alone and needs no acting robot.
        batch_rows: rows wanted by one ``update`` call.
        updates_per_call: gradient updates (critic updates, for RL) one ``update`` call makes.
        demo_fraction: share of the rows that must come from the demonstration view, interleaved.
        horizon, gamma: n-step return of each row, see ``Batch``.
        history, chunk: frames and actions of each row of a ``ChunkBatch``; with chunk 0 it learns from a ``Batch``.

    It may have a ``mixture``, (filter of steps, weight) pairs, that takes the place of ``demo_fraction``; and
    ``on_policy``, the robot steps after which it gets one ``Rollouts`` of what its newest weights did.
    """

    online: bool
    batch_rows: int
    updates_per_call: int
    demo_fraction: float
    horizon: int
    gamma: float
    history: int
    chunk: int

    def update(self, batch: Any) -> dict[str, float]:
        """Learn from one ``Batch`` or ``ChunkBatch`` of ``batch_rows`` rows, or from ``Rollouts``; return metrics."""

    def snapshot(self) -> Weights:
        """Weights for the policy (copied: later updates do not change them)."""

    def state(self) -> Weights:
        """Everything needed to resume bit-exactly: parameters, optimiser, random state."""

    def restore(self, state: Weights) -> None:
        """Inverse of ``state``; raises ResumeError when the shapes do not fit."""


@runtime_checkable
class Human(Protocol):
    """Somebody who watches the robot and takes over when it goes wrong; scripted here, a takeover of devices there."""

    def reset(self) -> None:
        """A new episode begins; hands are off."""

    def correct(self, moment: Moment) -> Array | None:
        """Asked at every step: (A,) normalised action that replaces the policy's, or None while hands are off."""


@runtime_checkable
class Reward(Protocol):
    """What a step is worth, instead of the task's own reward.

    Attributes:
        looks_ahead: the reward of a step depends on who executes the next one, so that rows are stored one step late.
    """

    looks_ahead: bool

    def reset(self) -> None:
        """A new episode begins."""

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        """The judgement of a step with the reward (and where it decides that, kind and success) put right.

        Args:
            judgement: what the task said.
            after: policy observation the step led to.
            taken_over: the policy took this step and a human takes the next one.
        """


@runtime_checkable
class Device(Protocol):
    """A teleoperation device."""

    def poll(self) -> Array | None:
        """(A,) normalised action of the human, or None while hands are off."""
