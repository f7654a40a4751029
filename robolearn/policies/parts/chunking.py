"""Action chunks: one executor for every policy that plans several actions at once.

A plan made at step t holds the actions for steps t, t+1, ..., t+H-1. It is executed in one of these ways:

- ``receding``: a plan every s = ``execute`` steps, its first s actions are executed (Chi et al. 2023, "Diffusion
  Policy", section III-C). The robot waits for each plan.
- ``naive``: the same, but a plan becomes available d = ``delay`` steps after its observation. Until then the previous
  plan goes on; then its action d follows, wherever the robot is by now.
- ``realtime``: the same, and the new plan is guided by what is left of the previous one, so that they join (Black et
  al. 2025, see ``realtime``).
- ``ensemble``: a plan at every step; the action is the average of what all plans of the last H steps say of the
  present, weighted with exp(-m i), i = 0 for the oldest (Zhao et al. 2023, "ACT", algorithm 2).

The first plan of an episode is always waited for: the robot stands still.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import RobolearnError, SpecError
from robolearn.core.protocols import Weights
from robolearn.core.spec import Array, Observation
from robolearn.core.types import TaskSpec
from robolearn.policies.parts.execution import Execution
from robolearn.policies.parts.realtime import Delays, Guide, Worker, make_guide

__all__ = ["ChunkPolicy", "Execution", "Guide", "Planner"]

_TIMED = 1_000  # durations of plans that are remembered


class Planner(Protocol):
    """A network, or anything else, that plans.

    Attributes:
        horizon: H, actions of a plan.
        history: To, frames it is shown.
    """

    horizon: int
    history: int

    def plan(self, observation: Mapping[str, Array], count: int, *, guide: Guide | None = None) -> Array:
        """``count`` independent plans (count, H, A) float32 in [-1, 1]; ``[:, 0]`` is for the present observation.

        Args:
            observation: key -> (To, *shape), the last one is the present; frames before the episode repeat its first.
            count: plans wanted; always 1 with a guide.
            guide: what the plan should agree with; a planner that cannot be guided raises ``ConfigError``.
        """

    def check(self, weights: Weights) -> None:
        """Raise ResumeError where ``load`` would; nothing is changed."""

    def load(self, weights: Weights) -> None:
        """Take new weights as a whole; raises ResumeError when they belong to another network or task."""


class ChunkPolicy:
    """A ``Policy`` that executes the plans of a planner. It samples whether it explores or not.

    It is driven, in one episode, either with ``act`` or with ``candidates``, once per control step. With ``threaded``
    all plans of ``act`` are made by one thread, one after the other, and the robot waits for the first one of an
    episode and for the first one after ``abandon``.

    Args:
        planner: makes plans.
        spec: the task.
        execution: how plans are executed.
        clock: measures how long plans take.

    Raises:
        ConfigError: ``execution`` does not fit the planner's horizon.
    """

    def __init__(self, planner: Planner, spec: TaskSpec, execution: Execution, *, clock: Clock | None = None) -> None:
        execution.check(planner.horizon)
        self.planner, self.execution = planner, execution
        self._keys, self._actions = tuple(spec.observation), spec.action.size
        self._clock = clock or MonotonicClock()
        self._worker = Worker()
        self._delays = Delays(execution.expected_delay)
        self._durations: deque[float] = deque(maxlen=_TIMED)
        self._starved = 0
        self._weights: Weights | None = None
        self._forget()

    def _forget(self) -> None:
        self._frames: deque[dict[str, Array]] = deque(maxlen=self.planner.history)
        self._now, self._began = 0, 0  # steps of the episode: the present, and the start of the plan in use
        self._plan: Array | None = None
        self._coming: tuple[int, Future[Array]] | None = None  # its start, and the plan that follows
        self._past: deque[Array] = deque(maxlen=self.planner.horizon)
        self._many: Array | None = None
        self._many_at = 0
        self._late = 0

    def reset(self) -> None:
        """Forget the previous episode; a thread that plans is ended."""
        self.close()
        self._forget()

    def abandon(self) -> None:
        """Drop what is planned, since somebody else moved the robot: the next action comes from a new plan.

        A plan that a thread is making is made to its end, as the planner makes one at a time, but never used.
        """
        self._plan = self._coming = self._many = None
        self._past.clear()

    def close(self) -> None:
        """End the thread that plans, if there is one; idempotent."""
        self._worker.close()
        self._coming = None

    def load(self, weights: Weights) -> None:
        """Take new weights as a whole, from the next plan on; the plan in use is executed to its end.

        Raises:
            ResumeError: they belong to another network or task.
        """
        self.planner.check(weights)
        self._weights = weights
        if not self._frames:
            self._take_weights()

    def _take_weights(self) -> None:
        if self._weights is not None:
            weights, self._weights = self._weights, None
            self._past.clear()  # the ensemble does not mix versions
            self.planner.load(weights)

    @property
    def boundary(self) -> bool:
        """The next action comes from a plan that is yet to be made: new weights would take effect at once."""
        if self._many is not None:
            return self._many_at >= self.execution.execute
        if self.execution.mode == "ensemble" or self._plan is None:
            return True
        return self._due and not self.execution.delay and not self.execution.threaded

    @property
    def _due(self) -> bool:
        return self._now - self._began >= self.execution.execute

    def act(self, observation: Observation, *, explore: bool = False) -> Array:
        """Normalised action (A,) float32 in [-1, 1] for one observation.

        Raises:
            RobolearnError: planning in a thread, no plan was ready for a whole horizon after the last one ended.
        """
        if self._many is not None:
            raise RuntimeError("this episode is driven with candidates(); act() in it would see each frame twice")
        self._see(observation)
        action = self._averaged() if self.execution.mode == "ensemble" else self._scheduled()
        self._now += 1
        return action

    def candidates(self, observation: Observation, count: int) -> Array:
        """(count, A): what ``count`` independent plans would do now.

        Plans are sampled together every ``execute`` steps, and their successive actions given out in between, so that
        row i is one plan as long as it lasts.
        """
        if self._now:
            raise RuntimeError("this episode is driven with act(); candidates() in it would see each frame twice")
        self._see(observation)
        if self._many is None or self._many_at >= self.execution.execute or len(self._many) != count:
            self._take_weights()
            self._many, self._many_at = self._planned(self._stacked(), count, None), 0
        self._many_at += 1
        chosen: Array = self._many[:, self._many_at - 1].copy()
        return chosen

    def remaining(self) -> Array:
        """(n, A): the actions that are planned from the next step on, n from 0 to H; without the ensemble's."""
        if self._plan is None:
            return np.zeros((0, self._actions), np.float32)
        return self._plan[self._now - self._began :].copy()

    def timing(self) -> dict[str, float]:
        """How planning went, over the last plans of all episodes.

        ``plan_p50_ms`` and ``plan_p99_ms`` [ms] of one plan (NaN before the first), ``delay_steps`` from an
        observation to the first action of its plan (the longest of the recent ones), ``starved`` actions, in all, that
        had to be repeated because there was no plan.
        """
        durations = self._durations.copy()  # a thread may be adding to it
        p50, p99 = np.percentile(durations, (50, 99)) * 1e3 if durations else (math.nan, math.nan)
        return {
            "plan_p50_ms": float(p50),
            "plan_p99_ms": float(p99),
            "delay_steps": float(self._delays.expected),
            "starved": float(self._starved),
        }

    def _scheduled(self) -> Array:
        """Plans one after the other: receding, naive, realtime."""
        if self._plan is None:
            self._plan, self._began = self._begin(None).result(), self._now
        self._adopt()
        if self._coming is None and self._due:
            self._coming = (self._now, self._begin(self._guide(self._plan)))
            if not self.execution.threaded:
                self._adopt()
        index = self._now - self._began
        if index >= len(self._plan):
            return self._starve(self._plan)
        self._late = 0
        action: Array = self._plan[index].copy()
        return action

    def _adopt(self) -> None:
        """Go over to the plan that follows, if it is there."""
        if self._coming is None:
            return
        began, plan = self._coming
        steps = self._now - began
        if plan.done() if self.execution.threaded else steps >= self.execution.delay:
            self._coming = None
            self._plan, self._began = plan.result(), began
            self._delays.measured(steps)

    def _guide(self, plan: Array) -> Guide | None:
        """What is left of a plan, for the one that follows."""
        execution = self.execution
        if execution.mode != "realtime":
            return None
        delay = self._delays.expected if execution.threaded else execution.delay
        return make_guide(plan, self._now - self._began, delay, execution.guide_limit)

    def _begin(self, guide: Guide | None) -> Future[Array]:
        """Begin a plan from the present observation, with the newest weights."""
        frames, weights = self._stacked(), self._weights
        self._weights = None

        def make() -> Array:
            if weights is not None:
                self.planner.load(weights)
            plan: Array = self._planned(frames, 1, guide)[0]
            return plan

        return self._worker.start(make) if self.execution.threaded else _done(make)

    def _starve(self, plan: Array) -> Array:
        """The last action once more: there is no plan for the present."""
        self._starved += 1
        self._late += 1
        if self._late > len(plan):
            raise RobolearnError(
                f"no plan for {self._late} steps after the last one ended: the planner is too slow for this robot "
                f"({self.timing()}), or hangs"
            )
        action: Array = plan[-1].copy()
        return action

    def _averaged(self) -> Array:
        """A plan at every step, averaged with those before it: ensemble."""
        self._take_weights()
        self._past.append(self._planned(self._stacked(), 1, None)[0])
        count = len(self._past)
        said = np.stack([plan[count - 1 - i] for i, plan in enumerate(self._past)])
        weights = np.exp(-self.execution.ensemble_decay * np.arange(count))
        action: Array = (weights @ said / weights.sum()).astype(np.float32)
        return action

    def _see(self, observation: Observation) -> None:
        frame = {key: np.array(observation[key]) for key in self._keys}
        if not self._frames:
            self._frames.extend([frame] * (self.planner.history - 1))
        self._frames.append(frame)

    def _stacked(self) -> dict[str, Array]:
        return {key: np.stack([frame[key] for frame in self._frames]) for key in self._keys}

    def _planned(self, frames: Mapping[str, Array], count: int, guide: Guide | None) -> Array:
        """Plans (count, H, A) within [-1, 1]."""
        began = self._clock.now_ns()
        plans = np.asarray(self.planner.plan(frames, count, guide=guide), dtype=np.float32)
        self._durations.append((self._clock.now_ns() - began) * 1e-9)
        expected = (count, self.planner.horizon, self._actions)
        if plans.shape != expected:
            raise SpecError(f"planner: expected plans of shape {expected}, got {plans.shape}")
        clipped: Array = np.clip(plans, -1.0, 1.0)
        return clipped


def _done(make: Callable[[], Array]) -> Future[Array]:
    """What ``make`` gives, at once."""
    future: Future[Array] = Future()
    future.set_result(make())
    return future
